"""How each stack writes its blocks, and which blocks have programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from lmsize.model.spec import Block, ModelSpec, Run
from lmsize.stacks import (
    habits,
    lit_fused,
    litgpt,
    megatron,
    megatron_deepspeed,
    torchtitan,
    transformers,
    unsloth,
)
from lmsize.stacks.further import is_further_understood
from lmsize.stacks.sections import is_understood
from lmsize.stacks.setting import Style
from lmsize.stacks.switches import USUAL, Switches

STYLES: dict[str, Style] = {
    "transformers": transformers.STYLE, "deepspeed": replace(transformers.STYLE, spreads=False),
    "megatron": megatron.STYLE, "torchtitan": torchtitan.STYLE, "litgpt": litgpt.STYLE,
    "unsloth": unsloth.STYLE,
}  # fmt: skip


def _under_deepspeed(switches: Switches) -> Style:
    is_own = switches.layers == "megatron"
    return megatron_deepspeed.STYLE if is_own else STYLES["deepspeed"]


def _of_litgpt(switches: Switches) -> Style:
    return lit_fused.STYLE if switches.fused_kernels else litgpt.STYLE


SWITCHED: dict[str, Callable[[Switches], Style]] = {
    "megatron": megatron.style,
    "torchtitan": torchtitan.style,
    "deepspeed": _under_deepspeed,
    "litgpt": _of_litgpt,
}


def style_of(stack: str, switches: Switches) -> Style:
    """How a stack writes its pieces, as its switches have it."""
    switched = SWITCHED.get(stack)
    return switched(switches) if switched else STYLES[stack]


def as_built(stack: str, model: ModelSpec, switches: Switches = USUAL) -> ModelSpec:
    """The model as the stack's own classes have it."""
    return style_of(stack, switches).built(model) if stack in STYLES else model


def not_understood(model: ModelSpec) -> list[str]:
    """Names of the blocks that have no program of their own, and are taken part by part."""
    found = (
        run.block.name
        for tower, run in model.runs()
        if tower.stream != "idle" and not (_is_understood(run.block) and _has_program(run, model))
    )
    return sorted(set(found))


def _has_program(run: Run, model: ModelSpec) -> bool:
    return run.block.role != "layer" or model.conduct.model_type not in habits.OWN_LAYERS


def _is_understood(block: Block) -> bool:
    return is_further_understood(block) if block.role == "further" else is_understood(block)
