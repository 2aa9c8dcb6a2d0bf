"""A stream of events through the allocator: what is reserved, and what of it is of use."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from lmsize.errors import InputError
from lmsize.tracing.allocator.blocks import Block
from lmsize.tracing.allocator.caching import CachingAllocator
from lmsize.tracing.allocator.device import Action, Device
from lmsize.tracing.allocator.settings import AllocatorSettings
from lmsize.tracing.events import Event

DEFAULT_SETTINGS = AllocatorSettings()


@dataclass(frozen=True, slots=True)
class BlockState:
    """A block as it stands at the end: live when event_index is not None."""

    address: int
    n_bytes: int
    requested_bytes: int
    event_index: int | None


@dataclass(frozen=True, slots=True)
class SegmentState:
    """A segment as it stands at the end; of an expandable one, an unbroken run of mapped pages."""

    address: int
    n_bytes: int
    stream: int
    is_small: bool
    is_expandable: bool
    blocks: tuple[BlockState, ...]


@dataclass(frozen=True, slots=True)
class Reserved:
    """What the allocator took from the device. "At the peak" is when most was allocated.

    Attributes:
        peak_reserved_bytes: as ``torch.cuda.max_memory_reserved``.
        peak_allocated_bytes: blocks as rounded, as ``torch.cuda.max_memory_allocated``.
        peak_requested_bytes: the same before rounding; its peak may lie elsewhere.
        peak_event_index: the event that brought the peak; -1 if nothing was allocated.
        reserved_at_peak_bytes: reserved then.
        inactive_at_peak_bytes: reserved and not allocated then.
        fragmented_at_peak_bytes: of those, what could not be given back, since something live lies
            in the same segment (or, expandable, the same page).
        n_segments: the most segments held at once; mapped pages do not count.
        n_retries: how often the cache had to be released to serve a request; each costs a
            synchronisation of the device.
        out_of_memory_event_index: the event that could not be served, where the simulation ends;
            None if all were.
        out_of_memory_bytes: what that event asked for.
        reserved_steps: (event index, bytes) whenever what is reserved changed.
        segments: as they stand at the end, by address.
        actions: the history, empty unless it was asked for.
    """

    peak_reserved_bytes: int
    peak_allocated_bytes: int
    peak_requested_bytes: int
    peak_event_index: int
    reserved_at_peak_bytes: int
    inactive_at_peak_bytes: int
    fragmented_at_peak_bytes: int
    n_segments: int
    n_retries: int
    out_of_memory_event_index: int | None
    out_of_memory_bytes: int | None
    reserved_steps: tuple[tuple[int, int], ...]
    segments: tuple[SegmentState, ...]
    actions: tuple[Action, ...]


@dataclass(slots=True)
class _Peak:
    event_index: int = -1
    allocated_bytes: int = 0
    reserved_bytes: int = 0
    fragmented_bytes: int = 0
    requested_bytes: int = 0


def simulated(
    events: Iterable[Event],
    *,
    capacity_bytes: int | None = None,
    expandable_segments: bool | None = None,
    settings: AllocatorSettings = DEFAULT_SETTINGS,
    keeps_history: bool = False,
) -> Reserved:
    """What PyTorch's caching allocator would reserve for a stream of events.

    Args:
        events: in order; those of 0 bytes take no block, as in torch.
        capacity_bytes: what the allocator may take: the accelerator's memory less context and
            libraries. None for no limit.
        expandable_segments: overrides that setting when given.
        settings: the rest of ``PYTORCH_CUDA_ALLOC_CONF``, see `allocator_settings`.
        keeps_history: whether to keep every action, for a snapshot.

    Raises:
        InputError: a storage is made twice, or let go without having been made.
    """
    if expandable_segments is not None:
        settings = replace(settings, expandable_segments=expandable_segments)
    device = Device(capacity_bytes=capacity_bytes, keeps_history=keeps_history)
    allocator = CachingAllocator(settings=settings, device=device)
    live: dict[int, Block | None] = {}
    peak = _Peak()
    exhausting = _run(events, allocator=allocator, live=live, peak=peak)
    return Reserved(
        peak_reserved_bytes=device.peak_reserved_bytes,
        peak_allocated_bytes=peak.allocated_bytes,
        peak_requested_bytes=peak.requested_bytes,
        peak_event_index=peak.event_index,
        reserved_at_peak_bytes=peak.reserved_bytes,
        inactive_at_peak_bytes=peak.reserved_bytes - peak.allocated_bytes,
        fragmented_at_peak_bytes=peak.fragmented_bytes,
        n_segments=device.peak_n_segments,
        n_retries=allocator.n_retries,
        out_of_memory_event_index=None if exhausting is None else device.event_index,
        out_of_memory_bytes=None if exhausting is None else exhausting.n_bytes,
        reserved_steps=tuple(device.reserved_steps),
        segments=_segments(allocator, live),
        actions=tuple(device.actions or ()),
    )


def _run(
    events: Iterable[Event],
    *,
    allocator: CachingAllocator,
    live: dict[int, Block | None],
    peak: _Peak,
) -> Event | None:
    """Serve the events; the one that could not be served, or None."""
    device = allocator.device
    requested = 0
    for index, event in enumerate(events):
        device.event_index = index
        if event.kind == "free":
            block = _let_go(live, event)
            if block is not None:
                requested -= block.requested_bytes
                allocator.free(block)
            continue
        if event.storage_id in live:
            raise InputError("storage_id", event.storage_id, "one that is not live already")
        if event.n_bytes <= 0:
            live[event.storage_id] = None
            continue
        block = allocator.allocated(event.n_bytes, event.stream)
        if block is None:
            return event
        live[event.storage_id] = block
        requested += event.n_bytes
        peak.requested_bytes = max(peak.requested_bytes, requested)
        if allocator.allocated_bytes > peak.allocated_bytes:
            peak.event_index = index
            peak.allocated_bytes = allocator.allocated_bytes
            peak.reserved_bytes = device.reserved_bytes
            peak.fragmented_bytes = allocator.held_bytes
    return None


def _let_go(live: dict[int, Block | None], event: Event) -> Block | None:
    try:
        return live.pop(event.storage_id)
    except KeyError:
        raise InputError("storage_id", event.storage_id, "one that is live") from None


def _segments(
    allocator: CachingAllocator, live: dict[int, Block | None]
) -> tuple[SegmentState, ...]:
    """All segments with their blocks, by address."""
    blocks = [block for block in live.values() if block is not None]
    blocks += [block for pool in allocator.pools.values() for _, _, block in pool.free]
    runs: list[list[Block]] = []
    for block in sorted(blocks, key=lambda block: block.address):
        before = block.preceding
        if before is None or not before.is_mapped:
            runs.append([])
        runs[-1].append(block)
    return tuple(_segment(run) for run in runs)


def _segment(blocks: list[Block]) -> SegmentState:
    first = blocks[0]
    return SegmentState(
        address=first.address,
        n_bytes=sum(block.n_bytes for block in blocks),
        stream=first.pool.stream,
        is_small=first.pool.is_small,
        is_expandable=first.page_bytes > 0,
        blocks=tuple(
            BlockState(
                address=block.address,
                n_bytes=block.n_bytes,
                requested_bytes=block.requested_bytes if block.is_live else 0,
                event_index=block.event_index if block.is_live else None,
            )
            for block in blocks
        ),
    )
