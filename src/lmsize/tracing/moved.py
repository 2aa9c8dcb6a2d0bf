"""Bytes that operations move between memory and the arithmetic units, from what they are called with.

Each operation reads every input once and writes every output once, whatever caches hold: the least
that a kernel of its own can do. Fused attention moves no scores, a product of groups reads every
expert's matrix, a lookup only the rows that it looks up; views move nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

aten = torch.ops.aten
NOTHING = {
    aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided,
    aten._unsafe_view, aten.scalar_tensor,
}  # fmt: skip
LOOKUPS = {aten.embedding, aten.index, aten.index_select, aten.gather}
OVERWRITES = {aten.copy_, aten.fill_, aten.zero_}  # what the first argument held is not read


def moved_by(func: Any, args: Any, kwargs: Any, out: Any) -> float:
    """Bytes read and written by one call."""
    packet = func.overloadpacket
    if func.is_view or packet in NOTHING:
        return 0.0
    written = sum(map(_n_bytes, _mutated(func, args, kwargs) or _tensors(out)))
    if packet in LOOKUPS:
        _, *places = _tensors(args)
        return 2.0 * written + sum(map(_n_bytes, places))
    read = args[1:] if packet in OVERWRITES else args
    return float(written + sum(map(_n_bytes, _tensors((read, kwargs)))))


def _mutated(func: Any, args: Any, kwargs: Any) -> list[Any]:
    """The tensors that the operation writes into."""
    found: list[Any] = []
    for at, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            found += _tensors(args[at] if at < len(args) else kwargs.get(argument.name))
    return found


def _tensors(value: Any) -> Iterator[Any]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)


def _n_bytes(tensor: Any) -> int:
    """Of a tensor's numbers; rows that are repeated without a copy count once."""
    numel = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        numel *= int(size) if stride or not size else 1
    return int(numel * tensor.element_size())
