"""The curve as an image, drawn by matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lmsize.errors import ExtraError
from lmsize.quantity import format_bytes
from lmsize.tracing.timeline.colours import colours
from lmsize.tracing.timeline.curve import Curve
from lmsize.tracing.timeline.page import sentence
from lmsize.tracing.timeline.plot import is_near, ticks, top_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INCHES = (12.0, 6.0)
DOTS_PER_INCH = 150


def write_image(path: Path, drawn: Curve, *, label: str, capacity_bytes: int | None) -> None:
    """Write a ``.png`` or ``.svg``, as the suffix says.

    Raises:
        ExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ExtraError("matplotlib", f"--timeline {path.name}", extra="plot") from None
    figure = Figure(figsize=INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.add_subplot()
    _areas(axes, drawn)
    _marks(axes, drawn, capacity_bytes=capacity_bytes)
    # Names are the user's: a $ in one is not the start of a formula.
    title = f"{label}\n{sentence(drawn, capacity_bytes=capacity_bytes)}"
    axes.set_title(title, loc="left", fontsize=11, parse_math=False)
    axes.legend(loc="upper left", bbox_to_anchor=(1.005, 1), frameon=False, reverse=True)
    figure.savefig(path)


def _areas(axes: Axes, drawn: Curve) -> None:
    colour = colours(drawn.categories)
    at = [*(moment.event_index for moment in drawn.moments), drawn.n_events]
    kept = [*drawn.moments, drawn.moments[-1]]
    layers = list(zip(*(moment.live_bytes for moment in kept), strict=True))
    names = [
        f"{category.replace('_', ' ')}  {format_bytes(n_bytes)}"
        for category, n_bytes in zip(drawn.categories, drawn.peak.live_bytes, strict=True)
    ]
    fills = [colour[category] for category in drawn.categories]
    labels = [name.replace("$", r"\$") for name in names]
    areas = axes.stackplot(at, *layers, labels=labels, colors=fills, step="post")
    for area, fill in zip(areas, fills, strict=True):
        area.set(edgecolor=fill, linewidth=0.6)  # keeps what lasts one event visible
    reserved = [moment.reserved_bytes for moment in kept]
    if any(n_bytes is not None for n_bytes in reserved):
        held = [n_bytes or 0 for n_bytes in reserved]
        axes.step(at, held, where="post", color="black", linewidth=1, label="reserved")


def _marks(axes: Axes, drawn: Curve, *, capacity_bytes: int | None) -> None:
    top = top_bytes(drawn, capacity_bytes)
    axes.set_xlim(0, drawn.n_events)
    axes.set_ylim(0, top)
    axes.set_yticks(ticks(top), [format_bytes(tick) if tick else "0" for tick in ticks(top)])
    axes.set_xlabel(f"{drawn.n_events:,} allocations and releases, in order")
    axes.spines[["top", "right"]].set_visible(False)
    peak = drawn.peak
    axes.vlines(peak.event_index, peak.total_bytes, top, color="black", linewidth=1)
    axes.plot([peak.event_index], [peak.total_bytes], "o", color="black", markersize=5)
    if capacity_bytes is not None and is_near(drawn, capacity_bytes):
        axes.axhline(capacity_bytes, color="black", linewidth=1, linestyle="--", label="capacity")
    _phases(axes, drawn)


def _phases(axes: Axes, drawn: Curve) -> None:
    """Their names below the axis, where there is room, and lines between them."""
    for phase in drawn.phases[1:]:
        axes.axvline(phase.start, color="grey", linewidth=0.7, linestyle=":")
    named = [p for p in drawn.phases if p.end - p.start > drawn.n_events / 15]
    middles = [(phase.start + phase.end) / 2 for phase in named]
    axes.set_xticks(middles, [phase.name.replace("$", r"\$") for phase in named])
    axes.tick_params(axis="x", length=0)
