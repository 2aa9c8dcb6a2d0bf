"""Blocks of memory, chained by address, and the pools that hold the free ones."""

from __future__ import annotations

from bisect import bisect_left, insort

from lmsize.tracing.allocator.sizes import multiple_bytes

SizeKey = tuple[int, int, "Block"]  # (n_bytes, address, block): best fit, then lowest address
AddressKey = tuple[int, "Block"]


class Block:
    """A range of addresses, live or free, between its neighbours in the same segment.

    Attributes:
        pool: where it goes when it is freed.
        page_bytes: the page of the expandable segment it lies in; 0 in an ordinary segment.
        is_mapped: whether memory lies behind the addresses; always so in an ordinary segment.
        event_index: the event that made it live.
        inserted_at: look-ups in the pool before it was put in; its age, for garbage collection.
    """

    __slots__ = (
        "address",
        "event_index",
        "following",
        "inserted_at",
        "is_live",
        "is_mapped",
        "n_bytes",
        "page_bytes",
        "pool",
        "preceding",
        "requested_bytes",
    )

    def __init__(self, *, address: int, n_bytes: int, pool: Pool, page_bytes: int = 0) -> None:
        self.address = address
        self.n_bytes = n_bytes
        self.pool = pool
        self.page_bytes = page_bytes
        self.is_live = False
        self.is_mapped = True
        self.requested_bytes = 0
        self.event_index = -1
        self.inserted_at = 0
        self.preceding: Block | None = None
        self.following: Block | None = None

    @property
    def is_split(self) -> bool:
        """Whether it is only a part of its segment."""
        return self.preceding is not None or self.following is not None

    @property
    def held_bytes(self) -> int:
        """Of a free block: what can't be given back to the device.

        An ordinary segment goes back whole, an expandable one page by page.
        """
        if not self.page_bytes:
            return self.n_bytes if self.is_split else 0
        start, end = whole_pages(self)
        return self.n_bytes - max(0, end - start)

    def cut(self, n_bytes: int) -> Block:
        """Split off the first n_bytes as a new block; self keeps the rest."""
        front = Block(
            address=self.address, n_bytes=n_bytes, pool=self.pool, page_bytes=self.page_bytes
        )
        front.is_mapped = self.is_mapped
        front.preceding, front.following = self.preceding, self
        if self.preceding is not None:
            self.preceding.following = front
        self.preceding = front
        self.address += n_bytes
        self.n_bytes -= n_bytes
        return front

    def absorb(self, other: Block | None) -> None:
        """Take in a neighbour that is free and as mapped as self; any other is left alone."""
        if other is None or other.is_live or other.is_mapped != self.is_mapped:
            return
        other.pool.remove(other)
        if other is self.preceding:
            self.address = other.address
            self.preceding = other.preceding
            if self.preceding is not None:
                self.preceding.following = self
        else:
            self.following = other.following
            if self.following is not None:
                self.following.preceding = self
        self.n_bytes += other.n_bytes


class Lookups:
    """How often pools were looked into: the clock by which cached blocks grow old."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Pool:
    """The free blocks of one stream and kind (small or large), best fit first.

    Attributes:
        free: by size, then address.
        unmapped: ranges of expandable segments without memory behind them, by address.
        held_bytes: of the free blocks, what can't be given back to the device.
    """

    __slots__ = ("free", "held_bytes", "is_small", "lookups", "stream", "unmapped")

    def __init__(self, *, stream: int, is_small: bool, lookups: Lookups) -> None:
        self.stream = stream
        self.is_small = is_small
        self.free: list[SizeKey] = []
        self.unmapped: list[AddressKey] = []
        self.held_bytes = 0
        self.lookups = lookups

    def add(self, block: Block) -> None:
        """Put in a free block; its neighbours stay as they are for as long as it is here."""
        if not block.is_mapped:
            insort(self.unmapped, (block.address, block))
            return
        block.inserted_at = self.lookups.count
        self.held_bytes += block.held_bytes
        insort(self.free, (block.n_bytes, block.address, block))

    def remove(self, block: Block) -> None:
        """Take out a block that is here."""
        if not block.is_mapped:
            del self.unmapped[bisect_left(self.unmapped, (block.address,))]
            return
        self.held_bytes -= block.held_bytes
        del self.free[bisect_left(self.free, (block.n_bytes, block.address))]

    def first_fit_index(self, n_bytes: int) -> int:
        """Index in `free` of the smallest block that holds n_bytes; its length if none does."""
        return bisect_left(self.free, (n_bytes,))


def whole_pages(block: Block) -> tuple[int, int]:
    """First and last address of the whole pages in a block; the first may exceed the last."""
    page = block.page_bytes
    return multiple_bytes(block.address, page), (block.address + block.n_bytes) // page * page
