"""Counts of parameters, from the parts alone: exact integers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lmsize.model.parameter import Parameter
from lmsize.model.spec import Block, ModelSpec


@dataclass(frozen=True, slots=True)
class Held:
    """Parameters that the model holds: `n_copies` of one block's `parameter`."""

    block: Block
    parameter: Parameter
    n_copies: int

    @property
    def n_params(self) -> int:
        return self.parameter.n_params * self.n_copies


def held_parameters(spec: ModelSpec) -> Iterator[Held]:
    """Every parameter of the model, counted once however often its block runs."""
    for _, run in spec.runs():
        if run.n_copies:
            for parameter in run.block.parameters():
                yield Held(run.block, parameter, run.n_copies)


def n_params(spec: ModelSpec) -> int:
    """Unique parameters of the class in the config, as ``sum(p.numel())`` of it would say."""
    return sum(held.n_params for held in held_parameters(spec))


def n_params_active(spec: ModelSpec) -> int:
    """Parameters that one token touches: all but the idle routed experts."""
    return round(sum(h.n_params * h.parameter.active_frac for h in held_parameters(spec)))


def n_params_trainable(spec: ModelSpec) -> int:
    """Parameters that a full training changes: all but frozen tables."""
    return sum(held.n_params for held in held_parameters(spec) if held.parameter.trainable)
