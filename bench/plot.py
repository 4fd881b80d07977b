"""The run as one picture: a panel a figure, a bar a contestant."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from bench.contestants import REFERENCE
from bench.questions import Figure, question
from bench.table import compact

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from bench.record import Record

COLUMNS = 3
LOG_FROM = 12.0
"""The ratio of the longest to the shortest bar from which on a panel's axis is logarithmic."""

INK, QUIET, GRID = "#1f2933", "#616e7c", "#e4e7eb"
ACCENT, OTHERS = "#d9480f", "#9fb3c8"


def save(record: Record, folder: Path) -> list[Path]:
    """Write `bench.png` (200 dots an inch) and `bench.svg` into the folder; the paths written."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    folder.mkdir(parents=True, exist_ok=True)
    panels = [(name, shown) for name in record.answers for shown in question(name).figures if shown.plotted]
    columns = max(1, min(COLUMNS, len(panels)))
    rows = max(1, math.ceil(len(panels) / columns))
    style: Any = {"font.family": "sans-serif", "font.size": 9, "text.color": INK, "svg.hashsalt": "zmqtasks"}
    with plt.rc_context(style):
        size = (1.2 + 2.9 * columns, 0.5 + rows * (0.85 + 0.25 * len(record.contestants)))
        figure, axes = plt.subplots(
            rows,
            columns,
            figsize=size,
            squeeze=False,
            layout=ConstrainedLayoutEngine(hspace=0.08, wspace=0.05),
        )
        for place, (spot, (name, shown)) in enumerate(zip(axes.flat, panels, strict=False)):
            _panel(spot, record, name, shown, named=place % columns == 0)
        for spot in axes.flat[len(panels) :]:
            spot.axis("off")
        about = record.machine
        rounds = "one round" if record.rounds == 1 else f"medians of {record.rounds} rounds"
        quick = "; small sizes (--quick), not to be quoted" if record.quick else ""
        figure.supxlabel(
            f"Two workers on {about['cpus']} CPUs, {about['python']}; {rounds}, contestants alternating"
            f"{quick}. N x: N times better than {REFERENCE}.",
            color=QUIET,
            fontsize=8,
        )
        written = [folder / "bench.png", folder / "bench.svg"]
        figure.savefig(written[0], dpi=200, facecolor="white")
        figure.savefig(written[1], facecolor="white", metadata={"Date": None})
        plt.close(figure)
    return written


def _panel(axes: Axes, record: Record, name: str, figure: Figure, *, named: bool) -> None:
    """One figure: bars in the contestants' order, ours in colour, each with its value and ratio."""
    medians = {who: record.median(name, who, figure.key) for who in record.contestants}
    lengths = {who: value for who, value in medians.items() if value is not None and 0 < value < math.inf}
    whos = list(record.contestants)
    axes.set_yticks(range(len(whos)), whos if named else [""] * len(whos))
    axes.set_ylim(len(whos) - 0.4, -0.6)
    axes.set_title(figure.label[0].upper() + figure.label[1:], loc="left", fontsize=10, fontweight="bold")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(length=0, colors=QUIET)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    longest, shortest = max(lengths.values(), default=1.0), min(lengths.values(), default=1.0)
    logarithmic = longest / shortest >= LOG_FROM
    if logarithmic:
        left = 10 ** math.floor(math.log10(shortest / 1.5))
        axes.set_xscale("log")
        axes.set_xlim(left, longest * (longest / left) ** 0.7)
        axes.minorticks_off()
    else:
        axes.set_xlim(0, longest * 1.7)
        axes.locator_params(axis="x", nbins=4)
    axes.xaxis.set_major_formatter(lambda value, _: compact(value))
    aim = "longer" if figure.more_is_better else "shorter"
    axes.set_xlabel(f"{figure.unit}, {'log scale, ' * logarithmic}{aim} is better", color=QUIET, fontsize=8)
    for place, who in enumerate(whos):
        own = who == "zmqtasks"
        length = lengths.get(who)
        if length is None:
            axes.text(
                0.02, place, "no figure", transform=axes.get_yaxis_transform(), va="center", color=QUIET
            )
            continue
        axes.barh(place, length, height=0.62, color=ACCENT if own else OTHERS)
        ratio = record.ratio(name, who, figure)
        times = f"  ({ratio:.2g} x)" if ratio is not None and who != REFERENCE else ""
        axes.annotate(
            compact(length) + times,
            (length, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            fontweight="bold" if own else "normal",
            color=INK,
        )
