"""From live tensors to what the allocator holds and what the driver reports."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lmsize.assumption import Assumption
from lmsize.catalogue import Accelerator, Catalogue, Overhead
from lmsize.formula import formula
from lmsize.source import Source

ALLOCATOR = Source(
    "PyTorch CUDA semantics",
    "memory management",
    "https://docs.pytorch.org/docs/stable/notes/cuda.html",
)

NCCL = Source(
    "NCCL 2.10", "src/init.cc, computeBuffSizes, and src/transport/p2p.cc",
    "https://github.com/NVIDIA/nccl",
)  # fmt: skip
OF_GROUP = 3  # connections that receive: in the ring, from the tree's parent, from a child
OF_PAIR = 2
CONNECTION = 4 * 2**20 + 120 * 640 * 8 * 8 + 8 * 512 * 8 * 16  # protocols simple, LL128 and LL
LINK = 25e9  # bytes a second of one NVLink, a direction
FEWEST_CHANNELS, MOST_CHANNELS = 2, 24


@formula(source=ALLOCATOR)
def reserved_bytes(*, allocated_bytes: Any, slack_frac: Any) -> Any:
    """What the caching allocator holds for live tensors.

    Assumes: slack and fragmentation in proportion to the peak.
    Valid for: steps of equal shapes, after the first few.
    """
    return allocated_bytes * (1 + slack_frac)


@formula(source=ALLOCATOR)
def other_lengths_bytes(*, passing_bytes: Any, kept_frac: Any) -> Any:
    """Bytes of segments that were taken for tensors of other lengths, and fit none of these.

    Assumes: lengths vary from batch to batch; segments are not expandable.
    Valid for: runs of hundreds of steps, an accelerator with room (it gives them back without).
    """
    return passing_bytes * kept_frac


@formula(source=NCCL)
def communicator_bytes(*, n_channels: Any, n_connections: Any, connection_bytes: Any) -> Any:
    """Bytes of the buffers that one communicator of NCCL has on an accelerator.

    Assumes: a buffer for each protocol, for each connection that receives (of a ring, and up and
    down a tree) on each channel.
    Valid for: NCCL that connects when it is initialised (before 2.22), without NVLink SHARP.
    """
    return n_channels * n_connections * connection_bytes


@formula(source=ALLOCATOR)
def driver_bytes(*, reserved_bytes: Any, context_bytes: Any, communicators_bytes: Any) -> Any:
    """What the driver reports for the process: the allocator's segments, the context and NCCL's buffers.

    Assumes: every communicator has buffers of its own.
    Valid for: one process an accelerator.
    """
    return reserved_bytes + context_bytes + communicators_bytes


def n_channels(accelerator: Accelerator | None) -> int:
    """NCCL's channels between the accelerators of a node: two a link of 25 GB/s, two over PCIe."""
    rate = accelerator.link_bytes_per_s if accelerator is not None else None
    return FEWEST_CHANNELS if not rate else min(MOST_CHANNELS, 2 * round(rate / LINK))


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a process has on its accelerator, besides what torch and NCCL do by themselves.

    Attributes:
        allocated: bytes of live tensors at their peak.
        passes: the same in the forward and backward alone, beside which the allocator keeps
            `segments` for the step; it gives them back where the accelerator has no room.
        varied: bytes of the passes that come and go, where lengths vary: None where they do not.
        n_groups, n_neighbours: that the rank communicates with.
        is_expandable: segments grow and shrink by pages, so that none is larger than what is live.
    """

    allocated: int
    passes: int = 0
    segments: int = 0
    n_groups: int = 0
    n_neighbours: int = 0
    is_expandable: bool = False
    varied: int | None = None


def device_bytes(
    held: Holdings, accelerator: Accelerator | None, catalogue: Catalogue
) -> tuple[int, int, tuple[Assumption, ...]]:
    """Reserved and driver-reported bytes, and what was assumed."""
    slack = catalogue.overhead("reserved_frac", _vendor(accelerator))
    slack_frac = 0 if held.is_expandable else slack.typical
    reserved, passes = (
        reserved_bytes(allocated_bytes=n, slack_frac=slack_frac)
        for n in (held.allocated, held.passes)
    )
    besides, stated = driver_holds(0, held, accelerator, catalogue)
    kept = None
    if held.varied is not None and not held.is_expandable:  # those grow and shrink by pages
        kept = catalogue.overhead("kept_frac", _vendor(accelerator))
    others = other_lengths_bytes(passing_bytes=held.varied, kept_frac=kept.typical) if kept else 0
    room = passes + held.segments + others
    if accelerator is not None:
        room = min(room, accelerator.capacity_bytes - besides)
    reserved = max(reserved, room)
    device, _ = driver_holds(reserved, held, accelerator, catalogue)
    return round(reserved), device, (*_slack(held, slack, kept), *stated)


def driver_holds(
    reserved: float, held: Holdings, accelerator: Accelerator | None, catalogue: Catalogue
) -> tuple[int, tuple[Assumption, ...]]:
    """What the driver reports where the allocator has `reserved` bytes, and what was assumed."""
    context = catalogue.overhead("context", _vendor(accelerator))
    buffers = communicators(held, accelerator)
    device = driver_bytes(
        reserved_bytes=reserved, context_bytes=context.typical, communicators_bytes=buffers
    )
    return round(device), tuple(_stated(context, buffers))


def _vendor(accelerator: Accelerator | None) -> str:
    return accelerator.vendor if accelerator is not None else "NVIDIA"


def communicators(held: Holdings, accelerator: Accelerator | None) -> int:
    """Bytes of the buffers of every group and pair."""
    channels = n_channels(accelerator)
    group, pair = (
        communicator_bytes(n_channels=channels, n_connections=n, connection_bytes=CONNECTION)
        for n in (OF_GROUP, OF_PAIR)
    )
    return int(held.n_groups * group + held.n_neighbours * pair)


def _slack(held: Holdings, slack: Overhead, kept: Overhead | None) -> Iterator[Assumption]:
    if held.is_expandable:
        text = "segments grow by pages (expandable_segments:True): no slack"
        yield Assumption("reserved-expandable", text)
        return
    text = (
        f"the allocator reserves {slack.typical:.1%} more than is live "
        f"({slack.low:.0%} to {slack.high:.0%} seen: {slack.source})"
    )
    yield Assumption("reserved-typical", text)
    if kept is not None:
        text = (
            f"segments of other lengths stay: {kept.typical:g} times what comes and goes "
            f"({kept.low:g} to {kept.high:g} seen: {kept.source})"
        )
        yield Assumption("reserved-varied", text)


def _stated(context: Overhead, buffers: int) -> Iterator[Assumption]:
    text = (
        f"the driver holds {context.typical / 2**20:.0f} MiB besides "
        f"({context.low / 2**20:.0f} to {context.high / 2**20:.0f} seen: {context.source})"
    )
    yield Assumption("context-typical", text)
    if buffers:
        text = f"{buffers / 2**20:.0f} MiB of NCCL's buffers, one set for each group of ranks (NCCL that connects at initialisation, before 2.22)"
        yield Assumption("communicators", text)
