"""Columns: one quantity over all candidates, so that the code for one layout answers for a grid.

A grid is a product of axes. A quantity that depends on one axis is an array along that axis only,
and what follows from two lies along both: each term is computed once for every distinct value, and
only the last sums are as large as the grid.

Where the code has to decide (``if layout.tp == 1``) and candidates differ, they part: the grid is cut
along an axis into parts that agree, and each is asked again. So no code needs to know of columns;
what decides seldom is fast.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Axes = Mapping[str, Sequence[Any]]
"""The values of each axis; the grid is their product, in this order."""


class PartedError(Exception):
    """Candidates that part ways.

    Attributes:
        keys: what they differ by, an array that broadcasts with the grid.
    """

    def __init__(self, keys: NDArray[Any]) -> None:
        super().__init__(f"candidates differ: {np.unique(keys)}")
        self.keys = keys


class Column(np.ndarray[Any, Any]):
    """Numbers along some axes of a grid, which decide alike or part.

    It has the axes of the grid, those that it does not depend on of length one.
    """

    __slots__ = ()

    def one(self) -> Any:
        """The value that all candidates share.

        Raises:
            PartedError: they do not share one.
        """
        keys = np.asarray(self)
        first = keys.flat[0]
        if keys.size > 1 and not bool((keys == first).all()):
            raise PartedError(keys)
        return first.item()

    def __bool__(self) -> bool:
        n_true = np.count_nonzero(self)
        if 0 < n_true < self.size:
            raise PartedError(np.asarray(self) != 0)
        return bool(n_true)

    def __int__(self) -> int:
        return int(self.one())

    def __index__(self) -> int:
        return int(self.one())

    def __float__(self) -> float:
        return float(self.one())

    def __hash__(self) -> int:  # type: ignore[override]  # an array has none; columns are keys of caches
        return hash((self.shape, self.tobytes()))

    def __round__(self, _digits: None = None) -> Any:
        return np.rint(self).astype(np.int64)


def over(
    axes: Axes, ask: Callable[[Mapping[str, Any]], Any], *, apart: Collection[str] = (),
    where: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:  # fmt: skip
    """`ask` for every combination of the axes' values.

    Args:
        ask: gets one value for each axis: a plain one, or a column; the values of an axis that are
            not numbers come one at a time.
        apart: axes whose values come one at a time too, since the code decides by them anyway.
        where: candidates that matter, an array with the axes of the grid; all if None.

    Returns:
        An array with the axes of the grid, infinite for candidates that do not matter.
    """
    answers = np.full([len(values) for values in axes.values()], np.inf)
    waiting = list(_apart(axes, apart))
    while waiting:
        part = waiting.pop()
        mine = _places(part)
        if where is not None and not where[mine].any():
            continue
        try:
            with np.errstate(all="ignore"):  # candidates that do not matter may divide by zero
                answers[mine] = ask(_columns(axes, part))
        except PartedError as parted:
            waiting += _parts(part, parted.keys)
    if where is not None:
        answers[~where] = np.inf
    return answers


Part = tuple[NDArray[np.intp], ...]
"""For each axis, which of its values."""


def _apart(axes: Axes, names: Collection[str]) -> Iterator[Part]:
    """The grid, cut along the axes of those names, and along those of words rather than numbers."""
    whole: list[Part] = [()]
    for name, values in axes.items():
        is_cut = name in names or any(isinstance(v, str | bool | None) for v in values)
        pieces = np.arange(len(values)).reshape(-1, 1 if is_cut else len(values))
        whole = [(*part, piece) for part in whole for piece in pieces]
    yield from whole


def _places(part: Part) -> tuple[Any, ...]:
    """The part as an index: slices, which are fast, where its values follow one another."""
    ends = [(int(mine[0]), int(mine[-1]) + 1) for mine in part]
    if all(stop - start == len(mine) for mine, (start, stop) in zip(part, ends, strict=True)):
        return tuple(slice(*one) for one in ends)
    return np.ix_(*part)


def _columns(axes: Axes, part: Part) -> dict[str, Any]:
    """The values of a part's axes: alone they are plain, several a column along their axis."""
    made: dict[str, Any] = {}
    for at, (name, values) in enumerate(axes.items()):
        mine = [values[i] for i in part[at].tolist()]
        shape = [1] * len(part)
        shape[at] = len(mine)
        made[name] = mine[0] if len(mine) == 1 else np.array(mine).reshape(shape).view(Column)
    return made


def _parts(part: Part, keys: NDArray[Any]) -> Iterator[Part]:
    """The part, cut along the axis on which fewest kinds of candidates differ, but two at least."""
    spread = keys.reshape((1,) * (len(part) - keys.ndim) + keys.shape)
    by_axis = ((at, _kinds(spread, at)) for at, n in enumerate(spread.shape) if n > 1)
    axis, kinds = min(
        (found for found in by_axis if found[1].any()), key=lambda found: found[1].max()
    )
    for kind in range(int(kinds.max()) + 1):
        yield (*part[:axis], part[axis][kinds == kind], *part[axis + 1 :])


def _kinds(keys: NDArray[Any], axis: int) -> NDArray[np.intp]:
    """For each value of an axis, the number of the slice that it has."""
    slices = np.moveaxis(keys, axis, 0).reshape(keys.shape[axis], -1)
    return np.unique(slices, axis=0, return_inverse=True)[1].reshape(-1)
