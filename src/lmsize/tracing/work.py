"""What operations do (FLOPs, bytes moved), summed by phase and layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from lmsize.tracing.storages import Layer

Sums = dict[tuple[str, Layer | None], float]
ON_LISTS = ("_foreach_", "_fused_")  # one call does the same to every tensor of a list


@dataclass(frozen=True, slots=True)
class Work:
    """One kind of work.

    Attributes:
        count: of an operation, called as ``count(func, args, kwargs, out)``.
    """

    count: Callable[..., float]
    sums: Sums

    def note(
        self, func: Any, args: Any, kwargs: Any, out: Any, *, phase: str,
        layer_of: Callable[[Any], Layer | None],
    ) -> None:  # fmt: skip
        """Add an operation to the sums.

        Args:
            layer_of: the layer that works on a tensor; on None, the one at work.
        """
        for tensor, one, made in _one_by_one(func, args, out):
            done = self.count(func, one, kwargs, made)
            if done:
                key = phase, layer_of(tensor)
                self.sums[key] = self.sums.get(key, 0.0) + done


def _one_by_one(func: Any, args: Any, out: Any) -> Iterator[tuple[Any, Any, Any]]:
    """The operation on each tensor of its lists, with that tensor; or as it is."""
    name = func.overloadpacket.__name__
    if not name.startswith(ON_LISTS) or not args or not isinstance(args[0], list | tuple):
        yield None, args, out
        return
    n = len(args[0])

    def nth(value: Any, at: int) -> Any:
        return value[at] if isinstance(value, list | tuple) and len(value) == n else value

    for at, tensor in enumerate(args[0]):
        yield tensor, tuple(nth(value, at) for value in args), nth(out, at)
