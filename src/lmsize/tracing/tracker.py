"""Sees every operation of a step, and through them every storage that comes and goes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from lmsize.tracing.answers import answer
from lmsize.tracing.kernels import FAKES, FILLS
from lmsize.tracing.ledger import Ledger
from lmsize.tracing.modules import ModulePaths
from lmsize.tracing.scratch import Request, paired, requests
from lmsize.tracing.storages import Layer, Storage
from lmsize.tracing.values import Values
from lmsize.tracing.work import Work
from lmsize.tracing.wrapped import WrappedNumbers

_ADD = torch.ops.aten.add.Tensor
_VALUE = torch.ops.aten._local_scalar_dense.default
_INDEX = torch.ops.aten.index.Tensor
_DENSE = torch.ops.aten.is_non_overlapping_and_dense.default
_SOFTMAX = torch.ops.aten._safe_softmax.default  # which plain attention alone asks for
_ENGINE = torch.autograd.graph._engine_run_backward.__code__


class Tracker(TorchDispatchMode):  # type: ignore[misc]  # torch is Any to mypy
    """A mode around a step: whatever runs under it, on fake tensors or real ones, is logged.

    It stands outside of a FakeTensorMode, so it sees the operations that the program asks for and
    not those that fake tensors are computed by.

    Args:
        ledger: keeps the log.
        n_flops: FLOPs of an operation, called as ``n_flops(func, args, kwargs, out)``; `n_moved`
            the bytes that it moves.
    """

    def __init__(
        self, modules: ModulePaths, ledger: Ledger, *,
        n_flops: Callable[..., float] | None = None, n_moved: Callable[..., float] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.ledger, self.values = ledger, Values()
        self._modules = modules
        kinds = ((n_flops, ledger.log.n_flops), (n_moved, ledger.log.n_moved))
        self._work = [Work(count, sums) for count, sums in kinds if count is not None]
        self._wrapped = WrappedNumbers(ledger)
        self._looks = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and the wrapper would stand in every call

    @contextmanager
    def random_states_seen(self) -> Iterator[None]:
        """Log the states of the generator that checkpointing keeps, which no operation makes."""
        state_of = torch.get_rng_state

        def get_rng_state() -> Any:
            state = state_of()
            self.ledger.see(state, "get_rng_state", self._locate(()))
            return state

        torch.get_rng_state = get_rng_state
        try:
            yield
        finally:
            torch.get_rng_state = state_of

    @contextmanager
    def resizing_seen(self) -> Iterator[None]:
        """Log storages that are emptied and filled again, as FSDP does with gathered weights."""
        resize = torch.UntypedStorage.resize_

        def resized(untyped: Any, n_bytes: int) -> Any:
            self.ledger.resize(untyped, n_bytes)
            return resize(untyped, n_bytes)

        torch.UntypedStorage.resize_ = resized
        try:
            yield
        finally:
            torch.UntypedStorage.resize_ = resize

    @contextmanager
    def looking_away(self) -> Iterator[None]:
        """What is made while it lasts is not there in an ordinary run."""
        before, self._looks = self._looks, False
        try:
            yield
        finally:
            self._looks = before

    def close(self) -> None:
        """Log nothing more."""
        self.ledger.close()
        self.ledger.log.assumed |= self.values.assumed

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(kind is DTensor for kind in types):
            return NotImplemented  # what it does with its local tensors comes here again
        if not self._looks:
            return func(*args, **(kwargs or {}))
        ledger, kwargs = self.ledger, kwargs or {}
        if func.namespace == "prim":
            ledger.look_at()
            return func(*args, **kwargs)
        ledger.begin_operation(func, args)
        self._wrapped.settle()
        if func is _VALUE and isinstance(args[0], FakeTensor) and args[0].constant is None:
            return answer(args[0], ledger.phase, self.values.number)
        self._find(args)
        out = self._called(func, args, kwargs)
        ledger.log.n_ops += 1
        path = self._locate(args)
        self.values.note(func, args, kwargs, out)
        self._see(func, args, kwargs, out, path)
        if ledger.device_type == "cpu":
            self._wrapped.note(func, args, out, path)
        for work in self._work:
            work.note(func, args, kwargs, out, phase=ledger.phase, layer_of=self._layer_of)
        return out

    def _find(self, args: Any) -> None:
        """Note what was there before and is met only now: a batch that a step of its own holds."""
        for one in args:
            if isinstance(one, FakeTensor):
                self.ledger.find(one)
            elif isinstance(one, list | tuple):
                self._find(one)

    def _layer_of(self, tensor: Any) -> Layer | None:
        """The layer that a tensor of a list belongs to; without one, the layer at work."""
        stored = None if tensor is None else self.ledger.storage(tensor)
        return self.ledger.layer if stored is None else stored.layer

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
            self.ledger.layer = modules.layer(path) or self.ledger.layer
            return path
        if args and isinstance(args[0], torch.Tensor):
            self.ledger.follow(args[0])
        return ""

    def _see(self, func: Any, args: Any, kwargs: Any, out: Any, path: str) -> None:
        """Everything that an operation asks of the allocator, in the order in which its kernel asks."""
        fresh = [one for one in self._results(out, args) if self.ledger.storage(one[0]) is None]
        asked = self._requests(func, args, kwargs, out)
        there = [tensor.untyped_storage().nbytes() for tensor, _ in fresh]
        places = paired([one.n_bytes for one in asked if one.is_result], there)
        for n_bytes, is_result in asked:
            if not is_result:
                self.ledger.borrow(n_bytes, func, path)
            elif (at := places.pop(0)) is not None:
                self._see_one(*fresh[at], func, path, args, n_bytes=n_bytes)
        for one in fresh:
            self._see_one(*one, func, path, args)

    def _requests(self, func: Any, args: Any, kwargs: Any, out: Any) -> tuple[Request, ...]:
        if self.ledger.device_type != "cpu":
            return ()
        return requests(func, args, kwargs, out, self.values.numbers)

    def _results(self, out: Any, args: Any) -> Iterator[tuple[Any, Any]]:
        """The tensors of a result; those of a foreach with the input that each belongs to."""
        if isinstance(out, torch.Tensor):
            yield out, None
        elif isinstance(out, tuple | list):
            outside = self._modules.running is None
            inputs = args[0] if outside and args and isinstance(args[0], tuple | list) else ()
            for at, one in enumerate(out):
                if isinstance(one, torch.Tensor):
                    yield one, inputs[at] if at < len(inputs) else None
                else:
                    yield from self._results(one, ())

    def _see_one(
        self, tensor: Any, owner: Any, func: Any, path: str, args: Any, *, n_bytes: int | None = None
    ) -> None:  # fmt: skip
        if isinstance(owner, torch.Tensor):
            self.ledger.follow(owner)
        stored = self.ledger.see(tensor, func, path, n_bytes=n_bytes)
        if stored is not None and stored.n_bytes:
            self._consider_in_place(func, args, stored)

    def _consider_in_place(self, func: Any, args: Any, made: Storage) -> None:
        """Some sums are made in place, and zeros filled, but for subclasses of tensors.

        torch does so out of place when it sees a fake tensor (or any mode). An addition that the
        engine itself asks for is done in place by real tensors where the gradient that came first lies
        together, is no view (which holds what it views) and is held by nobody else, so that it goes at
        once (InputBuffer::accumulate); so is that of a mask to the scores of plain attention
        (_scaled_dot_product_attention_math).
        """
        if (func is not _ADD and func not in FILLS) or not isinstance(args[0], torch.Tensor):
            return
        if not self.ledger.in_backward or sys._getframe(4).f_code is not _ENGINE:
            if func is _ADD and self._modules.running is not None:
                self.ledger.expect_sum(made, args[0], user=_SOFTMAX)
        elif not torch.is_grad_enabled() and not args[0]._is_view() and _DENSE(args[0]):
            self.ledger.expect_sum(made, args[0])
