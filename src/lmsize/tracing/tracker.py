"""Sees every operation of a step, and through them every storage that comes and goes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from lmsize.tracing.answers import answer
from lmsize.tracing.kernels import FAKES, FILLS, PROMOTING, promoted_copies
from lmsize.tracing.ledger import Ledger
from lmsize.tracing.modules import ModulePaths
from lmsize.tracing.storages import Storage
from lmsize.tracing.values import Values

_ADD = torch.ops.aten.add.Tensor
_VALUE = torch.ops.aten._local_scalar_dense.default
_INDEX = torch.ops.aten.index.Tensor
_ENGINE = torch.autograd.graph._engine_run_backward.__code__


class Tracker(TorchDispatchMode):  # type: ignore[misc]  # torch is Any to mypy
    """A mode around a step: whatever runs under it, on fake tensors or real ones, is logged.

    It stands outside of a FakeTensorMode, so it sees the operations that the program asks for and
    not those that fake tensors are computed by.

    Args:
        ledger: keeps the log.
        n_flops: FLOPs of an operation, called as ``n_flops(func, args, kwargs, out)``.
    """

    def __init__(
        self, modules: ModulePaths, ledger: Ledger, *, n_flops: Callable[..., float] | None = None
    ) -> None:
        super().__init__()
        self.ledger, self.values = ledger, Values()
        self._modules, self._n_flops = modules, n_flops
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
        self.ledger.log.spread_evenly = self.values.spread_evenly

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(kind is DTensor for kind in types):
            return NotImplemented  # what it does with its local tensors comes here again
        if not self._looks:
            return func(*args, **(kwargs or {}))
        ledger, kwargs = self.ledger, kwargs or {}
        ledger.expect_no_sum()
        if func is _VALUE and isinstance(args[0], FakeTensor) and args[0].constant is None:
            return answer(args[0], ledger.phase, self.values.number)
        out = self._called(func, args, kwargs)
        ledger.log.n_ops += 1
        path = self._locate(args)
        self.values.note(func, args, kwargs, out)
        if isinstance(out, torch.Tensor):
            with ledger.scratch(self._scratch(func, args, path)):
                stored = ledger.see(out, func, path)
                if ledger.in_backward and stored is not None and stored.n_bytes:
                    self._consider_in_place(func, args)
        elif isinstance(out, tuple | list):
            self._see_all(out, func, path, args)
        if self._n_flops is not None:
            done = self._n_flops(func, args, kwargs, out)
            if done:
                flops, key = ledger.log.n_flops, (ledger.phase, ledger.layer)
                flops[key] = flops.get(key, 0.0) + done
        return out

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

    def _see_all(self, out: Iterable[Any], func: Any, path: str, args: Any) -> None:
        """The tensors of a result that has several; a foreach's belong to its inputs one by one."""
        inputs = args[0] if args and isinstance(args[0], tuple | list) else ()
        outside = self._modules.running is None
        for at, one in enumerate(out):
            if isinstance(one, torch.Tensor):
                if outside and at < len(inputs) and isinstance(inputs[at], torch.Tensor):
                    self.ledger.follow(inputs[at])
                self.ledger.see(one, func, path)
            elif isinstance(one, tuple | list):
                self._see_all(one, func, path, ())

    def _scratch(self, func: Any, args: Any, path: str) -> Iterator[Storage]:
        """What the CPU takes while an operation runs."""
        if self.ledger.device_type != "cpu" or func not in PROMOTING:
            return
        for tensor, dtype in promoted_copies(func, args):
            made = Storage(
                tensor.numel() * dtype.itemsize, self.ledger.phase, path, f"{func} scratch",
                tuple(tensor.shape), str(dtype),
            )  # fmt: skip
            made.layer = self.ledger.layer
            yield made

    def _consider_in_place(self, func: Any, args: Any) -> None:
        """Gradients that meet are summed in place, and zeros filled, but for subclasses of tensors.

        Autograd does so out of place when it sees a fake tensor (or any mode). An addition that the
        engine itself asks for, with an operand that goes at once, is done in place by real tensors.
        """
        if func is not _ADD and func not in FILLS:
            return
        if sys._getframe(2).f_code is not _ENGINE or torch.is_grad_enabled():
            return
        might = args[:2] if func is _ADD else args[:1]
        self.ledger.expect_sum(one for one in might if isinstance(one, torch.Tensor))
