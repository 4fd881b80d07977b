"""The run as a table on the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from bench.contestants import REFERENCE, is_asked, is_peer
from bench.questions import Figure, question

if TYPE_CHECKING:
    from rich.console import Console

    from bench.record import Record

COLUMNS_MAX = 7
"""Contestants that a table of 110 characters has room for."""

WHOLE_FROM = 100
LOAD_MAX = 0.5
"""The load average of a minute from which on the machine was too busy with something else to be measured."""


def number(value: float) -> str:
    """Three significant digits, thousands separated: 1,234,567 becomes 1,230,000."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if abs(rounded) >= WHOLE_FROM else f"{rounded:.3g}"


def compact(value: float) -> str:
    """Three significant digits, from 10,000 on with k or M: 1,234,567 becomes 1.23M."""
    for letter, size, least in (("M", 1e6, 1e6), ("k", 1e3, 1e4)):
        if abs(value) >= least:
            return number(value / size) + letter
    return number(value)


def cell(record: Record, name: str, contestant: str, figure: Figure) -> str:
    """Median, how many times better than ProcessPoolExecutor, and the range over the rounds."""
    values = record.values(name, contestant, figure.key)
    median = record.median(name, contestant, figure.key)
    if median is None:
        return "[red]failed[/]" if f"{name} {contestant}" in record.failures else "-"
    text = f"[bold]{compact(median)}[/]"
    ratio = record.ratio(name, contestant, figure)
    if ratio is not None and contestant != REFERENCE:
        text += f"  [cyan]{ratio:.3g}\N{NO-BREAK SPACE}x[/]"
    if len(values) > 1:
        text += f"\n[dim]{compact(min(values))} .. {compact(max(values))}[/]"
    return text


def heading(contestant: str) -> str:
    """Break a name where a narrow column may: `raw-ROUTER` after the hyphen."""
    return re.sub(r"(?<=[.+-])|(?=Executor)", "\n", contestant)


def tables(record: Record) -> Iterator[Table]:
    """Yield one table, or if it were too wide one of the pools, and one of the peers beside ours."""
    rounds = "one round" if record.rounds == 1 else f"medians of {record.rounds} rounds"
    everybody, questions = record.contestants, list(record.answers)
    pools = [name for name in everybody if not is_peer(name)]
    peers = [name for name in everybody if is_peer(name)]
    if len(everybody) <= COLUMNS_MAX or not peers:
        yield _table(record, everybody, questions, f"zmqtasks and others, {rounds}")
        return
    yield _table(record, pools, questions, f"zmqtasks and other pools, {rounds}")
    ours = [name for name in pools if name == REFERENCE or name.startswith("zmqtasks")]
    questions = [name for name in questions if any(is_asked(peer, name) for peer in peers)]
    if questions:
        yield _table(record, [*ours, *peers], questions, f"zmqtasks and other systems, {rounds}")


def _table(record: Record, contestants: Sequence[str], questions: Sequence[str], title: str) -> Table:
    """Make a table: a row a figure, a column a contestant."""
    table = Table(title=title, show_lines=True)
    table.add_column("figure")
    for contestant in contestants:
        table.add_column(heading(contestant), justify="right")
    for name in questions:
        for figure in question(name).figures:
            aim = "more is better" if figure.more_is_better else "less is better"
            cells = (cell(record, name, contestant, figure) for contestant in contestants)
            table.add_row(f"{figure.label}, {figure.unit}\n[dim]{aim}[/]", *cells)
    return table


def show(record: Record, console: Console) -> None:
    """Print the tables, then what a reader should know."""
    about = record.machine
    packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    names = list(record.answers)
    for table in tables(record):
        console.print(table)
    console.print(
        f"[cyan]N x[/]: N times better than {REFERENCE} in this run (1 is equal, below 1 is worse)."
    )
    console.print(f"{about['cpus']} CPUs, {about['system']}, {about['python']}; {packages}.", highlight=False)
    if about.get("load_before", 0.0) > LOAD_MAX:
        console.print(
            f"[yellow]The machine was busy before (load {about['load_before']:.1f}): do not trust this.[/]"
        )
    if record.quick:
        console.print("[yellow]--quick: a tenth of the sizes below or so; not figures to quote.[/]")
    for name in names:
        console.print(f"[bold]{question(name).title}[/]: {escape(question(name).note)}", highlight=False)
    for contestant, reason in record.absent.items():
        console.print(f"[yellow]{contestant} is absent[/]: {escape(reason)}", highlight=False)
    for key, reason in record.failures.items():
        console.print(f"[red]{key} failed[/]: {escape(reason)}", highlight=False)
