"""The pipeline as the command line runs it: rendered results, batches with indexes of their own, signals."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import Any

from zmqtasks import joins
from zmqtasks.core.gather import Piece
from zmqtasks.errors import NoWorkers, TargetFailed, ZmqTasksError
from zmqtasks.feeder import Feeder
from zmqtasks.nodes.ventilator import Far
from zmqtasks.nodes.window import Unheard
from zmqtasks.outcome import error_of
from zmqtasks.payload import load, load_error
from zmqtasks.pipeline import Ventilator
"""
"""
