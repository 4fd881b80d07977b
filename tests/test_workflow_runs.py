"""Workflows do what plain Python says they do: here, in workers, with a broker."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from flows import Recipe, counted, is_right, recipes, tried
from hypothesis import given, settings


@given(recipe=recipes())
@settings(max_examples=200)
def test_apply_is_what_plain_python_does(recipe: Recipe, tmp_path_factory: Any) -> None:
    folder = Path(tmp_path_factory.mktemp("calls"))
    oracle = tried(recipe, folder, lambda workflow: workflow.apply())
    assert is_right(oracle, counted(folder)), (oracle.sure, oracle.perhaps, counted(folder))
    shutil.rmtree(folder)
