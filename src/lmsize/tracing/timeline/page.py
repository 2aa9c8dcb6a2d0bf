"""The page: one file, no outside scripts, styles or fonts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from importlib.resources import files
from string import Template

from lmsize.quantity import format_bytes
from lmsize.tracing.timeline.colours import colours
from lmsize.tracing.timeline.curve import Curve
from lmsize.tracing.timeline.plot import LEFT, PLOT_WIDTH, TOP, is_near, svg

TEMPLATE = "page.html"


def page(drawn: Curve, *, label: str, capacity_bytes: int | None) -> str:
    """The whole document as text."""
    template = Template(files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8"))
    return template.substitute(
        label=escape(label),
        said=escape(sentence(drawn, capacity_bytes=capacity_bytes)),
        legend="\n".join(_legend(drawn)),
        plot=svg(drawn, capacity_bytes=capacity_bytes),
        largest="\n".join(_largest(drawn)),
        largest_title=_largest_title(drawn),
        thinned=_thinned(drawn),
        data=_script_data(drawn),
    )


def sentence(drawn: Curve, *, capacity_bytes: int | None) -> str:
    """The picture in words."""
    peak = drawn.peak
    phase = next(p.name for p in drawn.phases if p.start <= peak.event_index < p.end)
    text = f"Peak {format_bytes(peak.total_bytes)} in {phase or 'the step'}, at event"
    text += f" {peak.event_index + 1:,} of {drawn.n_events:,}."
    reserved = max((moment.reserved_bytes or 0 for moment in drawn.moments), default=0)
    if reserved:
        text += f" The caching allocator reserves up to {format_bytes(reserved)}."
    if capacity_bytes is not None and not is_near(drawn, capacity_bytes):
        text += f" The accelerator has {format_bytes(capacity_bytes)}."
    return text


def _legend(drawn: Curve) -> Iterator[str]:
    """One row a category, as they are stacked: topmost first."""
    colour, total = colours(drawn.categories), drawn.peak.total_bytes
    most = [max(column) for column in zip(*(m.live_bytes for m in drawn.moments), strict=True)]
    rows = list(zip(drawn.categories, drawn.peak.live_bytes, most, strict=True))
    for category, n_bytes, highest in reversed(rows):
        yield (
            f'<tr><td><i style="background:{colour[category]}"></i>{escape(_worded(category))}</td>'
            f"<td>{format_bytes(n_bytes)}</td><td>{n_bytes / total:.1%}</td>"
            f"<td>{format_bytes(highest)}</td></tr>"
        )


def _largest_title(drawn: Curve) -> str:
    held = sum(event.n_bytes for event in drawn.largest)
    return (
        f"The {len(drawn.largest)} largest of what is live at the peak: "
        f"{held / drawn.peak.total_bytes:.1%} of it"
    )


def _largest(drawn: Curve) -> Iterator[str]:
    colour = colours(drawn.categories)
    for event in drawn.largest:
        yield (
            f'<tr><td>{format_bytes(event.n_bytes)}</td><td><i style="background:'
            f'{colour[event.category]}"></i>{escape(_worded(event.category))}</td>'
            f"<td>{_breakable(event.module)}</td><td>{_breakable(event.op)}</td>"
            f"<td>{escape(event.phase)}</td></tr>"
        )


def _thinned(drawn: Curve) -> str:
    if len(drawn.moments) == drawn.n_events:
        return ""
    return (
        f" Drawn from {len(drawn.moments):,} of {drawn.n_events:,} events: "
        "the highest and the lowest of every interval."
    )


def _script_data(drawn: Curve) -> str:
    """What the pointer shows, as JSON that can stand inside a script element."""
    names = {name: i for i, name in enumerate(dict.fromkeys(_names(drawn)))}
    content = {
        "left": LEFT,
        "top": TOP,
        "width": PLOT_WIDTH,
        "n": drawn.n_events,
        "categories": [_worded(category) for category in drawn.categories],
        "colours": [colours(drawn.categories)[category] for category in drawn.categories],
        "phases": [[phase.start, phase.name] for phase in drawn.phases],
        "at": [moment.event_index for moment in drawn.moments],
        "live": list(zip(*(moment.live_bytes for moment in drawn.moments), strict=True)),
        "reserved": [moment.reserved_bytes for moment in drawn.moments],
        "names": list(names),
        "module": [names[moment.module] for moment in drawn.moments],
        "op": [names[moment.op] for moment in drawn.moments],
    }
    text = json.dumps(content, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _names(drawn: Curve) -> Iterator[str]:
    for moment in drawn.moments:
        yield moment.module
        yield moment.op


def _breakable(path: str) -> str:
    """A path that a narrow column may break after its dots."""
    return escape(path).replace(".", ".<wbr>")


def _worded(category: str) -> str:
    return category.replace("_", " ") or "uncategorised"
