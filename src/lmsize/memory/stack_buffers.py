"""What a rank of Megatron holds besides the model: workspaces and buffers, and what is put off."""

from __future__ import annotations

import math

from lmsize.formula import Term
from lmsize.layout.shares import Stage, stored_parts
from lmsize.memory.deferred import deferred_terms
from lmsize.memory.standing import Libraries, Shape, standing_term
from lmsize.memory.training_setup import TrainingSetup
from lmsize.numbers import ceil_div
from lmsize.stacks.fused_shapes import Shape as Matrix
from lmsize.stacks.fused_shapes import fused_shapes
from lmsize.stacks.megatron_switches import MegatronSwitches

MATRICES = ("matrices", "experts", "output head")


def standing(setup: TrainingSetup, stage: Stage, adapters: Stage | None) -> list[Term]:
    """Workspaces and buffers that a stage, with that of its adapters, keeps from step to step."""
    if not setup.stack.library_buffers:
        return []
    libraries = Libraries(setup.capability, MegatronSwitches.of(setup.switches))
    shapes = _trained_shapes(setup, stage, adapters)
    n_micro = setup.batch.n_micro
    return [
        standing_term(
            libraries, stage, setup.layout, _shape(setup), n_micro=n_micro, shapes=shapes,
            n_masks=_n_masks(setup, stage), runs_again=_runs_again(setup),
        )
    ]  # fmt: skip


def _runs_again(setup: TrainingSetup) -> bool:
    """Whether every mixture runs again."""
    is_whole = setup.recompute == "full" and setup.most_recomputed is None
    is_named = setup.recompute == "selective" and "moe" in setup.switches.recompute_modules
    return is_whole or is_named


def _n_masks(setup: TrainingSetup, stage: Stage) -> int:
    """Masks that are there at once: one, or one for each micro-batch that checkpoints wait for."""
    of_attention = (
        setup.recompute == "selective" and "core_attn" in setup.switches.recompute_modules
    )
    if setup.recompute != "full" and not of_attention:
        return 1
    schedule = setup.switches.schedule(setup.layout.vp)
    return math.ceil(stage.n_in_flight(setup.batch.n_micro, schedule))


def deferred(setup: TrainingSetup, stage: Stage, adapters: Stage | None) -> list[Term]:
    """What waits for the end of the step: nothing of a frozen head, which has no such gradient."""
    if not setup.stack.library_buffers or (adapters and not _trains_head(setup, adapters)):
        return []
    heads = [run.block for _, run in stage.runs if run.block.role == "head"]
    one = setup.layout.inside_replica()
    shapes = [found for block in heads for found in fused_shapes(block, one)]
    asked, n_micro = MegatronSwitches.of(setup.switches), setup.batch.n_micro
    return deferred_terms(asked, _shape(setup), n_micro=n_micro, heads=shapes)


def _trained_shapes(setup: TrainingSetup, stage: Stage, adapters: Stage | None) -> set[Matrix]:
    """(inputs, outputs) on one rank of the matrices whose products have gradients, each once."""
    if adapters is None:
        one = setup.layout.inside_replica()
        return {found for _, run in stage.runs for found in fused_shapes(run.block, one)}
    found = stored_parts(adapters, setup.layout, trainable=True)
    shapes = (tuple(stored.shape[-2:]) for stored in found if stored.group in MATRICES)
    return {(n_in, n_out) for n_out, n_in in shapes}


def _trains_head(setup: TrainingSetup, adapters: Stage) -> bool:
    """Whether the head is trained whole beside the adapters."""
    found = stored_parts(adapters, setup.layout, trainable=True)
    return any(stored.is_whole and stored.group == "output head" for stored in found)


def _shape(setup: TrainingSetup) -> Shape:
    """A micro-batch on one rank."""
    batch, layout = setup.batch, setup.layout
    n_tokens = ceil_div(batch.micro_batch * batch.seq_len, layout.cp)
    shards = layout.tp if layout.sequence_parallel else 1
    return Shape(
        n_tokens, ceil_div(n_tokens, shards), n_tokens * batch.seq_len, setup.model.width,
        setup.precision(setup.recipe.weights).bits / 8,
    )  # fmt: skip
