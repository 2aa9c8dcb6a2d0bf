"""What an optimizer keeps: shapes from its row in the catalogue, applied to every tensor."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lmsize.catalogue import Optimizer, Precision, StateRule
from lmsize.formula import Term, total
from lmsize.layout.shares import Stored
from lmsize.memory.storage import storage
from lmsize.numbers import ceil_div

BLOCKED = re.compile(r"(?P<value>[a-z0-9]+)-block(?P<size>\d+)")

LEAST_PAGED = 100_000  # numbers of a tensor whose states are paged (bitsandbytes 0.50)


@dataclass(frozen=True, slots=True)
class StateTypes:
    """How the names in an optimizer's rows become number types.

    Attributes:
        precision: name -> number type.
        state: the recipe's state type; `weights` that of the weights.
        named: types of single states, by their names, where they are said.
        share: of the states that lies on the accelerator.
    """

    precision: Callable[[str], Precision]
    state: str
    weights: str
    named: Mapping[str, str] = field(default_factory=dict)
    share: float = 1.0

    def of(self, dtype: str) -> Precision:
        """The number type of a rule; ``int8-block256`` is int8 with an fp32 scale for each 256."""
        blocked = BLOCKED.fullmatch(dtype)
        if blocked:
            value = self.precision(blocked["value"])
            return replace(
                value, name=dtype, block_size=int(blocked["size"]), scale_bits=32, zero_bits=0
            )
        return self.precision({"state": self.state, "weights": self.weights}.get(dtype, dtype))


def state_numel(rule: StateRule, shape: tuple[int, ...], optimizer: Optimizer) -> int:
    """Numbers in the state that `rule` makes for one parameter of `shape`."""
    if rule.shape == "like":
        return math.prod(shape)
    if rule.shape == "scalar":
        return 1
    if rule.shape == "rows":
        return shape[0]
    if len(shape) < 2:
        return math.prod(shape)
    m, n = shape[-2:]
    rank = min(optimizer.rank, m, n)
    numbers = {
        "row": m,
        "column": n,
        "left_square": _square(m, optimizer),
        "right_square": _square(n, optimizer),
        "projected": rank * max(m, n),
        "projector": rank * min(m, n),
        "projected_row": rank,
        "projected_column": max(m, n),
    }
    return math.prod(shape[:-2]) * numbers[rule.shape]


def _square(side: int, optimizer: Optimizer) -> int:
    """A square state of one side: none beyond the limit, blocks on the diagonal if it is cut."""
    limit, block = optimizer.max_preconditioner_dim, optimizer.block_dim
    if limit and side > limit:
        return 0
    if not block:
        return side * side
    whole, rest = divmod(side, block)
    return whole * block * block + rest * rest


def handles(optimizer: Optimizer, stored: Stored) -> bool:
    """Whether an optimizer steps this tensor itself, or leaves it to its fallback."""
    if optimizer.applies_to == "all":
        return True
    if len(stored.shape) < 2:
        return False
    return optimizer.applies_to == "matrix" or stored.is_hidden


def _applies(rule: StateRule, shape: tuple[int, ...]) -> bool:
    return rule.on == "all" or (rule.on == "matrix") == (len(shape) >= 2)


def _is_small(optimizer: Optimizer, numel: int) -> bool:
    is_below = bool(optimizer.min_numel and numel < optimizer.min_numel)
    return is_below or bool(optimizer.multiple_of and numel % optimizer.multiple_of)


def _states(optimizer: Optimizer, stored: Stored) -> Iterator[tuple[str, str, int]]:
    """(state, number type, numbers) that one kind of tensor adds on the device.

    Paged states of large tensors lie in managed memory, which moves to the host under pressure;
    their scales do not.
    """
    small = _is_small(optimizer, stored.numel)
    managed = optimizer.paged and stored.numel >= LEAST_PAGED
    for rule in optimizer.states:
        if rule.place == "device" and _applies(rule, stored.shape):
            numel = state_numel(rule, stored.shape, optimizer)
            dtype = optimizer.small_dtype if small else rule.dtype
            blocked = BLOCKED.fullmatch(dtype)
            if not managed:
                yield rule.name, dtype, numel * stored.n_tensors
            elif blocked:
                n_scales = ceil_div(numel, int(blocked["size"]))
                yield f"{rule.name}, scales", "fp32", n_scales * stored.n_tensors


def part_of(numel: Any, share: float) -> Any:
    """So much of a number of numbers, rounded up; all of it as it is."""
    return numel if share == 1 else int(-(-numel * share // 1))


def optimizer_states(
    label: str, tensors: Iterable[Stored], optimizer: Optimizer, types: StateTypes,
    *, fallback: Optimizer | None, n_shards: int, n_expert_shards: int,
) -> Term:  # fmt: skip
    """All states of the trainable tensors of one rank, summed by state and number type."""
    sums: dict[tuple[str, str, bool], int] = defaultdict(int)
    for stored in tensors:
        if not stored.trainable:
            continue
        acting = optimizer if fallback is None or handles(optimizer, stored) else fallback
        for name, dtype, numel in _states(acting, stored):
            kind = types.named.get(name) or dtype
            sums[name, kind, stored.is_expert] += part_of(numel, types.share)
    parts = [
        storage(
            f"{name} ({types.of(dtype).name}{', experts' if expert else ''})",
            numel, types.of(dtype), n_shards=n_expert_shards if expert else n_shards,
        )
        for (name, dtype, expert), numel in sums.items()
        if numel
    ]  # fmt: skip
    return total(label, parts)
