"""The snapshot, read by PyTorch's own reader and replayed entry by entry."""

import pickle
import pickletools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmsize.tracing.allocator import AllocatorSettings, simulated
from lmsize.tracing.events import Event
from lmsize.tracing.snapshot import snapshot, write_snapshot

MIB = 2**20
# What the viewer's own reader of pickles knows: MemoryViz.js of torch.
VIEWER_OPCODES = frozenset(
    [
        "APPENDS",
        "BINGET",
        "BININT",
        "BININT1",
        "BININT2",
        "EMPTY_DICT",
        "EMPTY_LIST",
        "FRAME",
        "LONG1",
        "LONG_BINGET",
        "MARK",
        "MEMOIZE",
        "PROTO",
        "SETITEMS",
        "SHORT_BINUNICODE",
        "STOP",
        "TUPLE2",
        "APPEND",
        "NEWFALSE",
        "BINPUT",
        "BINUNICODE",
        "EMPTY_TUPLE",
        "NEWTRUE",
        "NONE",
        "BINFLOAT",
        "TUPLE",
        "TUPLE1",
        "TUPLE3",
        "LONG_BINPUT",
        "LIST",
        "DICT",
        "SETITEM",
    ]
)


def a_step(n_layers: int = 12) -> list[Event]:
    """Weights, then activations that grow and shrink, on two streams."""
    events = [
        Event("alloc", i, 5 * MIB + i, 0, "setup", "weights", f"layers.{i}", "")
        for i in range(n_layers)
    ]
    kept = [
        Event(
            "alloc",
            10_000 + i,
            3 * MIB,
            i % 2,
            "1.forward",
            "activations",
            f"layers.{i}",
            "aten.mm",
        )
        for i in range(n_layers)
    ]
    for event in kept:
        small = Event(
            "alloc", 20_000 + event.storage_id, 700, 0, "1.forward", "temporaries", "", "aten.add"
        )
        events += [event, small, _free(small)]
    return events + [_free(event) for event in reversed(kept)]


def _free(event: Event) -> Event:
    return Event(
        "free", event.storage_id, event.n_bytes, event.stream, "1.backward",
        event.category, event.module, event.op,
    )  # fmt: skip


ALL_SETTINGS = [AllocatorSettings(), AllocatorSettings(expandable_segments=True)]


@pytest.mark.parametrize("settings", ALL_SETTINGS)
def test_torch_reads_it(settings: AllocatorSettings) -> None:
    viz = pytest.importorskip("torch.cuda._memory_viz")
    content = snapshot(a_step(), settings=settings)
    summary = viz.segsum(content)
    result = simulated(a_step(), settings=settings)
    assert f"segments: {len(result.segments)}" in summary
    reserved = sum(segment.n_bytes for segment in result.segments)
    assert f"total_reserved: {viz.Bytes(reserved)}" in summary
    assert f"total_allocated: {viz.Bytes(sum(5 * MIB + i for i in range(12)))}" in summary
    text = viz.trace(content)
    assert f"{len(content['device_traces'][0])} entries" in text
    assert "3.0MiB" in text
    assert "add_local_files" in viz.trace_plot(content)
    lines = viz.memory(content, format_flamegraph=str)
    assert "stream_0;active_allocated;setup:0:weights;layers.0:0:(no operator) 5242880" in lines


def test_the_viewer_reads_every_opcode(tmp_path: Path) -> None:
    path = tmp_path / "step.pickle"
    write_snapshot(path, a_step(300))
    used = {opcode.name for opcode, _, _ in pickletools.genops(path.read_bytes())}
    assert used <= VIEWER_OPCODES
    assert pickle.loads(path.read_bytes()) == snapshot(a_step(300))


@pytest.mark.parametrize("settings", ALL_SETTINGS)
def test_the_entries_lead_to_the_segments(settings: AllocatorSettings) -> None:
    """As the viewer does it, but forwards: replayed from nothing they end at `segments`."""
    content = snapshot(a_step(), settings=settings)
    pages, live = set(), {}
    for entry in content["device_traces"][0]:
        at = (entry["addr"], entry["size"])
        match entry["action"]:
            case "segment_alloc" | "segment_map":
                assert not pages & set(_pages(at))
                pages |= set(_pages(at))
            case "segment_free" | "segment_unmap":
                pages -= set(_pages(at))
            case "alloc":
                assert set(_pages((at[0], 1))) <= pages
                assert at[0] not in live
                live[at[0]] = at[1]
            case "free_requested":
                assert live[at[0]] == at[1]
            case "free_completed":
                del live[at[0]]
    ends = content["segments"]
    assert pages == {p for s in ends for p in _pages((s["address"], s["total_size"]))}
    assert live == {b["address"]: b["requested_size"] for b in _live_blocks(ends)}


def _pages(at: tuple[int, int]) -> range:
    """The pages of 2 MiB in which a range lies."""
    return range(at[0] // (2 * MIB), -(-(at[0] + at[1]) // (2 * MIB)))


def _live_blocks(segments: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for segment in segments:
        address = segment["address"]
        for block in segment["blocks"]:
            assert block["address"] == address  # the viewer adds sizes up instead of reading it
            address += block["size"]
            if block["state"] == "active_allocated":
                yield block


def test_entries_carry_module_op_phase_and_category() -> None:
    entries = snapshot(a_step())["device_traces"][0]
    kept = [e for e in entries if e["size"] == 3 * MIB]
    frames = [
        {"name": "aten.mm", "filename": "layers.0", "line": 0},
        {"name": "activations", "filename": "1.forward", "line": 0},
    ]
    assert kept[0]["frames"] == frames
    assert kept[-1]["action"] == "free_completed"
    assert kept[-1]["frames"] == frames  # a free shows who made the block
    assert {e["category"] for e in entries} == {"weights", "activations", "temporaries", "unknown"}


def test_out_of_memory_is_the_last_entry() -> None:
    content = snapshot(a_step(), capacity_bytes=63 * MIB)
    last = content["device_traces"][0][-1]
    assert (last["action"], last["size"]) == ("oom", 5 * MIB + 9)
    assert last["device_free"] == 3 * MIB
    viz = pytest.importorskip("torch.cuda._memory_viz")
    assert "OutOfMemoryError" in viz.trace(content)
