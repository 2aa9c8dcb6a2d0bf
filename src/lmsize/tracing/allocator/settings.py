"""What a user may set through ``PYTORCH_CUDA_ALLOC_CONF``.

Source: PyTorch, CUDA semantics, "Optimizing memory usage with PYTORCH_CUDA_ALLOC_CONF"
(https://docs.pytorch.org/docs/stable/notes/cuda.html) and ``c10/core/AllocatorConfig.h`` of torch
2.13.0, whose checks are repeated here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lmsize.errors import InputError, nearest_names
from lmsize.tracing.allocator.sizes import LARGE_SEGMENT_BYTES, MIB, N_DIVISION_INTERVALS

WHAT = "PYTORCH_CUDA_ALLOC_CONF"
NATIVE = "backend:native"
# Known to torch, and without effect on what is reserved on the device.
WITHOUT_EFFECT = frozenset(
    {
        "graph_capture_record_stream_reuse",
        "pinned_free_catch_all",
        "pinned_max_cached_size_mb",
        "pinned_max_round_threshold_mb",
        "pinned_num_register_threads",
        "pinned_reserve_segment_size_mb",
        "pinned_use_background_threads",
        "pinned_use_cuda_host_register",
        "release_lock_on_cudamalloc",
        "throw_on_cudamalloc_oom",
    }
)


@dataclass(frozen=True, slots=True)
class AllocatorSettings:
    """The allocator's settings, torch's defaults when left out.

    Attributes:
        expandable_segments: one growing segment for each stream and pool.
        large_segment_bytes: segment for blocks above 1 MiB and below 10 MiB; the page of an
            expandable segment of the large pool.
        max_split_bytes: blocks of this size and above are never split; None for no limit.
        max_non_split_rounding_bytes: how much larger a block above the limit may be than what it
            serves; None for `large_segment_bytes`.
        garbage_collection_threshold_frac: above this share of what is allowed, cached segments
            not used for long are released before a new one is taken; 0 is off. As in torch it
            acts only together with a memory fraction below 1.
        memory_frac: the share of the capacity that is allowed; 1 is no limit of its own.
        roundup_power2_divisions: for each power of two from 1 MiB, or empty.
    """

    expandable_segments: bool = False
    large_segment_bytes: int = LARGE_SEGMENT_BYTES
    max_split_bytes: int | None = None
    max_non_split_rounding_bytes: int | None = None
    garbage_collection_threshold_frac: float = 0.0
    memory_frac: float = 1.0
    roundup_power2_divisions: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _check(
            "large_segment_size_mb",
            self.large_segment_bytes,
            self.large_segment_bytes > 10 * MIB,
            "more than 10 MiB",
        )
        limit = self.max_split_bytes
        _check(
            "max_split_size_mb",
            limit,
            limit is None or limit >= self.large_segment_bytes,
            f"at least large_segment_size_mb ({self.large_segment_bytes // MIB})",
        )
        rounding = self.max_non_split_rounding_bytes
        _check(
            "max_non_split_rounding_mb",
            rounding,
            rounding is None or rounding >= self.large_segment_bytes,
            f"at least large_segment_size_mb ({self.large_segment_bytes // MIB})",
        )
        share = self.garbage_collection_threshold_frac
        _check(
            "garbage_collection_threshold",
            share,
            0 <= share < 1,
            "a share above 0 and below 1",
        )
        share = self.memory_frac
        _check("per_process_memory_fraction", share, 0 <= share <= 1, "a share from 0 to 1")


def _check(key: str, value: object, holds: bool, expected: str) -> None:
    if not holds:
        raise InputError(key, value, expected)


def allocator_settings(text: str) -> AllocatorSettings:
    """Settings from text such as ``expandable_segments:True,max_split_size_mb:512``.

    Raises:
        InputError: an unknown key, a value torch refuses, or a backend that is not simulated
            (``backend:cudaMallocAsync``).
    """
    found: dict[str, object] = {}
    for key, value in _pairs("".join(text.split())):
        if key in WITHOUT_EFFECT or f"{key}:{value}" == NATIVE:
            continue
        if key not in _READERS:
            expected = f"{NATIVE}, the only one simulated" if key == "backend" else "a key of torch"
            raise InputError(WHAT, key, expected, nearest=nearest_names(key, _READERS))
        field, read = _READERS[key]
        found[field] = read(key, value)
    return AllocatorSettings(**found)  # type: ignore[arg-type]  # each reader gives its field's type


def _pairs(text: str) -> list[tuple[str, str]]:
    """``a:1,b:[2:3,4:5]`` -> [("a", "1"), ("b", "[2:3,4:5]")]."""
    items, depth = [""], 0
    for mark in text:
        depth += (mark == "[") - (mark == "]")
        if mark == "," and depth == 0:
            items.append("")
        else:
            items[-1] += mark
    pairs = [item.partition(":") for item in items if item]
    for key, colon, value in pairs:
        if not (key and colon and value) or depth:
            raise InputError(WHAT, text, "key:value pairs with commas between them")
    return [(key, value) for key, _, value in pairs]


def _megabytes(key: str, value: str) -> int:
    return _whole(key, value) * MIB


def _whole(key: str, value: str) -> int:
    if not (value.isascii() and value.isdigit()) or len(value) > 12:
        raise InputError(key, value, "a whole number")
    return int(value)


def _truth(key: str, value: str) -> bool:
    if value not in {"True", "False"}:
        raise InputError(key, value, "True or False")
    return value == "True"


def _share(key: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise InputError(key, value, "a share") from None


def _threshold(key: str, value: str) -> float:
    share = _share(key, value)
    if not share:  # what leaves it off in Python is refused as text
        raise InputError(key, value, "a share above 0 and below 1")
    return share


def _divisions(key: str, value: str) -> tuple[int, ...]:
    """``4`` for all sizes, or ``[256:1,512:2,>:8]``: up to so many MiB, so many divisions."""
    if not value.startswith("["):
        return (_power_of_two(key, value),) * N_DIVISION_INTERVALS
    divisions = [0] * N_DIVISION_INTERVALS
    first, last = True, 0  # as torch: the first bound covers all that is below it, others one step
    for bound, count in _pairs(value.strip("[]")):
        number = _whole(key, count) and _power_of_two(key, count)
        if bound == ">":
            divisions[last + 1 :] = [number] * (N_DIVISION_INTERVALS - last - 1)
            continue
        last = min(_power_of_two(key, bound).bit_length() - 1, N_DIVISION_INTERVALS - 1)
        start = 0 if first else last
        divisions[start : last + 1] = [number] * (last + 1 - start)
        first = False
    return tuple(divisions)


def _power_of_two(key: str, value: str) -> int:
    number = _whole(key, value)
    if number.bit_count() != 1:
        raise InputError(key, value, "a power of two")
    return number


_READERS: dict[str, tuple[str, Callable[[str, str], object]]] = {
    "expandable_segments": ("expandable_segments", _truth),
    "large_segment_size_mb": ("large_segment_bytes", _megabytes),
    "max_split_size_mb": ("max_split_bytes", _megabytes),
    "max_non_split_rounding_mb": ("max_non_split_rounding_bytes", _megabytes),
    "garbage_collection_threshold": ("garbage_collection_threshold_frac", _threshold),
    "per_process_memory_fraction": ("memory_frac", _share),
    "roundup_power2_divisions": ("roundup_power2_divisions", _divisions),
}
