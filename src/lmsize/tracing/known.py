"""What is known of fake tensors' values, tied to the tensors themselves and worked out on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily

MOST_NUMBERS = 2**22  # of a tensor whose values are kept
OWN_ATTRIBUTES = "_lmsize_"  # how the names of what is tied to a tensor here begin
_KEY, _ROOT = f"{OWN_ATTRIBUTES}known", f"{OWN_ATTRIBUTES}root"
_SEED = 0


class Known:
    """A value that can be worked out: an operation over such values, or what it gave.

    Attributes:
        assumes: codes of what it takes for granted.
    """

    __slots__ = ("_made", "_recipe", "assumes")

    def __init__(
        self, recipe: Callable[[], Any], *, assumes: frozenset[str] = frozenset()
    ) -> None:  # fmt: skip
        self._recipe: Callable[[], Any] | None = recipe
        self._made: Any = None
        self.assumes = assumes

    def value(self) -> Any:
        """The real tensor; call where no mode of a trace is active but fake tensors'."""
        if self._recipe is not None:
            self._made, self._recipe = self._recipe(), None
        return self._made

    def part(self, at: int) -> Any:
        """One of several results."""
        return self.value()[at]


class Arguments:
    """An operation's arguments with known values in place of tensors."""

    def __init__(self, args: Any, kwargs: Any) -> None:
        self.are_known, self.assumes = True, frozenset[str]()
        self._args, self._kwargs = self._taken(args), self._taken(kwargs)

    def call(self, func: Any) -> Any:
        """Run the operation on the values."""
        return func(*_given(self._args), **_given(self._kwargs))

    def _taken(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            known = known_of(value)
            if known is None:
                self.are_known = False
            else:
                self.assumes |= known.assumes
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


def known_of(tensor: Any) -> Known | None:
    """What is known of a tensor; a small real one is known as it is."""
    if not isinstance(tensor, FakeTensor):
        small = isinstance(tensor, torch.Tensor) and tensor.numel() <= MOST_NUMBERS
        return Known(partial(same, tensor)) if small else None
    if tensor.constant is not None:
        return Known(partial(same, tensor.constant))
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
    return known_of(root) if root.is_contiguous() and not root.storage_offset() else None


def _place(view: Any) -> tuple[Any, ...]:
    return tuple(view.shape), view.stride(), view.storage_offset()


def _seen_at(whole: Known, place: tuple[Any, ...]) -> Known:
    """What a view of a tensor holds."""
    return Known(lambda: whole.value().contiguous().as_strided(*place), assumes=whole.assumes)


def same(value: Any) -> Any:
    """The value, as a recipe that has nothing to work out."""
    return value


def keep(tensor: Any, known: Known, *, is_mutated: bool = False) -> None:
    """Remember what a tensor holds, until it is written into."""
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

    assumes = before.assumes | written.assumes
    keep(root, Known(recipe, assumes=assumes), is_mutated=True)


def keep_all(out: Any, func: Any, args: Any, given: Arguments) -> None:
    """An operation's results are known by its arguments."""
    whole = Known(lambda: given.call(func), assumes=given.assumes)
    if isinstance(out, FakeTensor):
        if func._schema.is_mutable:
            _write_through(out, whole)
        if func.is_view and isinstance(args[0], FakeTensor):
            setattr(out, _ROOT, getattr(args[0], _ROOT, args[0]))
            setattr(out, _KEY, (whole, args[0]._version))  # which a view shares, but not yet
        else:
            keep(out, whole, is_mutated=func._schema.is_mutable)
    elif not func._schema.is_mutable:
        for at, one in enumerate(out):
            if isinstance(one, FakeTensor):
                keep(one, Known(partial(whole.part, at), assumes=given.assumes))


def is_known(tensor: Any) -> bool:
    """A quick look: whether something was known of a fake tensor once."""
    return isinstance(tensor, FakeTensor) and _KEY in tensor.__dict__


@contextmanager
def really() -> Iterator[None]:
    """While it lasts, tensors are real, and random numbers the same every time."""
    generator = torch.random.default_generator
    with unset_fake_temporarily():
        before = generator.get_state()  # torch.get_rng_state is what a step calls
        generator.manual_seed(_SEED)
        try:
            yield
        finally:
            generator.set_state(before)
