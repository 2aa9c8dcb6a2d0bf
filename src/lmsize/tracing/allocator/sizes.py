"""The allocator's constants and how it rounds sizes.

Source: ``c10/core/AllocatorConfig.h`` of torch 2.13.0 (kMinBlockSize, kSmallSize, kSmallBuffer,
kMinLargeAlloc, kRoundLarge, large_segment_size_) and ``round_size``, ``get_allocation_size`` of
``c10/cuda/CUDACachingAllocator.cpp``.
"""

from __future__ import annotations

MIB = 2**20
BLOCK_STEP_BYTES = 512  # every block is a multiple
SMALL_MOST_BYTES = MIB  # blocks up to here come from the small pool
SMALL_SEGMENT_BYTES = 2 * MIB
LARGE_SEGMENT_BYTES = 20 * MIB  # for blocks of the large pool below the next constant
OWN_SEGMENT_LEAST_BYTES = 10 * MIB  # from here on a segment is made to measure
SEGMENT_STEP_BYTES = 2 * MIB  # ... in such steps

# roundup_power2_divisions: one number for each power of two from 1 MiB to 32 GiB.
N_DIVISION_INTERVALS = 16


def multiple_bytes(n_bytes: int, step_bytes: int) -> int:
    """The least multiple of a step that holds so many bytes."""
    return -(-n_bytes // step_bytes) * step_bytes


def divisions_for(n_bytes: int, divisions: tuple[int, ...]) -> int:
    """The divisions that apply to a request: those of its power of two, clipped to the ends."""
    if not divisions:
        return 0
    power = n_bytes.bit_length() - 1 - (MIB.bit_length() - 1)
    return divisions[min(max(power, 0), N_DIVISION_INTERVALS - 1)]


def block_bytes(n_bytes: int, divisions: tuple[int, ...] = ()) -> int:
    """Size of the block for a request of n_bytes > 0.

    Args:
        n_bytes: as requested.
        divisions: ``roundup_power2_divisions``, empty when not set. With d divisions, sizes
            between two powers of two are rounded up to one of d equal steps.
    """
    n_divisions = divisions_for(n_bytes, divisions)
    if n_divisions > 1 and n_bytes > BLOCK_STEP_BYTES * n_divisions:
        floor = 1 << (n_bytes.bit_length() - 1)
        return multiple_bytes(n_bytes, floor // n_divisions)
    return max(BLOCK_STEP_BYTES, multiple_bytes(n_bytes, BLOCK_STEP_BYTES))


def segment_bytes(block_n_bytes: int, large_segment_bytes: int = LARGE_SEGMENT_BYTES) -> int:
    """What is asked of the driver when no cached block fits."""
    if block_n_bytes <= SMALL_MOST_BYTES:
        return SMALL_SEGMENT_BYTES
    if block_n_bytes < OWN_SEGMENT_LEAST_BYTES:
        return large_segment_bytes
    return multiple_bytes(block_n_bytes, SEGMENT_STEP_BYTES)
