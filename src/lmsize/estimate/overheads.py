"""From live tensors to what the allocator holds and what the driver reports."""

from __future__ import annotations

from typing import Any

from lmsize.assumption import Assumption
from lmsize.catalogue import Catalogue
from lmsize.formula import formula
from lmsize.source import Source

ALLOCATOR = Source(
    "PyTorch CUDA semantics",
    "memory management",
    "https://docs.pytorch.org/docs/stable/notes/cuda.html",
)


@formula(source=ALLOCATOR)
def reserved_bytes(*, allocated_bytes: Any, slack_frac: Any) -> Any:
    """What the caching allocator holds for live tensors.

    Assumes: slack and fragmentation in proportion to the peak.
    Valid for: steps of equal shapes, after the first few.
    """
    return allocated_bytes * (1 + slack_frac)


@formula(source=ALLOCATOR)
def driver_bytes(*, reserved_bytes: Any, context_bytes: Any) -> Any:
    """What the driver reports for the process: the allocator's segments and the context.

    Assumes: no communication buffers beyond the context's.
    Valid for: one process an accelerator.
    """
    return reserved_bytes + context_bytes


def device_bytes(
    allocated: int, vendor: str, catalogue: Catalogue
) -> tuple[int, int, tuple[Assumption, ...]]:
    """Reserved and driver-reported bytes for allocated ones, and what was assumed."""
    slack = catalogue.overhead("reserved_frac", vendor)
    context = catalogue.overhead("context", vendor)
    reserved = reserved_bytes(allocated_bytes=allocated, slack_frac=slack.typical)
    device = driver_bytes(reserved_bytes=reserved, context_bytes=context.typical)
    text = (
        f"the allocator reserves {slack.typical:.1%} more than is live "
        f"({slack.low:.0%} to {slack.high:.0%} seen: {slack.source})"
    )
    held = (
        f"the driver holds {context.typical / 2**20:.0f} MiB besides "
        f"({context.low / 2**20:.0f} to {context.high / 2**20:.0f} seen: {context.source})"
    )
    return round(reserved), round(device), (
        Assumption("reserved-typical", text),
        Assumption("context-typical", held),
    )  # fmt: skip
