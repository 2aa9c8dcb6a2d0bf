"""Models whose classes in transformers have linears of a class of their own (Falcon's ``FalconLinear``)."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

from lmsize.model.parts import Linear
from lmsize.model.spec import ModelSpec, Run, Tower
from lmsize.stacks import habits


@lru_cache(maxsize=256)
def with_derived_linears(model: ModelSpec) -> ModelSpec:
    """The model as transformers has it: its layers' linears said to be derived, where they are."""
    if model.conduct.model_type not in habits.DERIVED_LINEARS:
        return model

    def part_of(part: Any) -> Any:
        return replace(part, is_derived=True) if isinstance(part, Linear) else part

    def run_of(run: Run) -> Run:
        if run.block.role != "layer":
            return run
        return replace(run, block=replace(run.block, parts=tuple(map(part_of, run.block.parts))))

    towers = (Tower(t.name, tuple(map(run_of, t.runs)), t.stream) for t in model.towers)
    return replace(model, towers=tuple(towers))


def has_derived_linears(model: ModelSpec) -> bool:
    """Whether quantisation leaves linears of the model as they are."""
    parts = (part for _, run in model.runs() for part in run.block.parts)
    return any(isinstance(part, Linear) and part.is_derived for part in parts)
