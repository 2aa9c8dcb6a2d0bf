"""Expandable segments: one range of addresses for a stream and pool, mapped page by page.

Source: "Note [Expandable Segments]" and ``find_expandable_block``, ``map_block``, ``unmap_block``
of ``c10/cuda/CUDACachingAllocator.cpp``.
"""

from __future__ import annotations

from lmsize.tracing.allocator.blocks import Block, Pool, whole_pages
from lmsize.tracing.allocator.device import Device
from lmsize.tracing.allocator.sizes import multiple_bytes


def grown_block(pool: Pool, n_bytes: int, *, page_bytes: int, device: Device) -> Block | None:
    """A free block of at least n_bytes, out of its pool, made by mapping pages.

    None if the device lacks the memory; what was mapped by then stays in the pool, free.
    """
    block = _block_to_grow(pool, n_bytes, page_bytes=page_bytes, device=device)
    if not block.is_mapped and not _mapped(block, min(block.n_bytes, n_bytes), device=device):
        return None
    while block.n_bytes < n_bytes:
        rest = block.following
        assert rest is not None
        assert not rest.is_mapped
        if not _mapped(rest, min(n_bytes - block.n_bytes, rest.n_bytes), device=device):
            return None
        block = rest  # which took in the block before it
    pool.remove(block)
    return block


def unmap(block: Block, *, device: Device) -> None:
    """Give the whole pages of a free block back to the device."""
    start, end = whole_pages(block)
    if end <= start:
        return
    pool = block.pool
    pool.remove(block)
    if block.address < start:
        pool.add(block.cut(start - block.address))
    if end < block.address + block.n_bytes:
        middle = block.cut(end - block.address)
        pool.add(block)
        block = middle
    block.is_mapped = False
    block.absorb(block.preceding)
    block.absorb(block.following)
    if block.is_split:  # otherwise the segment is empty and goes, addresses and all
        pool.add(block)
    device.unmap(start, end - start, pool.stream)


def _block_to_grow(pool: Pool, n_bytes: int, *, page_bytes: int, device: Device) -> Block:
    """The lowest free or unmapped block from which n_bytes can be had without a live one between."""
    for _, unmapped in pool.unmapped:
        before = unmapped.preceding
        block = before if before is not None and not before.is_live else unmapped
        if _has_room(block, n_bytes):
            return block
    space = multiple_bytes(max(device.address_space_bytes, n_bytes), page_bytes)
    block = Block(
        address=device.addresses(space, page_bytes), n_bytes=space, pool=pool, page_bytes=page_bytes
    )
    block.is_mapped = False
    pool.add(block)
    return block


def _has_room(block: Block, n_bytes: int) -> bool:
    room = 0
    after: Block | None = block
    while room < n_bytes and after is not None and not after.is_live:
        room += after.n_bytes
        after = after.following
    return room >= n_bytes


def _mapped(block: Block, n_bytes: int, *, device: Device) -> bool:
    """Map the first n_bytes of an unmapped block, rounded up to pages; it becomes that part."""
    n_bytes = multiple_bytes(n_bytes, block.page_bytes)
    pool = block.pool
    if not device.mapped(block.address, n_bytes, pool.stream):
        return False
    pool.remove(block)
    if n_bytes < block.n_bytes:
        _leave_rest(block, n_bytes)
    block.is_mapped = True
    block.absorb(block.preceding)
    block.absorb(block.following)
    pool.add(block)
    return True


def _leave_rest(block: Block, n_bytes: int) -> None:
    """Split the end off an unmapped block, so that the block itself is the first n_bytes."""
    rest = Block(
        address=block.address + n_bytes,
        n_bytes=block.n_bytes - n_bytes,
        pool=block.pool,
        page_bytes=block.page_bytes,
    )
    rest.is_mapped = False
    rest.preceding, rest.following = block, block.following
    if rest.following is not None:
        rest.following.preceding = rest
    block.following = rest
    block.n_bytes = n_bytes
    block.pool.add(rest)
