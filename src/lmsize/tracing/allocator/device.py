"""The driver's side: memory of a capacity, addresses, and a record of what was done."""

from __future__ import annotations

from typing import NamedTuple

from lmsize.tracing.allocator.sizes import SEGMENT_STEP_BYTES, multiple_bytes

FIRST_ADDRESS = 0x7F00_0000_0000
ENDLESS_BYTES = 2**40  # address space of an expandable segment when no capacity is given


class Action(NamedTuple):
    """One entry of the history, named as PyTorch's memory snapshots name it."""

    action: str
    address: int
    n_bytes: int
    stream: int
    event_index: int


class Device:
    """Gives out segments and pages until its capacity is reached.

    Addresses only rise: a driver may hand out an address again, which could change which of two
    equal blocks is taken first, but not whether one is.

    Attributes:
        capacity_bytes: what the allocator may take in all; None for no limit.
        actions: the history, or None when it is not kept.
        reserved_steps: (event index, bytes) whenever what is reserved changed.
    """

    def __init__(self, *, capacity_bytes: int | None, keeps_history: bool) -> None:
        self.capacity_bytes = capacity_bytes
        self.actions: list[Action] | None = [] if keeps_history else None
        self.event_index = 0
        self.reserved_bytes = 0
        self.peak_reserved_bytes = 0
        self.n_segments = 0
        self.peak_n_segments = 0
        self.reserved_steps: list[tuple[int, int]] = []
        self._next_address = FIRST_ADDRESS

    def allocated(self, n_bytes: int, stream: int) -> int | None:
        """A new segment's address; None if the capacity does not allow it."""
        if not self._fits(n_bytes):
            return None
        address = self.addresses(n_bytes, SEGMENT_STEP_BYTES)
        self._count(n_bytes, n_segments=1)
        self.note("segment_alloc", address, n_bytes, stream)
        return address

    def free(self, address: int, n_bytes: int, stream: int) -> None:
        """Take a segment back."""
        self._count(-n_bytes, n_segments=-1)
        self.note("segment_free", address, n_bytes, stream)

    def mapped(self, address: int, n_bytes: int, stream: int) -> bool:
        """Put memory behind addresses; False if the capacity does not allow all of it."""
        if not self._fits(n_bytes):
            return False
        self._count(n_bytes)
        self.note("segment_map", address, n_bytes, stream)
        return True

    def unmap(self, address: int, n_bytes: int, stream: int) -> None:
        """Take the memory behind addresses back."""
        self._count(-n_bytes)
        self.note("segment_unmap", address, n_bytes, stream)

    def addresses(self, n_bytes: int, step_bytes: int) -> int:
        """The first of n_bytes unused addresses, a multiple of a step."""
        address = multiple_bytes(self._next_address, step_bytes)
        self._next_address = address + n_bytes
        return address

    @property
    def address_space_bytes(self) -> int:
        """Of one expandable segment: 9/8 of the device, so that gaps can be left behind."""
        if self.capacity_bytes is None:
            return ENDLESS_BYTES
        return self.capacity_bytes + self.capacity_bytes // 8

    def note(self, action: str, address: int, n_bytes: int, stream: int) -> None:
        """Add to the history, if one is kept."""
        if self.actions is not None:
            self.actions.append(Action(action, address, n_bytes, stream, self.event_index))

    def _fits(self, n_bytes: int) -> bool:
        return self.capacity_bytes is None or self.reserved_bytes + n_bytes <= self.capacity_bytes

    def _count(self, n_bytes: int, *, n_segments: int = 0) -> None:
        self.reserved_bytes += n_bytes
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, self.reserved_bytes)
        self.n_segments += n_segments
        self.peak_n_segments = max(self.peak_n_segments, self.n_segments)
        self.reserved_steps.append((self.event_index, self.reserved_bytes))
