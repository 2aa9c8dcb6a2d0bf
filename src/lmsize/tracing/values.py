"""What a trace knows of values, though its tensors hold none.

Shapes and branches of some models depend on whole numbers that follow from the shapes alone
(positions, masks, sizes), or from which expert each token goes to. Those are worked out on demand:
a fake tensor of whole numbers or of truths remembers the operation that made it, as long as all that
went into it is known too. The largest of unknown numbers (``topk`` over a router's scores) are taken
to be spread evenly, row after row over all there is to choose from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from math import prod
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
MOST_NUMBERS = 2**22  # of a tensor whose values are kept
_KEY, _ROOT = "_lmsize_known", "_lmsize_root"
# Which argument after the first says along which dimension; the choice itself is the last result.
CHOICES = {
    aten.topk.default: 1, aten.argmax.default: 0, aten.argmin.default: 0, aten.sort.default: 0,
    aten.sort.stable: 1, aten.max.dim: 0, aten.min.dim: 0, aten.multinomial.default: None,
}  # fmt: skip
_COUNTS = (torch.int64, torch.int32, torch.bool, torch.uint8, torch.int16, torch.int8)
_SEED = 0


class Known:
    """A value that can be worked out: an operation over such values, or what it gave.

    Attributes:
        is_assumed: it rests on an even spread.
    """

    __slots__ = ("_made", "_recipe", "is_assumed")

    def __init__(self, recipe: Callable[[], Any], *, is_assumed: bool = False) -> None:
        self._recipe: Callable[[], Any] | None = recipe
        self._made: Any = None
        self.is_assumed = is_assumed

    def value(self) -> Any:
        """The real tensor; call where no mode of a trace is active but fake tensors'."""
        if self._recipe is not None:
            self._made, self._recipe = self._recipe(), None
        return self._made

    def part(self, at: int) -> Any:
        """One of several results."""
        return self.value()[at]


