"""What a trace knows of values, though its tensors hold none.

Shapes and branches of some models depend on whole numbers that follow from the shapes alone
(positions, masks, sizes), or from which expert each token goes to. Those are worked out on demand:
a fake tensor of whole numbers or of truths remembers the operation that made it, as long as all that
went into it is known too. The largest of unknown numbers (``topk`` over a router's scores) are taken
to be spread evenly, row after row over all there is to choose from. A random number that stands alone, by
which a layer is left out now and then, is one half.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

from lmsize.tracing.known import (
    MOST_NUMBERS,
    Arguments,
    Known,
    is_known,
    keep,
    keep_all,
    known_of,
    really,
    same,
)

aten = torch.ops.aten
# Which argument after the first says along which dimension; the choice itself is the last result.
CHOICES = {
    aten.topk.default: 1, aten.argmax.default: 0, aten.argmin.default: 0, aten.sort.default: 0,
    aten.sort.stable: 1, aten.max.dim: 0, aten.min.dim: 0, aten.multinomial.default: None,
}  # fmt: skip


class _Argument(NamedTuple):
    """The argument that says what a tensor is filled with."""

    at: int


FILLED: dict[Any, Any] = {
    aten.zeros.default: 0, aten.zeros_like.default: 0, aten.new_zeros.default: 0,
    aten.ones.default: 1, aten.ones_like.default: 1, aten.new_ones.default: 1,
    aten.full.default: _Argument(1), aten.full_like.default: _Argument(1),
    aten.new_full.default: _Argument(2), aten.scalar_tensor.default: _Argument(0),
}  # fmt: skip
EVENLY = frozenset({"trace-spread-evenly"})
_COUNTS = (torch.int64, torch.int32, torch.bool, torch.uint8, torch.int16, torch.int8)


class Values:
    """What is known of the tensors of one trace.

    Attributes:
        assumed: codes of what has decided a shape or a branch without being known.
    """

    def __init__(self) -> None:
        self.assumed: set[str] = set()

    def number(self, tensor: Any) -> Any:
        """The number that a tensor of one holds, as Python's; None if it is not known."""
        numbers = self.numbers(tensor)
        return None if numbers is None else numbers[0]

    def numbers(self, tensor: Any) -> tuple[Any, ...] | None:
        """All numbers that a tensor holds, row after row; None if they are not known."""
        known = known_of(tensor)
        if known is None:
            return None
        self.assumed |= known.assumes
        with really():
            return tuple(known.value().flatten().tolist())

    def note(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        """Remember how an operation made numbers, if that can be known."""
        outs = out if isinstance(out, tuple | list) else (out,)
        if not any(isinstance(o, FakeTensor) and o.numel() <= MOST_NUMBERS for o in outs):
            return
        filled = _filled(func, args)
        if func in CHOICES and known_of(args[0]) is None:
            recipe = _spread(func, tuple(args[0].shape), args[1:], kwargs, tuple(outs[-1].shape))
            keep(outs[-1], Known(recipe, assumes=EVENLY))
        elif func is aten.rand.default and out.numel() == 1:
            keep(out, _constant(out, 0.5, assumes=frozenset({"trace-nothing-left-out"})))
        elif filled is not None:
            keep(out, _constant(out, filled))
        elif _may_be_known(args, outs):
            given = Arguments(args, kwargs)
            if given.are_known:
                keep_all(out, func, args, given)

    def shaped(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The result of an operation whose shape depends on values that are known; else None."""
        if func is aten.masked_select.default:
            mask = known_of(args[1])
            if mask is None:
                return None
            self.assumed |= mask.assumes
            with really():
                n = int(mask.value().expand(args[0].shape).sum())
            return args[0].new_empty(n)
        given = Arguments(args, kwargs)
        if not given.are_known:
            return None
        with really():
            made = given.call(func)
        self.assumed |= given.assumes
        many = isinstance(made, tuple)
        device = next(a.device for a in args if isinstance(a, torch.Tensor))
        fakes = []
        for one in made if many else (made,):
            fake = torch.empty_strided(one.shape, one.stride(), dtype=one.dtype, device=device)
            keep(fake, Known(partial(same, one), assumes=given.assumes))
            fakes.append(fake)
        return tuple(fakes) if many else fakes[0]

    def with_places(self, args: Any, nonzero: Callable[[Any], Any]) -> Any:
        """Arguments of an indexing in which masks are replaced by the places where they hold."""
        indices: list[Any] = []
        for index in args[1]:
            if index is None or index.dtype not in (torch.bool, torch.uint8):
                indices.append(index)
            elif known_of(index) is None:
                return None
            else:
                indices += nonzero(index).unbind(1)
        return (args[0], indices, *args[2:])


class Noting(TorchDispatchMode):  # type: ignore[misc]  # torch is Any to mypy
    """A mode around what makes a model and a batch: what is known of their values is remembered."""

    def __init__(self) -> None:
        super().__init__()
        self._values = Values()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # as in a tracker

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self._values.note(func, args, kwargs or {}, out)
        return out


def _filled(func: Any, args: Any) -> Any:
    """The number that a tensor is filled with when it is made; None if it is not."""
    value = FILLED.get(func)
    return args[value.at] if isinstance(value, _Argument) and len(args) > value.at else value


def _constant(tensor: Any, value: Any, *, assumes: frozenset[str] = frozenset()) -> Known:
    shape, dtype = tuple(tensor.shape), tensor.dtype
    return Known(lambda: torch.full(shape, value, dtype=dtype), assumes=assumes)


def _may_be_known(args: Any, outs: Any) -> bool:
    """A quick look: whole numbers come of anything, others of what is known alone."""
    first = next(one for one in outs if isinstance(one, FakeTensor))
    return first.dtype in _COUNTS or (bool(args) and is_known(args[0]))


def _spread(
    func: Any, shape: tuple[int, ...], args: Any, kwargs: Any, out_shape: tuple[int, ...]
) -> Callable[[], Any]:  # fmt: skip
    """Which of the numbers along a dimension are chosen: the next ones, row after row."""
    at = CHOICES[func]
    usual = None if func in (aten.argmax.default, aten.argmin.default) else -1
    dim = kwargs.get("dim", args[at] if at is not None and len(args) > at else usual)

    def recipe() -> Any:
        if dim is None or not prod(out_shape):
            return torch.zeros(out_shape, dtype=torch.int64)
        n_there = shape[dim]
        n_chosen = prod(out_shape) * n_there // prod(shape)
        rows = torch.arange(prod(out_shape)).remainder(n_there)
        moved = [n for at, n in enumerate(shape) if at != dim % len(shape)]
        return rows.reshape(*moved, n_chosen).movedim(-1, dim).reshape(out_shape).contiguous()

    return recipe
