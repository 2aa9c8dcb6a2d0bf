import pytest

from lmsize.tracing.allocator import allocator_settings
from lmsize.tracing.allocator.sizes import MIB, block_bytes, segment_bytes


@pytest.mark.parametrize(
    ("n_bytes", "expected"), [(1, 512), (511, 512), (512, 512), (513, 1024), (10**9, 1_000_000_000)]
)
def test_blocks_are_multiples_of_512(n_bytes: int, expected: int) -> None:
    assert block_bytes(n_bytes) == -(-expected // 512) * 512


@pytest.mark.parametrize(
    ("n_bytes", "expected"),
    [
        (512, 2 * MIB),
        (MIB, 2 * MIB),
        (MIB + 512, 20 * MIB),
        (10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB),
        (10 * MIB + 512, 12 * MIB),
        (2**30 + 512, 2**30 + 2 * MIB),
    ],
)
def test_segments(n_bytes: int, expected: int) -> None:
    assert segment_bytes(n_bytes) == expected


def test_a_larger_large_segment() -> None:
    assert segment_bytes(MIB + 512, 30 * MIB) == 30 * MIB
    assert segment_bytes(10 * MIB, 30 * MIB) == 10 * MIB


# The manual of PyTorch: 1200 with 4 divisions lies between 1024 and 2048, whose quarters are 1024,
# 1280, 1536 and 1792; small sizes keep their steps of 512.
@pytest.mark.parametrize(
    ("n_bytes", "divisions", "expected"),
    [
        (1200 * 1024, 4, 1280 * 1024),
        (1280 * 1024, 4, 1280 * 1024),
        (1281 * 1024, 4, 1536 * 1024),
        (1800 * 1024, 4, 2048 * 1024),
        (1024 * 1024, 4, 1024 * 1024),
        (1200, 4, 1536),
        (1200 * 1024, 1, 1200 * 1024),
        (5 * MIB + 1, 2, 6 * MIB),
    ],
)
def test_divisions_of_a_power_of_two(n_bytes: int, divisions: int, expected: int) -> None:
    settings = allocator_settings(f"roundup_power2_divisions:{divisions}")
    assert block_bytes(n_bytes, settings.roundup_power2_divisions) == expected
