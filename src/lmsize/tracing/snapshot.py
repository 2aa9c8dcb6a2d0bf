"""The simulated history in the format of ``torch.cuda.memory._snapshot()``.

The file can be dropped on https://docs.pytorch.org/memory_viz, or read with
``torch.cuda._memory_viz``. In place of a Python stack every entry carries two frames: the operator
in its module, and the category in its phase. Time is the index of the event, in place of
microseconds.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from lmsize.tracing.allocator.settings import AllocatorSettings
from lmsize.tracing.allocator.simulation import (
    DEFAULT_SETTINGS,
    BlockState,
    Reserved,
    SegmentState,
    simulated,
)
from lmsize.tracing.events import Event

# Newer protocols use opcodes that the viewer does not read.
PICKLE_PROTOCOL = 4
# The viewer colours by category, and must then find this one.
NO_CATEGORY = "unknown"
SEGMENT_KINDS = {False: "large", True: "small"}

Frames = list[dict[str, Any]]


def write_snapshot(
    path: Path,
    events: Sequence[Event],
    *,
    capacity_bytes: int | None = None,
    settings: AllocatorSettings = DEFAULT_SETTINGS,
) -> None:
    """Write the pickle that PyTorch's memory viewer reads.

    Raises:
        OSError: the file cannot be written.
    """
    content = snapshot(events, capacity_bytes=capacity_bytes, settings=settings)
    path.write_bytes(pickle.dumps(content, protocol=PICKLE_PROTOCOL))


def snapshot(
    events: Sequence[Event],
    *,
    capacity_bytes: int | None = None,
    settings: AllocatorSettings = DEFAULT_SETTINGS,
) -> dict[str, Any]:
    """Segments as they stand at the end, and all that led there, of one device."""
    reserved = simulated(
        events, capacity_bytes=capacity_bytes, settings=settings, keeps_history=True
    )
    frames = _shared_frames()
    return {
        "segments": [_segment(state, events, frames) for state in reserved.segments],
        "device_traces": [_entries(reserved, events, frames, capacity_bytes)],
        "external_annotations": [],
        "allocator_settings": _settings(settings),
    }


def _shared_frames() -> Any:
    """Frames of an event, one list for all that are alike, so that the file stays small."""

    @cache
    def frames(module: str, op: str, phase: str, category: str) -> Frames:
        where = module or "(outside the model)"
        return [
            {"name": op or "(no operator)", "filename": where, "line": 0},
            {"name": category, "filename": phase, "line": 0},
        ]

    return lambda event: frames(event.module, event.op, event.phase, event.category)


def _entries(
    reserved: Reserved, events: Sequence[Event], frames: Any, capacity_bytes: int | None
) -> list[dict[str, Any]]:
    made: dict[int, Event] = {}  # by address
    entries = []
    for action, address, n_bytes, stream, index in reserved.actions:
        event = events[index]
        if action == "alloc":
            made[address] = event
        elif action.startswith("free"):
            event = made[address]
        of_block = not action.startswith("segment")
        entries.append(
            {
                "action": action,
                "addr": address,
                "size": n_bytes,
                "stream": stream,
                "time_us": index,
                "frames": frames(event),
                "category": event.category if of_block else NO_CATEGORY,
            }
        )
    if reserved.out_of_memory_event_index is not None:
        event = events[reserved.out_of_memory_event_index]
        held = reserved.reserved_steps[-1][1] if reserved.reserved_steps else 0
        entries.append(
            {
                "action": "oom",
                "device_free": max(0, (capacity_bytes or 0) - held),
                "size": event.n_bytes,
                "stream": event.stream,
                "time_us": reserved.out_of_memory_event_index,
                "frames": frames(event),
                "category": NO_CATEGORY,
            }
        )
    return entries


def _segment(state: SegmentState, events: Sequence[Event], frames: Any) -> dict[str, Any]:
    live = [block for block in state.blocks if block.event_index is not None]
    allocated = sum(block.n_bytes for block in live)
    return {
        "device": 0,
        "address": state.address,
        "total_size": state.n_bytes,
        "allocated_size": allocated,
        "active_size": allocated,
        "requested_size": sum(block.requested_bytes for block in live),
        "stream": state.stream,
        "segment_type": SEGMENT_KINDS[state.is_small],
        "segment_pool_id": (0, 0),
        "is_expandable": state.is_expandable,
        "frames": [],
        "blocks": [_block(block, events, frames) for block in state.blocks],
    }


def _block(state: BlockState, events: Sequence[Event], frames: Any) -> dict[str, Any]:
    is_live = state.event_index is not None
    return {
        "address": state.address,
        "size": state.n_bytes,
        "requested_size": state.requested_bytes,
        "state": "active_allocated" if is_live else "inactive",
        "frames": [] if state.event_index is None else frames(events[state.event_index]),
    }


def _settings(settings: AllocatorSettings) -> dict[str, Any]:
    return {
        "expandable_segments": settings.expandable_segments,
        "garbage_collection_threshold": settings.garbage_collection_threshold_frac,
        "max_split_size": -1 if settings.max_split_bytes is None else settings.max_split_bytes,
        "roundup_power2_divisions": {
            str(2**power): divisions
            for power, divisions in enumerate(settings.roundup_power2_divisions)
        },
    }
