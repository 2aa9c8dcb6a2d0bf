"""Live bytes along a stream of events, thinned to what can be seen."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from lmsize.tracing.events import Event
from lmsize.tracing.timeline.colours import in_order

N_BINS = 1000  # about one a pixel; each keeps its highest and its lowest moment
N_LARGEST = 10


@dataclass(frozen=True, slots=True)
class Phase:
    """A run of events of one phase: from `start` up to, not including, `end`."""

    name: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Moment:
    """What is live after an event; `live_bytes` in the order of `Curve.categories`."""

    event_index: int
    live_bytes: tuple[int, ...]
    reserved_bytes: int | None
    module: str
    op: str

    @property
    def total_bytes(self) -> int:
        """Over all categories."""
        return sum(self.live_bytes)


@dataclass(frozen=True, slots=True)
class Curve:
    """The curve: its moments in order, and what lives at the highest.

    Attributes:
        categories: bottom first.
        largest: storages that are live at the peak, largest first.
    """

    categories: tuple[str, ...]
    n_events: int
    phases: tuple[Phase, ...]
    moments: tuple[Moment, ...]
    peak: Moment
    largest: tuple[Event, ...]


def curve(
    events: Sequence[Event],
    *,
    reserved_steps: Sequence[tuple[int, int]] = (),
    n_bins: int = N_BINS,
) -> Curve:
    """Moments of a stream that has at least one event.

    No more than about 2 * n_bins are kept: of each bin of events the highest and the lowest, with
    bins that end where phases do. So every peak that a picture of that width can show is in it
    exactly, the highest of each phase among them. A short stream is kept whole.
    """
    phases = tuple(_phases(events))
    totals = _totals(events)
    peak_index = max(range(len(totals)), key=totals.__getitem__)
    kept: Sequence[int]
    if len(events) <= 2 * n_bins:
        kept = range(len(events))
    else:
        kept = _kept(totals, phases, n_bins=n_bins, also=(*_highest(reserved_steps), peak_index))
    categories = in_order({event.category for event in events})
    moments = tuple(_moments(events, kept, categories, reserved_steps))
    return Curve(
        categories=categories,
        n_events=len(events),
        phases=phases,
        moments=moments,
        peak=next(m for m in moments if m.event_index == peak_index),
        largest=_largest(events[: peak_index + 1]),
    )


def _phases(events: Iterable[Event]) -> Iterator[Phase]:
    start = 0
    for name, run in groupby(event.phase for event in events):
        end = start + sum(1 for _ in run)
        yield Phase(name=name, start=start, end=end)
        start = end


def _totals(events: Iterable[Event]) -> list[int]:
    """Bytes live after each event."""
    totals, now = [], 0
    for event in events:
        now += event.n_bytes if event.kind == "alloc" else -event.n_bytes
        totals.append(now)
    return totals


def _kept(
    totals: list[int], phases: Sequence[Phase], *, n_bins: int, also: Iterable[int]
) -> list[int]:
    width = max(1, len(totals) // n_bins)
    kept = {len(totals) - 1, *also}
    # Streams of very many short phases are cut by width alone.
    cuts = [(p.start, p.end) for p in phases] if len(phases) <= n_bins // 4 else [(0, len(totals))]
    for start, end in cuts:
        for low in range(start, end, width):
            indices = range(low, min(low + width, end))
            kept.add(max(indices, key=totals.__getitem__))
            kept.add(min(indices, key=totals.__getitem__))
    return sorted(kept)


def _highest(reserved_steps: Sequence[tuple[int, int]]) -> Iterator[int]:
    """Index of the event at which most is reserved."""
    if reserved_steps:
        yield max(reserved_steps, key=lambda step: step[1])[0]


def _moments(
    events: Sequence[Event],
    kept: Iterable[int],
    categories: tuple[str, ...],
    reserved_steps: Sequence[tuple[int, int]],
) -> Iterator[Moment]:
    live = dict.fromkeys(categories, 0)
    steps_at = [index for index, _ in reserved_steps]
    done = 0
    for index in kept:
        for event in events[done : index + 1]:
            live[event.category] += event.n_bytes if event.kind == "alloc" else -event.n_bytes
        done = index + 1
        step = bisect_right(steps_at, index)
        last = events[index]
        yield Moment(
            event_index=index,
            live_bytes=tuple(live.values()),
            reserved_bytes=reserved_steps[step - 1][1] if step else None,
            module=last.module,
            op=last.op,
        )


def _largest(events: Iterable[Event]) -> tuple[Event, ...]:
    """The largest storages that are live after the events."""
    live: dict[int, Event] = {}
    for event in events:
        if event.kind == "alloc":
            live[event.storage_id] = event
        else:
            live.pop(event.storage_id, None)
    return tuple(sorted(live.values(), key=lambda event: -event.n_bytes)[:N_LARGEST])
