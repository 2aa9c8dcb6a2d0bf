"""The curve as inline SVG: readable without scripts, on paper, in light and dark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import accumulate

from lmsize.quantity import format_bytes
from lmsize.tracing.timeline.colours import colours
from lmsize.tracing.timeline.curve import Curve, Moment, Phase

WIDTH, HEIGHT = 1160, 460
LEFT, RIGHT, TOP, BOTTOM = 74, 12, 30, 48  # margins around the plot
PLOT_WIDTH, PLOT_HEIGHT = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
FINE = 10  # paths are whole numbers in tenths of a unit
NEAR_FRAC = 1.5  # a capacity above so many peaks would flatten the curve and is not drawn
CHAR_WIDTH = 6.6  # of a label, about


@dataclass(frozen=True, slots=True)
class Scale:
    """Event indices and bytes to units of the plot."""

    n_events: int
    top_bytes: float

    def x(self, event_index: float) -> float:
        """Units from the left edge of the plot."""
        return event_index / self.n_events * PLOT_WIDTH

    def y(self, n_bytes: float) -> float:
        """Units from the top edge of the plot."""
        return PLOT_HEIGHT * (1 - n_bytes / self.top_bytes)


def svg(drawn: Curve, *, capacity_bytes: int | None) -> str:
    """The picture, with classes that the page's style sheet gives colours to."""
    near = is_near(drawn, capacity_bytes)
    scale = Scale(n_events=drawn.n_events, top_bytes=top_bytes(drawn, capacity_bytes))
    parts = [
        f'<svg id="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="said">',
        f'<g transform="translate({LEFT} {TOP})">',
        *_grid(scale),
        f'<clipPath id="inside"><rect width="{PLOT_WIDTH}" height="{PLOT_HEIGHT}"/></clipPath>',
        f'<g clip-path="url(#inside)"><g transform="scale({1 / FINE})">',
        *_layers(drawn, scale),
        "</g></g>",
        *_reserved(drawn, scale),
        *_phase_marks(drawn.phases, scale),
    ]
    if capacity_bytes is not None and near:
        text = f"capacity {format_bytes(capacity_bytes)}"
        parts += _level(scale.y(capacity_bytes), text, "capacity")
    parts += [*_peak(drawn.peak, scale), *_cursor(), "</g>", "</svg>"]
    return "\n".join(parts)


def top_bytes(drawn: Curve, capacity_bytes: int | None) -> float:
    """The upper end of the axis, a little above all that is drawn."""
    highest = max(drawn.peak.total_bytes, *(moment.reserved_bytes or 0 for moment in drawn.moments))
    if capacity_bytes is not None and is_near(drawn, capacity_bytes):
        highest = max(highest, capacity_bytes)
    return highest * 1.04


def is_near(drawn: Curve, capacity_bytes: int | None) -> bool:
    """Whether the capacity is near enough to be drawn."""
    return capacity_bytes is not None and capacity_bytes <= NEAR_FRAC * drawn.peak.total_bytes


