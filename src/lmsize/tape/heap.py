"""What an allocator must have for a sequence of requests, as what is let go of may be too small for what comes.

Torch's caching allocator with expandable segments (``c10/cuda/CUDACachingAllocator.cpp``): blocks lie in one
range of addresses. A request takes the front of the smallest free block that holds it, that at the end,
which can grow, only if there is no other; free neighbours are one block. Small blocks lie elsewhere.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from lmsize.numbers import PLAIN, is_plain

# Bytes: up to here a block comes from a pool of its own, which is not counted, and a rest stays with its block.
SMALL = 2**20


@dataclass(slots=True, eq=False)
class Requests:
    """Blocks that are taken and let go of, in order; their sizes are numbers or arrays over candidates."""

    _sizes: list[Any] = field(default_factory=list)
    _events: list[tuple[int, bool]] = field(default_factory=list)
    _held: dict[Hashable, int] = field(default_factory=dict)

    def take(self, key: Hashable, n_bytes: Any) -> None:
        """Ask for a block, which the key names until it is let go of."""
        self._held[key] = len(self._sizes)
        self._events.append((len(self._sizes), True))
        self._sizes.append(n_bytes)

    def let_go(self, key: Hashable) -> None:
        """Give a block back; one that was never taken lies elsewhere."""
        block = self._held.pop(key, None)
        if block is not None:
            self._events.append((block, False))

    def need(self, n_bytes: Any) -> None:
        """Ask for a block and give it back; for none, where nothing is needed."""
        if isinstance(n_bytes, PLAIN) and not n_bytes:
            return
        self.take(self, n_bytes)
        self.let_go(self)

    @property
    def room_bytes(self) -> Any:
        """What the range of addresses grows to."""
        if is_plain(*self._sizes):
            return self._grown(self._sizes)
        import numpy as np

        spread = np.broadcast_arrays(*(np.asarray(size) for size in self._sizes))
        found = [
            self._grown(sizes) for sizes in zip(*(s.ravel().tolist() for s in spread), strict=True)
        ]
        kind = next(type(size) for size in self._sizes if isinstance(size, np.ndarray))
        return np.array(found).reshape(spread[0].shape).view(kind)

    def _grown(self, sizes: Any) -> Any:
        """What the range grows to, for blocks of these sizes."""
        blocks: list[_Block] = []
        for which, is_taken in self._events:
            if sizes[which] <= SMALL:
                continue
            if is_taken:
                _lay(blocks, which, sizes[which])
            else:
                _free(blocks, which)
        return sum(block.n_bytes for block in blocks)


class Unheard(Requests):
    """Requests of which nobody asks what they need."""

    __slots__ = ()

    def take(self, key: Hashable, n_bytes: Any) -> None:
        """Nothing is noted."""

    def let_go(self, key: Hashable) -> None:
        """Nothing is noted."""


@dataclass(slots=True)
class _Block:
    """A block of the range; free if it is nobody's."""

    n_bytes: Any
    owner: int | None


def _lay(blocks: list[_Block], owner: int, n_bytes: Any) -> None:
    free = [at for at, one in enumerate(blocks) if one.owner is None and one.n_bytes >= n_bytes]
    if free:
        end = len(blocks) - 1
        at = min(free, key=lambda i: (i == end, blocks[i].n_bytes, i))
        if blocks[at].n_bytes - n_bytes <= SMALL:
            blocks[at].owner = owner
        else:
            blocks[at].n_bytes -= n_bytes
            blocks.insert(at, _Block(n_bytes, owner))
        return
    if blocks and blocks[-1].owner is None:  # the end grows
        blocks.pop()
    blocks.append(_Block(n_bytes, owner))


def _free(blocks: list[_Block], owner: int) -> None:
    at = next(i for i, one in enumerate(blocks) if one.owner == owner)
    blocks[at].owner = None
    for before in (at, at - 1):  # the one after it, then the one before it
        pair = blocks[before : before + 2] if before >= 0 else []
        if len(pair) == 2 and all(one.owner is None for one in pair):
            pair[0].n_bytes += pair[1].n_bytes
            del blocks[before + 1]
