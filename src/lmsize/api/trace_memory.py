"""A trace's log as an answer: its memory in the report, and the files that were asked for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lmsize.api.trace_options import TraceSpec
from lmsize.assumption import Assumption
from lmsize.catalogue import Accelerator, Catalogue
from lmsize.estimate.answer import Memory
from lmsize.estimate.overheads import Holdings, driver_holds
from lmsize.estimate.training import components
from lmsize.layout.degrees import Layout

if TYPE_CHECKING:
    from lmsize.tracing.running import Device
    from lmsize.tracing.storages import Log

ALONE = Layout()
TAKEN_FOR_GRANTED = (
    Assumption(
        "trace-spread-evenly",
        "shapes depend on the routing: tokens are spread evenly over the experts",
    ),
    Assumption("trace-nothing-left-out", "layers that the model leaves out at random are all run"),
)


def tell(what: str) -> None:
    """Progress, on stderr."""
    print(f"trace: {what}", file=sys.stderr)


def traced_memory(
    log: Log,
    device: Device,
    catalogue: Catalogue,
    accelerator: Accelerator | None,
    *,
    layout: Layout = ALONE,
    extra: dict[str, int] | None = None,
    factor: float = 1.0,
) -> tuple[Memory, tuple[Assumption, ...]]:
    """Peak, components and tree of a log; what the allocator reserves and the driver holds."""
    from lmsize.tracing.allocator import simulated
    from lmsize.tracing.peaks import as_requested, in_blocks, peaks
    from lmsize.tracing.terms import moments

    size = in_blocks if device.type == "cuda" else as_requested
    steady = [peak for peak in peaks(log.entries, size) if peak.phase.startswith("2.")]
    extra = extra or {}
    tree = moments(steady, size, extra=extra)
    allocated = int(tree.value)
    reserved = on_device = None
    stated: tuple[Assumption, ...] = ()
    if device.type == "cuda":
        reserved = simulated(log.events()).peak_reserved_bytes + sum(extra.values())
        held = Holdings(allocated, n_groups=layout.n_groups, n_neighbours=layout.n_neighbours)
        on_device, besides = driver_holds(reserved, held, accelerator, catalogue)
        on_device = round(on_device * factor)
        text = "reserved by a simulation of the caching allocator"
        stated = (Assumption("reserved-simulated", text), *besides)
    stated += tuple(one for one in TAKEN_FOR_GRANTED if one.code in log.assumed)
    capacity = accelerator.capacity_bytes if accelerator else None
    winner = tree.winner
    return Memory(
        peak_allocated_bytes=allocated, peak_reserved_bytes=reserved, peak_device_bytes=on_device,
        capacity_bytes=capacity, moment=winner.label, components=components(winner, allocated),
        tree=tree,
    ), stated  # fmt: skip


def write_files(log: Log, label: str, accelerator: Accelerator | None, asked: TraceSpec) -> None:
    """The timeline and the snapshot, where they were asked for."""
    if asked.timeline is None and asked.snapshot is None:
        return
    from lmsize.tracing.allocator import simulated

    events = list(log.events())
    capacity = accelerator.capacity_bytes if accelerator else None
    if asked.timeline is not None:
        from lmsize.tracing.timeline import write_timeline

        write_timeline(
            Path(asked.timeline), events, label=label, reserved=simulated(events),
            capacity_bytes=capacity,
        )  # fmt: skip
        tell(f"{asked.timeline} written")
    if asked.snapshot is not None:
        from lmsize.tracing.snapshot import write_snapshot

        write_snapshot(Path(asked.snapshot), events)
        tell(f"{asked.snapshot} written (for https://docs.pytorch.org/memory_viz)")
