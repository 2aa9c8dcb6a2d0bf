"""Storages that come and go, written down in the order in which they do."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed.tensor import DTensor

from lmsize.tracing.modules import ModulePaths
from lmsize.tracing.ranks import current_stream
from lmsize.tracing.storages import Entry, Layer, Log, Storage


def local(tensor: Any) -> Any:
    """This rank's part of a tensor that is spread over ranks; any other tensor itself."""
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor


class _Hold(weakref.ref[Any]):
    """A weak hold on a storage, which dies with it and not before."""

    __slots__ = ("key", "number", "storage")
    key: int
    number: int
    storage: Storage


@dataclass(slots=True)
class _Sum:
    """What was made just now, and the operand whose place it takes where that goes at once.

    Attributes:
        user: the operation that has to come next for it to be so; None for any.
        has_gone: the operand has.
    """

    made: Storage
    operand: Storage
    user: Any
    has_gone: bool = False


class Ledger:
    """Which storages there are, whose they are, and the log of their coming and going.

    Args:
        device_type: only storages that (say they) lie there are written down.

    Attributes:
        phase: the part of the step that runs; `in_backward` whether it is a backward.
        layer: at work.
    """

    def __init__(self, modules: ModulePaths, *, device_type: str) -> None:
        self.log = Log()
        self.phase, self.in_backward = "setup", False
        self.layer: Layer | None = None
        self.device_type = device_type
        self._modules = modules
        self._holds: dict[int, _Hold] = {}
        self._n_seen, self._is_closed = 0, False
        self._going: list[tuple[int, Storage, Layer | None]] = []
        self._borrowed: list[Storage] = []
        self._category = self._transient = ""
        self._sum: _Sum | None = None

    def begin(self, phase: str) -> None:
        """Say which part of the step begins."""
        self._let_go()
        self.phase, self.in_backward = phase, phase.endswith("backward")
        self.begin_operation(None, ())

    def storage(self, tensor: Any) -> Storage | None:
        """What is known of a tensor's storage; None if it was never seen."""
        hold = self._holds.get(local(tensor).untyped_storage()._cdata)
        return hold.storage if hold else None

    def hold(self, path: str, tensor: Any, category: str) -> None:
        """Take note of a tensor that was there before, such as a parameter at its path."""
        self.layer = self._modules.layer(path)
        stored = self.see(local(tensor), "", path)
        if stored is not None:
            stored.category = category

    def find(self, tensor: Any) -> None:
        """An operation reads a tensor that was there before the first step and was not named."""
        if self.storage(tensor) is not None:
            return
        stored = self.see(tensor, "", "")
        if stored is not None and stored.n_bytes:
            stored.category, stored.phase, stored.layer = "inputs", "setup", None
            entry = self.log.entries.pop()
            self.log.entries.insert(0, entry._replace(phase="setup", layer=None))

    def name(self, tensor: Any, category: str, path: str = "") -> None:
        """Say what a tensor has turned out to be, and whose."""
        stored = self.storage(tensor)
        if stored is not None and stored.category in ("", self._transient):
            stored.category = category
            stored.module = path or stored.module

    @contextmanager
    def making(self, category: str) -> Iterator[None]:
        """What is made while it lasts is of that category, unless it turns out to be another."""
        before, self._category, self._transient = self._category, category, category
        try:
            yield
        finally:
            self._category = before

    def follow(self, tensor: Any) -> None:
        """Outside of the model, work belongs to the layer whose tensor it is done on."""
        stored = self.storage(tensor)
        if stored is not None and stored.layer is not None:
            self.layer = stored.layer

    def see(
        self, tensor: Any, func: Any, path: str, *, n_bytes: int | None = None
    ) -> Storage | None:  # fmt: skip
        """Write a tensor's storage down unless it is known; None if it is.

        Args:
            n_bytes: as the kernel asks for them; by the tensor itself if None.
        """
        device = tensor.fake_device if type(tensor) is FakeTensor else tensor.device
        if device.type != self.device_type:
            return None
        untyped = tensor.untyped_storage()
        key = untyped._cdata
        if key in self._holds:
            return None
        stored = Storage(
            untyped.nbytes() if n_bytes is None else n_bytes, self.phase, path, str(func), tuple(tensor.shape), str(tensor.dtype),
            current_stream(), self.layer, self._category,
        )  # fmt: skip
        hold = _Hold(untyped, self._release)
        hold.key, hold.number, hold.storage = key, self._n_seen, stored
        self._n_seen += 1
        self._holds[key] = hold
        if stored.n_bytes:
            self._let_go()
            self._write(stored, is_alloc=True)
        return stored

    def resize(self, untyped: Any, n_bytes: int) -> None:
        """A storage that is known goes, and comes with another size."""
        hold = self._holds.get(untyped._cdata)
        if hold is None or n_bytes == hold.storage.n_bytes:
            return
        self._let_go()
        if hold.storage.n_bytes:
            self._write(hold.storage, is_alloc=False)
        hold.storage = replace(
            hold.storage, n_bytes=n_bytes, phase=self.phase, layer=self.layer,
            category=self._category,
        )  # fmt: skip
        if n_bytes:
            self._write(hold.storage, is_alloc=True)

    def borrow(self, n_bytes: int, func: Any, path: str) -> None:
        """A kernel takes bytes to work in, or gives back as many as it took (negative)."""
        if n_bytes > 0:
            self._borrowed.append(self.keep(n_bytes, f"{func} scratch", path))
            return
        at = next(at for at, one in enumerate(self._borrowed) if one.n_bytes == -n_bytes)
        self.drop(self._borrowed.pop(at))

    def keep(self, n_bytes: int, op: str, path: str) -> Storage:
        """Bytes without a tensor to see them by, until they are dropped."""
        self._let_go()
        shape, dtype = (n_bytes,), "torch.uint8"
        made = Storage(n_bytes, self.phase, path, op, shape, dtype, layer=self.layer)
        self._write(made, is_alloc=True)
        return made

    def drop(self, stored: Storage) -> None:
        """Such bytes go."""
        if not self._is_closed:
            self._let_go()
            self._write(stored, is_alloc=False)

    def expect_sum(self, made: Storage, operand: Any, *, user: Any = None) -> None:
        """What was made just now takes the place of the operand, should that go right after it.

        Args:
            user: only if this operation comes next, and works on what was made.
        """
        known = self.storage(operand)
        if known is not None and known.n_bytes >= made.n_bytes:
            self._sum = _Sum(made, known, user)

    def begin_operation(self, func: Any, args: Any) -> None:
        """What goes from here on goes, unless a sum was made for this operation."""
        found, self._sum = self._sum, None
        if found is None or not found.has_gone or func is not found.user:
            return
        if self.storage(args[0]) is found.made:
            self._accumulate(found)

    def look_at(self) -> None:
        """A tensor was asked what it is, which may be in the middle of an operation."""
        if self._sum is not None and self._sum.user is None:
            self._sum = None

    def close(self) -> None:
        """Write nothing more: what goes from here on goes because the trace is over."""
        self._let_go()
        self._holds.clear()
        self._is_closed = True

    def _write(self, stored: Storage, *, is_alloc: bool) -> None:
        self.log.entries.append(Entry(stored, is_alloc, self.phase, self.layer))

    def _release(self, hold: _Hold) -> None:
        stored = hold.storage
        if self._holds.get(hold.key) is hold:
            del self._holds[hold.key]
        if not stored.n_bytes:
            return
        if self._sum is not None and stored is self._sum.operand:
            self._sum.has_gone = True
            if self._sum.user is None:
                self._accumulate(self._sum)
                return
        if self.in_backward or self._modules.among_layers:
            self._let_go()
            self._write(stored, is_alloc=False)
        else:  # it goes by itself, and not as a part of the work of a layer
            self._going.append((hold.number, stored, self.layer))

    def _let_go(self) -> None:
        """Log what went together, with nothing asked for in between, in the order in which it came.

        Casts that autocast kept, for one, go in the order of their addresses, which means nothing.
        When those of many layers go, each goes with its layer.
        """
        if not self._going:
            return
        going = sorted(self._going, key=lambda one: one[0])
        self._going.clear()
        layer = going[0][2]
        many = len({stored.layer for _, stored, _ in going}) > 2
        for _, stored, at in going:
            layer = at if not many else stored.layer or layer
            self.log.entries.append(Entry(stored, False, self.phase, layer))

    def _accumulate(self, found: _Sum) -> None:
        """The sum lies where the operand did: neither did the one come nor the other go."""
        made, operand = found.made, found.operand
        self._going = [one for one in self._going if one[1] is not operand]
        entries = self.log.entries
        at = len(entries) - 1
        while not (entries[at].storage is made and entries[at].is_alloc):
            if entries[at].storage is operand:
                del entries[at]
            at -= 1
        del entries[at]
        hold = next(h for h in reversed(self._holds.values()) if h.storage is made)
        hold.storage = operand
