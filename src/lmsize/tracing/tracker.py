"""Sees every storage come and go, in the order in which the program asks and lets go."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from lmsize.tracing.answers import answer
from lmsize.tracing.kernels import FAKES, FILLS, PROMOTING, promoted_copies
from lmsize.tracing.modules import ModulePaths
from lmsize.tracing.ranks import current_stream
from lmsize.tracing.storages import Entry, Layer, Log, Storage
from lmsize.tracing.values import Values
from lmsize.tracing.work import Work

_ADD = torch.ops.aten.add.Tensor
_VALUE = torch.ops.aten._local_scalar_dense.default
_INDEX = torch.ops.aten.index.Tensor
_ENGINE = torch.autograd.graph._engine_run_backward.__code__


def local(tensor: Any) -> Any:
    """This rank's part of a tensor that is spread over ranks; any other tensor itself."""
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor


class _Hold(weakref.ref[Any]):
    """A weak hold on a storage, which dies with it and not before."""

    __slots__ = ("key", "number", "storage")
    key: int
    number: int
    storage: Storage


class Tracker(TorchDispatchMode):  # type: ignore[misc]  # torch is Any to mypy
    """A mode around a step: whatever runs under it, on fake tensors or real ones, is logged.

    It stands outside of a FakeTensorMode, so it sees the operations that the program asks for and
    not those that fake tensors are computed by.

    Args:
        device_type: only storages that (say they) lie there are logged.
        n_flops: FLOPs of an operation, called as ``n_flops(func, args, kwargs, out)``; `n_moved`
            the bytes that it moves.
    """

    def __init__(
        self, modules: ModulePaths, *, device_type: str,
        n_flops: Callable[..., float] | None = None, n_moved: Callable[..., float] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.log, self.values = Log(), Values()
        self.phase, self.in_backward = "setup", False
        self._modules, self._device_type = modules, device_type
        kinds = ((n_flops, self.log.n_flops), (n_moved, self.log.n_moved))
        self._work = [Work(count, sums) for count, sums in kinds if count is not None]
        self._holds: dict[int, _Hold] = {}
        self._n_seen = 0
        self._going: list[tuple[int, Storage, Layer | None]] = []
        self._layer: Layer | None = None
        self._category = self._transient = ""
        self._looks = True
        self._sum: Storage | None = None
        self._operands: tuple[Storage, ...] = ()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and the wrapper would stand in every call

    def begin(self, phase: str) -> None:
        """Say which part of the step begins."""
        self._let_go()
        self.phase, self.in_backward = phase, phase.endswith("backward")
        self._sum = None

    def storage(self, tensor: Any) -> Storage | None:
        """What is known of a tensor's storage; None if it was never seen."""
        hold = self._holds.get(local(tensor).untyped_storage()._cdata)
        return hold.storage if hold else None

    def hold(self, path: str, tensor: Any, category: str) -> None:
        """Take note of a tensor that was there before, such as a parameter at its path."""
        self._layer = self._modules.layer(path)
        stored = self._see(local(tensor), "", path)
        if stored is not None:
            stored.category = category

    def name(self, tensor: Any, category: str, path: str = "") -> None:
        """Say what a tensor has turned out to be, and whose."""
        stored = self.storage(tensor)
        if stored is not None and stored.category in ("", self._transient):
            stored.category = category
            stored.module = path or stored.module

    @contextmanager
    def random_states_seen(self) -> Iterator[None]:
        """Log the states of the generator that checkpointing keeps, which no operation makes."""
        state_of = torch.get_rng_state

        def get_rng_state() -> Any:
            state = state_of()
            self._see(state, "get_rng_state", self._locate(()))
            return state

        torch.get_rng_state = get_rng_state
        try:
            yield
        finally:
            torch.get_rng_state = state_of

    @contextmanager
    def making(self, category: str) -> Iterator[None]:
        """What is made while it lasts is of that category, unless it turns out to be another."""
        before, self._category, self._transient = self._category, category, category
        try:
            yield
        finally:
            self._category = before

    @contextmanager
    def looking_away(self) -> Iterator[None]:
        """What is made while it lasts is not there in an ordinary run."""
        before, self._looks = self._looks, False
        try:
            yield
        finally:
            self._looks = before

    @contextmanager
    def resizing_seen(self) -> Iterator[None]:
        """Log storages that are emptied and filled again, as FSDP does with gathered weights."""
        resize = torch.UntypedStorage.resize_

        def resized(untyped: Any, n_bytes: int) -> Any:
            hold = self._holds.get(untyped._cdata)
            if hold is not None and n_bytes != hold.storage.n_bytes:
                self._resize(hold, n_bytes)
            return resize(untyped, n_bytes)

        torch.UntypedStorage.resize_ = resized
        try:
            yield
        finally:
            torch.UntypedStorage.resize_ = resize

    def _resize(self, hold: _Hold, n_bytes: int) -> None:
        """The same storage goes, and comes with another size."""
        self._let_go()
        if hold.storage.n_bytes:
            self.log.entries.append(Entry(hold.storage, False, self.phase, self._layer))
        hold.storage = replace(
            hold.storage,
            n_bytes=n_bytes,
            phase=self.phase,
            layer=self._layer,
            category=self._category,
        )
        if n_bytes:
            self.log.entries.append(Entry(hold.storage, True, self.phase, self._layer))

    def close(self) -> None:
        """Log nothing more: what goes from here on goes because the trace is over."""
        self._let_go()
        self._holds.clear()
        self.log.spread_evenly = self.values.spread_evenly

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(kind is DTensor for kind in types):
            return NotImplemented  # what it does with its local tensors comes here again
        if not self._looks:
            return func(*args, **(kwargs or {}))
        self._sum = None
        kwargs = kwargs or {}
        if func is _VALUE and isinstance(args[0], FakeTensor) and args[0].constant is None:
            return answer(args[0], self.phase, self.values.number)
        out = self._called(func, args, kwargs)
        self.log.n_ops += 1
        path = self._locate(args)
        self.values.note(func, args, kwargs, out)
        if isinstance(out, torch.Tensor):
            scratch = self._scratch(func, args, path)
            stored = self._see(out, func, path)
            if self.in_backward and stored is not None and stored.n_bytes:
                self._consider_in_place(func, args)
            self.log.entries += [e._replace(is_alloc=False) for e in scratch]
        elif isinstance(out, tuple | list):
            self._see_all(out, func, path, args)
        for work in self._work:
            work.note(func, args, kwargs, out, phase=self.phase, layer_of=self._layer_of)
        return out

    def _layer_of(self, tensor: Any) -> Layer | None:
        """The layer that a tensor of a list belongs to; without one, the layer at work."""
        stored = None if tensor is None else self.storage(tensor)
        return self._layer if stored is None else stored.layer

    def _called(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What an operation gives; where its shape depends on data, from what is known of them."""
        if torch.Tag.dynamic_output_shape in func.tags and isinstance(args[0], FakeTensor):
            if func is _INDEX:
                args = self.values.with_places(args, self._nonzero) or args
            else:
                out = self.values.shaped(func, args, kwargs)
                if out is not None:
                    return out
        return (FAKES.get(func) or func)(*args, **kwargs)

    def _nonzero(self, mask: Any) -> Any:
        return self.__torch_dispatch__(torch.ops.aten.nonzero.default, (), (mask,))

    def _locate(self, args: Any) -> str:
        """Path of the module at work; moves the layer along."""
        modules = self._modules
        path = modules.running
        if path is None:
            node = torch._C._current_autograd_node()
            if node is not None:
                path = modules.of_node(node)
        if path is not None:
            layer = modules.layer(path)
            if layer is not None:
                self._layer = layer
            return path
        if args and isinstance(args[0], torch.Tensor):
            self._follow(args[0])
        return ""

    def _follow(self, tensor: Any) -> None:
        """Outside of the model, work belongs to the layer whose tensor it is done on."""
        stored = self.storage(tensor)
        if stored is not None and stored.layer is not None:
            self._layer = stored.layer

    def _see_all(self, out: Iterable[Any], func: Any, path: str, args: Any) -> None:
        """The tensors of a result that has several; a foreach's belong to its inputs one by one."""
        inputs = args[0] if args and isinstance(args[0], tuple | list) else ()
        outside = self._modules.running is None
        for at, one in enumerate(out):
            if isinstance(one, torch.Tensor):
                if outside and at < len(inputs) and isinstance(inputs[at], torch.Tensor):
                    self._follow(inputs[at])
                self._see(one, func, path)
            elif isinstance(one, tuple | list):
                self._see_all(one, func, path, ())

    def _see(self, tensor: Any, func: Any, path: str) -> Storage | None:
        """Log a tensor's storage unless it is known; None if it is."""
        device = tensor.fake_device if type(tensor) is FakeTensor else tensor.device
        if device.type != self._device_type:
            return None
        untyped = tensor.untyped_storage()
        key = untyped._cdata
        if key in self._holds:
            return None
        stored = Storage(
            untyped.nbytes(), self.phase, path, str(func), tuple(tensor.shape), str(tensor.dtype),
            current_stream(), self._layer, self._category,
        )  # fmt: skip
        hold = _Hold(untyped, self._release)
        hold.key, hold.number, hold.storage = key, self._n_seen, stored
        self._n_seen += 1
        self._holds[key] = hold
        if stored.n_bytes:
            self._let_go()
            self.log.entries.append(Entry(stored, True, self.phase, self._layer))
        return stored

    def _release(self, hold: _Hold) -> None:
        stored = hold.storage
        if self._holds.get(hold.key) is hold:
            del self._holds[hold.key]
        if not stored.n_bytes:
            return
        if self._sum is not None and any(stored is operand for operand in self._operands):
            self._accumulate(stored)
            return
        if self._stands_apart():
            self._going.append((hold.number, stored, self._layer))
            return
        self._let_go()
        self.log.entries.append(Entry(stored, False, self.phase, self._layer))

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

    def _stands_apart(self) -> bool:
        """Whether what goes now goes by itself, and not as a part of the work of a layer."""
        return not self.in_backward and not self._modules.among_layers

    def _scratch(self, func: Any, args: Any, path: str) -> list[Entry]:
        """What the CPU takes while an operation runs, logged as it comes."""
        if self._device_type != "cpu" or func not in PROMOTING:
            return []
        taken = []
        for tensor, dtype in promoted_copies(func, args):
            n_bytes = tensor.numel() * dtype.itemsize
            made = Storage(
                n_bytes, self.phase, path, f"{func} scratch", tuple(tensor.shape), str(dtype)
            )
            made.layer = self._layer
            taken.append(Entry(made, True, self.phase, self._layer))
        if taken:
            self._let_go()
            self.log.entries += taken
        return taken

    def _consider_in_place(self, func: Any, args: Any) -> None:
        """Gradients that meet are summed in place, and zeros filled, but for subclasses of tensors.

        Autograd does so out of place when it sees a fake tensor (or any mode). An addition that the
        engine itself asks for, with an operand that goes at once, is done in place by real tensors.
        """
        if func is not _ADD and func not in FILLS:
            return
        if sys._getframe(2).f_code is not _ENGINE or torch.is_grad_enabled():
            return
        made = self.log.entries[-1].storage
        might = args[:2] if func is _ADD else args[:1]
        operands = (self.storage(a) for a in might if isinstance(a, torch.Tensor))
        self._operands = tuple(o for o in operands if o is not None and o.n_bytes >= made.n_bytes)
        self._sum = made

    def _accumulate(self, operand: Storage) -> None:
        """The sum lies where the operand did: neither did the one come nor the other go."""
        made, self._sum = self._sum, None
        at = next(i for i in range(1, 9) if self.log.entries[-i].storage is made)
        del self.log.entries[-at]
        hold = next(h for h in reversed(self._holds.values()) if h.storage is made)
        hold.storage = operand