class Values:
    """What is known of the tensors of one trace.

    Attributes:
        spread_evenly: whether an even spread has decided a shape or a branch.
    """

    def __init__(self) -> None:
        self.spread_evenly = False

    def number(self, tensor: Any) -> Any:
        """The number that a tensor of one holds, as Python's; None if it is not known."""
        known = _known(tensor)
        if known is None:
            return None
        self.spread_evenly |= known.is_assumed
        with _real():
            return known.value().item()

    def note(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        """Remember how an operation made whole numbers or truths, if that can be known."""
        outs = out if isinstance(out, tuple | list) else (out,)
        if not any(isinstance(o, FakeTensor) and o.numel() <= MOST_NUMBERS for o in outs):
            return
        if func in CHOICES and _known(args[0]) is None:
            recipe = _spread(func, tuple(args[0].shape), args[1:], kwargs, tuple(outs[-1].shape))
            _keep(outs[-1], Known(recipe, is_assumed=True))
        elif _may_be_known(args, outs):
            given = _Arguments(args, kwargs)
            if given.are_known:
                self._keep_all(out, func, given, args)

    def _keep_all(self, out: Any, func: Any, given: _Arguments, args: Any) -> None:
        whole = Known(lambda: given.call(func), is_assumed=given.are_assumed)
        if isinstance(out, FakeTensor):
            if func._schema.is_mutable:
                _write_through(out, whole)
            if func.is_view and isinstance(args[0], FakeTensor):
                setattr(out, _ROOT, getattr(args[0], _ROOT, args[0]))
                setattr(out, _KEY, (whole, args[0]._version))  # which a view shares, but not yet
            else:
                _keep(out, whole, is_mutated=func._schema.is_mutable)
        elif not func._schema.is_mutable:
            for at, one in enumerate(out):
                part = Known(partial(whole.part, at), is_assumed=given.are_assumed)
                _keep(one, part)

    def shaped(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The result of an operation whose shape depends on values that are known; else None."""
        if func is aten.masked_select.default:
            mask = _known(args[1])
            if mask is None:
                return None
            self.spread_evenly |= mask.is_assumed
            with _real():
                n = int(mask.value().expand(args[0].shape).sum())
            return args[0].new_empty(n)
        given = _Arguments(args, kwargs)
        if not given.are_known:
            return None
        with _real():
            made = given.call(func)
        self.spread_evenly |= given.are_assumed
        many = isinstance(made, tuple)
        device = next(a.device for a in args if isinstance(a, torch.Tensor))
        fakes = []
        for one in made if many else (made,):
            fake = torch.empty_strided(one.shape, one.stride(), dtype=one.dtype, device=device)
            _keep(fake, Known(partial(_same, one), is_assumed=given.are_assumed))
            fakes.append(fake)
        return tuple(fakes) if many else fakes[0]

    def with_places(self, args: Any, nonzero: Callable[[Any], Any]) -> Any:
        """Arguments of an indexing in which masks are replaced by the places where they hold."""
        indices: list[Any] = []
        for index in args[1]:
            if index is None or index.dtype not in (torch.bool, torch.uint8):
                indices.append(index)
            elif _known(index) is None:
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


class _Arguments:
    """An operation's arguments with known values in place of tensors."""

    def __init__(self, args: Any, kwargs: Any) -> None:
        self.are_known, self.are_assumed = True, False
        self._args, self._kwargs = self._taken(args), self._taken(kwargs)

    def call(self, func: Any) -> Any:
        """Run the operation on the values."""
        return func(*_given(self._args), **_given(self._kwargs))

    def _taken(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            known = _known(value)
            if known is None:
                self.are_known = False
            else:
                self.are_assumed |= known.is_assumed
            return known
        if isinstance(value, tuple | list):
            return type(value)(self._taken(one) for one in value)
        if isinstance(value, dict):
            return {key: self._taken(one) for key, one in value.items()}
        return torch.device("cpu") if isinstance(value, torch.device) else value


def _given(value: Any) -> Any:
    if isinstance(value, Known):
        return value.value().clone()  # an operation may write into it
    if isinstance(value, tuple | list):
        return type(value)(_given(one) for one in value)
    if isinstance(value, dict):
        return {key: _given(one) for key, one in value.items()}
    return value


def _known(tensor: Any) -> Known | None:
    if not isinstance(tensor, FakeTensor):
        small = isinstance(tensor, torch.Tensor) and tensor.numel() <= MOST_NUMBERS
        return Known(partial(_same, tensor)) if small else None
    if tensor.constant is not None:
        return Known(partial(_same, tensor.constant))
    known: Known | None
    known, version = tensor.__dict__.get(_KEY, (None, 0))
    if version == tensor._version:
        return known
    # Written into since, itself or through another view: what its root holds there, if that is known.
    root: Any = tensor.__dict__.get(_ROOT)
    whole = None if root is None else _known_whole(root)
    return None if whole is None else _seen_at(whole, _place(tensor))


def _known_whole(root: Any) -> Known | None:
    """What a tensor holds, if its numbers lie one after the other from the start of its storage."""
    return _known(root) if root.is_contiguous() and not root.storage_offset() else None


def _place(view: Any) -> tuple[Any, ...]:
    return tuple(view.shape), view.stride(), view.storage_offset()


def _seen_at(whole: Known, place: tuple[Any, ...]) -> Known:
    """What a view of a tensor holds."""
    return Known(lambda: whole.value().contiguous().as_strided(*place), is_assumed=whole.is_assumed)


def _same(value: Any) -> Any:
    return value


def _may_be_known(args: Any, outs: Any) -> bool:
    """A quick look: whole numbers come of anything, others of what is known alone."""
    if outs[0].dtype in _COUNTS:
        return True
    return bool(args) and isinstance(args[0], FakeTensor) and _KEY in args[0].__dict__


def _keep(tensor: Any, known: Known, *, is_mutated: bool = False) -> None:
    version = tensor._version + is_mutated  # counted up once the operation has returned
    setattr(tensor, _KEY, (known, version))


def _write_through(view: Any, written: Known) -> None:
    """What is written into a view stands in the tensor that it is a view of, where that is whole."""
    root: Any = getattr(view, _ROOT, None)
    before = None if root is None else _known_whole(root)
    if before is None:
        return
    place = _place(view)

    def recipe() -> Any:
        made = before.value().clone(memory_format=torch.contiguous_format)
        made.as_strided(*place).copy_(written.value())
        return made

    assumed = before.is_assumed or written.is_assumed
    _keep(root, Known(recipe, is_assumed=assumed), is_mutated=True)


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


@contextmanager
def _real() -> Iterator[None]:
    with unset_fake_temporarily(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        yield
