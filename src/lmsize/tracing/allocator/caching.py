"""The caching allocator itself: find a free block, else take a segment, else release and retry.

Source: the comment at the head of ``c10/cuda/CUDACachingAllocator.cpp`` and its functions
``malloc``, ``get_free_block``, ``should_split``, ``alloc_block``, ``free_block``,
``release_available_cached_blocks``, ``release_cached_blocks``, ``garbage_collect_cached_blocks``.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile

from lmsize.tracing.allocator import expandable
from lmsize.tracing.allocator.blocks import Block, Lookups, Pool
from lmsize.tracing.allocator.device import Device
from lmsize.tracing.allocator.settings import AllocatorSettings
from lmsize.tracing.allocator.sizes import (
    BLOCK_STEP_BYTES,
    SMALL_MOST_BYTES,
    SMALL_SEGMENT_BYTES,
    block_bytes,
    segment_bytes,
)


class CachingAllocator:
    """Blocks for requests, from segments that are kept when their blocks are freed.

    Attributes:
        pools: by stream and whether small.
        allocated_bytes: of the live blocks, rounded as they are.
        n_retries: how often the cache had to be released to serve a request.
    """

    def __init__(self, *, settings: AllocatorSettings, device: Device) -> None:
        self.settings = settings
        self.device = device
        self.pools: dict[tuple[int, bool], Pool] = {}
        self.allocated_bytes = 0
        self.n_retries = 0
        self._lookups = Lookups()
        share, capacity = settings.memory_frac, device.capacity_bytes
        # Without a fraction below 1 torch knows no limit but the device's own.
        self._allowed_bytes = None if capacity is None or share >= 1 else int(share * capacity)
        threshold = settings.garbage_collection_threshold_frac
        self._collects = threshold > 0 and self._allowed_bytes is not None

    def allocated(self, n_bytes: int, stream: int) -> Block | None:
        """A live block for a request of n_bytes > 0; None when the device is out of memory."""
        size = block_bytes(n_bytes, self.settings.roundup_power2_divisions)
        is_small = size <= SMALL_MOST_BYTES
        pool = self.pools.get((stream, is_small))
        if pool is None:
            pool = Pool(stream=stream, is_small=is_small, lookups=self._lookups)
            self.pools[stream, is_small] = pool
        block = self._cached(pool, size) or self._obtained(pool, size)
        if block is None:
            return None
        if self._splits(block, size):
            rest, block = block, block.cut(size)
            pool.add(rest)
        block.is_live = True
        block.requested_bytes = n_bytes
        block.event_index = self.device.event_index
        self.allocated_bytes += block.n_bytes
        self.device.note("alloc", block.address, n_bytes, stream)
        return block

    def free(self, block: Block) -> None:
        """Put a live block back into its pool, merged with the free blocks beside it."""
        stream = block.pool.stream
        self.device.note("free_requested", block.address, block.requested_bytes, stream)
        self.device.note("free_completed", block.address, block.requested_bytes, stream)
        self.allocated_bytes -= block.n_bytes
        block.is_live = False
        block.absorb(block.preceding)
        block.absorb(block.following)
        block.pool.add(block)

    def release(self) -> None:
        """Give the device back what can be: unsplit segments, whole pages (``empty_cache``)."""
        for pool in self._pools():
            for _, _, block in list(pool.free):
                if block.page_bytes:
                    expandable.unmap(block, device=self.device)
                elif not block.is_split:
                    self._release(block)

    @property
    def held_bytes(self) -> int:
        """Free, and yet not to be had by the device: fragments of segments in use."""
        return sum(pool.held_bytes for pool in self.pools.values())

    # -- finding a block --------------------------------------------------------------------------

    def _cached(self, pool: Pool, size: int) -> Block | None:
        """The smallest free block that fits, then the lowest; out of the pool."""
        if self._collects and not pool.is_small:
            self._lookups.count += 1
        index = pool.first_fit_index(size)
        free = pool.free
        if index == len(free):
            return None
        block = free[index][2]
        if block.page_bytes:
            block = _least_expandable(pool, index)
        limit = self.settings.max_split_bytes
        if limit is not None:
            if size < limit <= block.n_bytes:
                return None
            if size >= limit and block.n_bytes >= size + self._rounding_bytes:
                return None
        pool.remove(block)
        return block

    def _splits(self, block: Block, size: int) -> bool:
        rest = block.n_bytes - size
        if block.pool.is_small or self.settings.expandable_segments:
            return rest >= BLOCK_STEP_BYTES
        limit = self.settings.max_split_bytes
        return rest > SMALL_MOST_BYTES and (limit is None or size < limit)

    @property
    def _rounding_bytes(self) -> int:
        rounding = self.settings.max_non_split_rounding_bytes
        return self.settings.large_segment_bytes if rounding is None else rounding

    # -- obtaining memory -------------------------------------------------------------------------

    def _obtained(self, pool: Pool, size: int) -> Block | None:
        """A block of memory new from the device, for which cached memory is released if need be."""
        if self._collects:
            self._collect_garbage()
        block = self._new(pool, size)
        if block is None and self._released_oversize(pool, size):
            block = self._new(pool, size)
        if block is None:
            self.n_retries += 1
            self.release()
            block = self._new(pool, size)
        return block

    def _new(self, pool: Pool, size: int) -> Block | None:
        large_bytes = self.settings.large_segment_bytes
        n_bytes = segment_bytes(size, large_bytes)
        allowed = self._allowed_bytes
        if allowed is not None and self.device.reserved_bytes + n_bytes > allowed:
            return None
        if self.settings.expandable_segments:
            page = SMALL_SEGMENT_BYTES if pool.is_small else large_bytes
            return expandable.grown_block(pool, size, page_bytes=page, device=self.device)
        address = self.device.allocated(n_bytes, pool.stream)
        return None if address is None else Block(address=address, n_bytes=n_bytes, pool=pool)

    # -- releasing --------------------------------------------------------------------------------

    def _release(self, block: Block) -> None:
        block.pool.remove(block)
        self.device.free(block.address, block.n_bytes, block.pool.stream)

    def _released_oversize(self, pool: Pool, size: int) -> bool:
        """Release blocks above the split limit, just enough for a request; whether it was enough."""
        limit = self.settings.max_split_bytes
        if limit is None or self.settings.expandable_segments:
            return False
        wanted = max(size, limit)
        index = pool.first_fit_index(wanted)
        if index < len(pool.free):
            self._release(pool.free[index][2])
            return True
        oversize = takewhile(lambda key: key[0] >= limit, reversed(list(pool.free)))
        released = 0
        for n_bytes, _, block in oversize:
            if released >= wanted:
                break
            released += n_bytes
            self._release(block)
        return released >= wanted

    def _collect_garbage(self) -> None:
        """Release large segments that were passed over longest, down to the threshold."""
        allowed = self._allowed_bytes or 0
        threshold = int(self.settings.garbage_collection_threshold_frac * allowed)
        excess = self.device.reserved_bytes - threshold
        cached = [
            block
            for pool in self._pools()
            if not pool.is_small
            for _, _, block in pool.free
            if not block.is_split and not block.page_bytes
        ]
        while excess > 0 and cached:
            ages = [self._lookups.count - block.inserted_at for block in cached]
            # Every pass releases all that are at least of average age: at least one.
            mean_age = sum(ages) / len(ages)
            old = [block for block, age in zip(cached, ages, strict=True) if age >= mean_age]
            cached = [block for block, age in zip(cached, ages, strict=True) if age < mean_age]
            for block in old:
                excess -= block.n_bytes
                self._release(block)

    def _pools(self) -> Iterator[Pool]:
        """Large ones first, then by stream, as torch walks over them."""
        for key in sorted(self.pools, key=lambda key: (key[1], key[0])):
            yield self.pools[key]


def _least_expandable(pool: Pool, index: int) -> Block:
    """From the first fit on, pass to the next while that could grow less than this one.

    A block that could still grow at its end counts with all that it could grow to.
    """
    block = pool.free[index][2]
    for _, _, other in pool.free[index + 1 :]:
        if _most_bytes(other) >= _most_bytes(block):
            break
        block = other
    return block


def _most_bytes(block: Block) -> int:
    after = block.following
    return block.n_bytes + (after.n_bytes if after is not None and not after.is_mapped else 0)
