"""The command line, at the root of the repository: `python -m bench [profile | pipeline | scaling | workflows]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from bench import pipeline, plot, profile, scaling, table, workflows
from bench.contestants import CONTESTANTS, why_absent
from bench.questions import NAMES
from bench.record import Record, machine
from bench.rounds import ask

if TYPE_CHECKING:
    from collections.abc import Sequence

PIPED_WIDTH = 110
"""Characters a line where the output is no terminal."""


def _some_of(known: Sequence[str]) -> type[argparse.Action]:
    """Make an argparse action for a comma-separated choice, kept in the order of `known`."""

    class Choose(argparse.Action):
        def __call__(
            self,
            parser: argparse.ArgumentParser,
            namespace: argparse.Namespace,
            values: object,
            option_string: str | None = None,
        ) -> None:
            wanted = str(values).split(",")
            unknown = sorted(set(wanted) - set(known))
            if unknown:
                parser.error(f"{option_string}: unknown {', '.join(unknown)}; there are {', '.join(known)}")
            setattr(namespace, self.dest, [name for name in known if name in wanted])

    return Choose


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("compare", "profile"), default="compare")
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run, and roughly how fast")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of all contestants (default: 5)")
    parser.add_argument(
        "--only",
        action=_some_of(NAMES),
        default=list(NAMES),
        metavar="A,B",
        help="questions: " + ", ".join(NAMES),
    )
    parser.add_argument(
        "--contestants",
        action=_some_of(CONTESTANTS),
        default=list(CONTESTANTS),
        metavar="A,B",
        help=f"{', '.join(CONTESTANTS)} (profile takes the first)",
    )
    parser.add_argument("--plot", type=Path, metavar="DIR", help="write bench.png and bench.svg there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument(
        "--from", type=Path, metavar="FILE", dest="source", help="show a run that --json wrote"
    )
    return parser


def _compare(options: argparse.Namespace) -> Record:
    absent = {name: why for name in options.contestants if (why := why_absent(name)) is not None}
    present = [name for name in options.contestants if name not in absent]
    about = machine()
    with Console(stderr=True).status("starting") as status:
        answers, failures = ask(
            options.only, present, options.rounds, quick=options.quick, progress=status.update
        )
    return Record(answers, tuple(present), options.rounds, options.quick, absent, failures, about)


def main() -> int:
    """Measure or load, then print, write and draw; 1 if a measurement failed."""
    if sys.argv[1:2] == ["pipeline"]:
        return pipeline.main(sys.argv[2:])
    if sys.argv[1:2] == ["scaling"]:
        return scaling.main(sys.argv[2:])
    if sys.argv[1:2] == ["workflows"]:
        return workflows.main(sys.argv[2:])
    parser = _parser()
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds: at least 1")
    console = Console()
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    if options.what == "profile":
        return profile.run(options.contestants[0], console, quick=options.quick)
    record = Record.read(options.source) if options.source else _compare(options)
    table.show(record, console)
    if options.json:
        record.write(options.json)
    if options.plot:
        for path in plot.save(record, options.plot):
            console.print(f"wrote {path}")
    return 1 if record.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
