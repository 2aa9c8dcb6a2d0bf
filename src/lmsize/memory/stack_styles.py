"""How each stack writes its blocks, and which blocks have programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from lmsize.model.spec import Block, ModelSpec
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
from lmsize.stacks.classes import own
from lmsize.stacks.deepspeed_switches import DeepspeedSwitches
from lmsize.stacks.further import is_further_understood
from lmsize.stacks.own import Own, is_understood
from lmsize.stacks.setting import Style
from lmsize.stacks.switches import USUAL, Switches
from lmsize.stacks.torch_switches import LitgptSwitches

TRANSFORMERS = replace(transformers.STYLE, own=own)
STYLES: dict[str, Style] = {
    "transformers": TRANSFORMERS, "deepspeed": replace(TRANSFORMERS, spreads=False),
    "megatron": megatron.STYLE, "torchtitan": torchtitan.STYLE, "litgpt": litgpt.STYLE,
    "unsloth": unsloth.STYLE,
}  # fmt: skip


def _under_deepspeed(switches: Switches) -> Style:
    is_own = DeepspeedSwitches.of(switches).layers == "megatron"
    return megatron_deepspeed.STYLE if is_own else STYLES["deepspeed"]


def _of_litgpt(switches: Switches) -> Style:
    return lit_fused.STYLE if LitgptSwitches.of(switches).fused_kernels else litgpt.STYLE


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


def not_understood(model: ModelSpec, style: Style = TRANSFORMERS) -> list[str]:
    """Names of the blocks that have no program of their own, and are taken part by part."""
    written = style.own(model.conduct.model_type)
    blocks = [run.block.of_text for tower, run in model.runs() if tower.stream != "idle"]
    return sorted({block.name for block in blocks if not _has_program(block, written, model)})


def _has_program(block: Block, written: Own, model: ModelSpec) -> bool:
    if block.role == "further":
        return is_further_understood(block)
    if block.role == "layer" and model.conduct.model_type in habits.OWN_LAYERS:
        return False
    return is_understood(block, written)
