"""Settings, with torch itself as the judge of what is legal and what it means."""

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lmsize.errors import InputError
from lmsize.tracing.allocator import AllocatorSettings, allocator_settings
from lmsize.tracing.allocator.sizes import MIB, divisions_for

LEGAL = [
    "",
    "max_split_size_mb:20",
    "large_segment_size_mb:30",
    "max_split_size_mb:64,large_segment_size_mb:64",
    "max_non_split_rounding_mb:20",
    "garbage_collection_threshold:0.8",
    "expandable_segments:True",
    "expandable_segments:False, max_split_size_mb : 512 ,",
    "backend:native",
    "pinned_use_background_threads:True,max_split_size_mb:21",
]
ILLEGAL = [
    "max_split_size_mb:19",
    "max_split_size_mb:21,large_segment_size_mb:64",
    "large_segment_size_mb:10",
    "max_non_split_rounding_mb:5",
    "garbage_collection_threshold:1.0",
    "garbage_collection_threshold:0.0",
    "roundup_power2_divisions:3",
    "roundup_power2_divisions:0",
    "roundup_power2_divisions:[300:1,>:8]",
    "expandable_segments:true",
    "max_split_size_mb",
]
DIVISIONS = [
    "8",
    "1",
    "[64:8,128:2,256:4,512:2,1024:4,>:1]",
    "[256:1,1024:4]",
    "[256:0,>:8]",
    "[>:8]",
    "[65536:8]",
    "[1:8,2:4]",
    "[>:4,64:8]",
]


@pytest.fixture
def torch_settings() -> Iterator[Callable[[str], None]]:
    """Sets torch's own allocator; back to its defaults afterwards."""
    torch = pytest.importorskip("torch")
    put = torch._C._accelerator_setAllocatorSettings
    yield put
    put("large_segment_size_mb:20")  # torch keeps this one from one text to the next


@pytest.mark.parametrize("text", LEGAL)
def test_torch_takes_what_we_take(text: str, torch_settings: Callable[[str], None]) -> None:
    torch_settings(text)
    allocator_settings(text)


@pytest.mark.parametrize("text", ILLEGAL)
def test_torch_refuses_what_we_refuse(text: str, torch_settings: Callable[[str], None]) -> None:
    with pytest.raises((ValueError, RuntimeError)):
        torch_settings(text)
    with pytest.raises(InputError):
        allocator_settings(text)


@pytest.mark.parametrize("text", DIVISIONS)
def test_divisions_mean_what_they_mean_to_torch(
    text: str, torch_settings: Callable[[str], None]
) -> None:
    torch = pytest.importorskip("torch")
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    name = "_ZN3c1016CachingAllocator26AcceleratorAllocatorConfig24roundup_power2_divisionsEm"
    theirs = getattr(library, name)
    theirs.restype, theirs.argtypes = ctypes.c_size_t, [ctypes.c_size_t]
    torch_settings(f"roundup_power2_divisions:{text}")
    ours = allocator_settings(f"roundup_power2_divisions:{text}").roundup_power2_divisions
    sizes = [2**power + extra for power in range(15, 40) for extra in (0, 1, 2**power - 1)]
    assert [divisions_for(n, ours) for n in sizes] == [theirs(n) for n in sizes]


def test_all_read() -> None:
    text = "expandable_segments:True,large_segment_size_mb:40,max_split_size_mb:64,"
    text += "max_non_split_rounding_mb:50,garbage_collection_threshold:0.5,"
    text += "per_process_memory_fraction:0.9"
    assert allocator_settings(text) == AllocatorSettings(
        expandable_segments=True,
        large_segment_bytes=40 * MIB,
        max_split_bytes=64 * MIB,
        max_non_split_rounding_bytes=50 * MIB,
        garbage_collection_threshold_frac=0.5,
        memory_frac=0.9,
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("max_split_size:64", "did you mean max_split_size_mb"),
        ("backend:cudaMallocAsync", "backend:native"),
        ("max_split_size_mb:many", "whole number"),
        ("garbage_collection_threshold:half", "a share"),
        ("per_process_memory_fraction:1.5", "a share from 0 to 1"),
        ("roundup_power2_divisions:[256:1", "key:value pairs"),
    ],
)
def test_messages(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        allocator_settings(text)
