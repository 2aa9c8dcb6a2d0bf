"""When a step holds most, and what it holds then."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lmsize.tracing.storages import Entry, Storage


@dataclass(frozen=True, slots=True)
class Peak:
    """The fullest instant of a phase.

    Attributes:
        phase: such as ``2.backward``.
        at: index of the entry after which it is that full.
        live: what is held then, the largest first.
    """

    phase: str
    n_bytes: int
    at: int
    live: tuple[Storage, ...]


def as_requested(n_bytes: int) -> int:
    """What a CPU gives: as many bytes as asked for."""
    return n_bytes


def in_blocks(n_bytes: int) -> int:
    """What CUDA's caching allocator gives: whole blocks of 512 bytes."""
    return -(-n_bytes // 512) * 512


def peaks(entries: Iterable[Entry], size: Callable[[int], int]) -> list[Peak]:
    """The peak of each phase, in order.

    Args:
        size: bytes that the allocator gives for a request.
    """
    entries = list(entries)
    highest = _highest(entries, size)
    live: dict[int, Storage] = {}
    kept: dict[str, tuple[Storage, ...]] = {}
    for at, (storage, is_alloc, phase, _) in enumerate(entries):
        if is_alloc:
            live[id(storage)] = storage
        else:
            del live[id(storage)]
        if highest[phase][1] == at:
            kept[phase] = tuple(sorted(live.values(), key=lambda s: -s.n_bytes))
    return [Peak(phase, n, at, kept[phase]) for phase, (n, at) in highest.items()]


def _highest(entries: list[Entry], size: Callable[[int], int]) -> dict[str, tuple[int, int]]:
    """By phase: the most bytes held, and after which entry. What a phase finds counts as its own."""
    held = 0
    found: dict[str, tuple[int, int]] = {}
    for at, (storage, is_alloc, phase, _) in enumerate(entries):
        held += size(storage.n_bytes) if is_alloc else -size(storage.n_bytes)
        if phase not in found or held > found[phase][0]:
            found[phase] = held, at
    return found