def ticks(top: float) -> list[int]:
    """About five round numbers of bytes up to the top of the axis."""
    unit = 1024 ** max(0, (int(top).bit_length() - 1) // 10)
    rough = top / unit / 6
    steps = (s * 10**p for p in range(-2, 4) for s in (1, 2, 2.5, 5))
    step = max(next((s for s in steps if s >= rough), rough), 1 / unit)
    return [int(n * step * unit) for n in range(int(top / (step * unit)) + 1)]


def _grid(scale: Scale) -> Iterator[str]:
    for tick in ticks(scale.top_bytes):
        y = f"{scale.y(tick):.1f}"
        yield f'<line class="grid" x2="{PLOT_WIDTH}" y1="{y}" y2="{y}"/>'
        text = format_bytes(tick) if tick else "0"
        yield f'<text class="tick" x="-8" y="{y}" dy="0.32em">{text}</text>'


def _layers(drawn: Curve, scale: Scale) -> Iterator[str]:
    """One area a category, from the axis to its upper edge, the topmost first."""
    colour = colours(drawn.categories)
    edges = [list(accumulate(moment.live_bytes)) for moment in drawn.moments]
    for i, category in reversed(list(enumerate(drawn.categories))):
        steps = _steps(drawn.moments, [edge[i] for edge in edges], scale)
        path = f"M0 {PLOT_HEIGHT * FINE}{steps}H{PLOT_WIDTH * FINE}V{PLOT_HEIGHT * FINE}Z"
        # The stroke keeps what lasts one event visible.
        paint = f'fill="{colour[category]}" stroke="{colour[category]}"'
        yield f'<path class="layer" {paint} d="{path}"/>'


def _reserved(drawn: Curve, scale: Scale) -> Iterator[str]:
    reserved = [moment.reserved_bytes or 0 for moment in drawn.moments]
    if not any(reserved):
        return
    steps = _steps(drawn.moments, reserved, scale)
    yield f'<g transform="scale({1 / FINE})">'
    yield f'<path class="reserved" d="M0 {PLOT_HEIGHT * FINE}{steps}H{PLOT_WIDTH * FINE}"/></g>'
    y = scale.y(reserved[-1]) - 5
    yield f'<text class="reserved-text" x="{PLOT_WIDTH - 4}" y="{y:.1f}">reserved</text>'


def _steps(moments: Sequence[Moment], values: Sequence[int], scale: Scale) -> str:
    """A path that holds each value until the next moment."""
    parts, last = [], None
    for moment, value in zip(moments, values, strict=True):
        y = round(scale.y(value) * FINE)
        if y != last:
            parts.append(f"H{round(scale.x(moment.event_index) * FINE)}V{y}")
            last = y
    return "".join(parts)


def _phase_marks(phases: Sequence[Phase], scale: Scale) -> Iterator[str]:
    """A strip below the axis; names where there is room for them."""
    for number, phase in enumerate(phases):
        x, end = scale.x(phase.start), scale.x(phase.end)
        name = escape(phase.name)
        yield f'<rect class="phase p{number % 2}" x="{x:.1f}" y="{PLOT_HEIGHT + 6}" width="{end - x:.1f}" height="20"><title>{name}</title></rect>'
        if number:
            yield f'<line class="edge" x1="{x:.1f}" x2="{x:.1f}" y2="{PLOT_HEIGHT + 26}"/>'
        if end - x > len(phase.name) * CHAR_WIDTH + 6:
            yield f'<text class="name" x="{(x + end) / 2:.1f}" y="{PLOT_HEIGHT + 20}">{name}</text>'


def _level(y: float, text: str, kind: str) -> Iterator[str]:
    yield f'<line class="{kind}" x2="{PLOT_WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>'
    yield f'<text class="{kind}-text" x="4" y="{y - 5:.1f}">{text}</text>'


def _peak(peak: Moment, scale: Scale) -> Iterator[str]:
    x, y = scale.x(peak.event_index), scale.y(peak.total_bytes)
    side, anchor = (-8, "end") if x > PLOT_WIDTH / 2 else (8, "start")
    yield f'<line class="peak" x1="{x:.1f}" x2="{x:.1f}" y1="-12" y2="{y:.1f}"/>'
    yield f'<circle class="peak-dot" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
    text = f"peak {format_bytes(peak.total_bytes)}"
    yield f'<text class="peak-text" x="{x + side:.1f}" y="-14" text-anchor="{anchor}">{text}</text>'


def _cursor() -> Iterator[str]:
    yield f'<line id="cursor" class="cursor" y2="{PLOT_HEIGHT}" visibility="hidden"/>'
    yield f'<rect id="touch" width="{PLOT_WIDTH}" height="{PLOT_HEIGHT}" fill="transparent"/>'
