"""Torch's own caching allocator, written down by tools/allocator_truth/compare.py (torch 2.13.0)."""

import json
from pathlib import Path
from typing import Any

import pytest

from lmsize.tracing.allocator import allocator_settings, simulated
from lmsize.tracing.events import Event

CASES = json.loads((Path(__file__).parent / "allocator.json").read_text("utf-8"))


def name(case: dict[str, Any]) -> str:
    return f"{case['settings'] or 'defaults'}-{case['capacity_bytes'] >> 20}"


@pytest.mark.parametrize("case", CASES, ids=name)
def test_every_block_lies_where_torch_puts_it(case: dict[str, Any]) -> None:
    events = [
        Event("alloc" if n_bytes else "free", storage_id, n_bytes, stream, "", "", "", "")
        for storage_id, n_bytes, stream in case["events"]
    ]
    result = simulated(
        events,
        capacity_bytes=case["capacity_bytes"],
        settings=allocator_settings(case["settings"]),
        keeps_history=True,
    )
    blocks = [
        f"{events[action.event_index].storage_id} {action.address}"
        for action in result.actions
        if action.action == "alloc"
    ]
    if result.out_of_memory_event_index is not None:
        blocks.append(f"oom {events[result.out_of_memory_event_index].storage_id}")
    said = dict(line.split() for line in case["torch"][len(blocks) :])
    assert case["torch"][: len(blocks)] == blocks
    assert int(said["peak_reserved"]) == result.peak_reserved_bytes
    assert int(said["peak_allocated"]) == result.peak_allocated_bytes
    assert int(said["peak_requested"]) == result.peak_requested_bytes
    assert int(said["segments"]) == result.n_segments
    assert int(said["retries"]) == result.n_retries
    assert int(said["reserved"]) == sum(segment.n_bytes for segment in result.segments)
