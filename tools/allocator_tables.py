"""The table of docs/allocator.md, made from the constants that the simulation uses."""

from __future__ import annotations

from collections.abc import Callable

from article_tables import table
from lmsize.quantity import format_bytes
from lmsize.tracing.allocator import sizes

CONSTANTS = (
    (sizes.BLOCK_STEP_BYTES, "every block is a multiple of it", "kMinBlockSize"),
    (sizes.SMALL_MOST_BYTES, "up to here a block is small; up to here a large block keeps its rest", "kSmallSize"),
    (sizes.SMALL_SEGMENT_BYTES, "segment of the small pool", "kSmallBuffer"),
    (sizes.LARGE_SEGMENT_BYTES, "segment of the large pool for blocks below the next line",
     "large_segment_size_"),
    (sizes.OWN_SEGMENT_LEAST_BYTES, "from here on a block gets a segment to measure",
     "kMinLargeAlloc"),
    (sizes.SEGMENT_STEP_BYTES, "... rounded up to a multiple of this", "kRoundLarge"),
)  # fmt: skip


def allocator_constants() -> list[str]:
    """Bytes, their meaning, and torch's name for them."""
    return table(
        ("", "what it is", "name in torch"),
        ((format_bytes(n_bytes), text, f"`{name}`") for n_bytes, text, name in CONSTANTS),
        n_text=3,
    )


TABLES: dict[str, Callable[[], list[str]]] = {"allocator-constants": allocator_constants}
