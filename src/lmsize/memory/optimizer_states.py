"""What an optimizer keeps: shapes from its row in the catalogue, applied to every tensor."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from lmsize.catalogue.records import Optimizer, Precision, StateRule
from lmsize.formula import Term, total
from lmsize.layout.shares import Stored
from lmsize.memory.storage import storage

SMALL_STATE = "fp32"  # of tensors too small for a quantised state


@dataclass(frozen=True, slots=True)
class StateTypes:
    """How the names in an optimizer's rows become number types.

    Attributes:
        precision: name -> number type.
        state: the recipe's state type; `weights` that of the weights.
    """

    precision: Callable[[str], Precision]
    state: str
    weights: str

    def of(self, dtype: str) -> Precision:
        return self.precision({"state": self.state, "weights": self.weights}.get(dtype, dtype))


def state_numel(rule: StateRule, shape: tuple[int, ...], optimizer: Optimizer) -> int:
    """Numbers in the state that `rule` makes for one parameter of `shape`."""
    if rule.shape == "like":
        return math.prod(shape)
    if rule.shape == "scalar":
        return 1
    if rule.shape == "rows":
        return shape[0]
    if rule.shape == "last":
        return shape[-1]
    if len(shape) < 2:
        return math.prod(shape)
    batch, (m, n) = math.prod(shape[:-2]), shape[-2:]
    limit = optimizer.max_preconditioner_dim
    sides = {
        "row": m,
        "column": n,
        "left_square": m * m if not limit or m <= limit else 0,
        "right_square": n * n if not limit or n <= limit else 0,
        "projected": min(optimizer.rank, m, n) * max(m, n),
        "projector": min(optimizer.rank, m, n) * min(m, n),
        "channels": max(m, n),
    }
    return batch * sides[rule.shape]


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
    return numel < optimizer.min_numel or bool(
        optimizer.multiple_of and numel % optimizer.multiple_of
    )


def _states(optimizer: Optimizer, stored: Stored) -> Iterator[tuple[str, str, int]]:
    """(state, number type, numbers) that one kind of tensor adds on the device."""
    small = _is_small(optimizer, stored.numel)
    for rule in optimizer.states:
        if rule.place == "device" and _applies(rule, stored.shape):
            numel = state_numel(rule, stored.shape, optimizer)
            yield rule.name, SMALL_STATE if small else rule.dtype, numel * stored.n_tensors


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
            sums[name, dtype, stored.is_expert] += numel
    parts = [
        storage(
            f"{name}{' of experts' if expert else ''}{' (fp32)' if dtype == SMALL_STATE else ''}",
            numel, types.of(dtype), n_shards=n_expert_shards if expert else n_shards,
        )
        for (name, dtype, expert), numel in sums.items()
        if numel
    ]  # fmt: skip
    return total(label, parts)
