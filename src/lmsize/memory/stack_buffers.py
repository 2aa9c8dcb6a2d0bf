"""What a rank of Megatron holds besides the model: workspaces and buffers, and what is put off."""

from __future__ import annotations

from lmsize.formula import Term
from lmsize.layout.shares import Stage
from lmsize.memory.deferred import deferred_terms
from lmsize.memory.standing import Libraries, Shape, standing_term
from lmsize.memory.training_setup import TrainingSetup
from lmsize.numbers import ceil_div
from lmsize.stacks.fused_shapes import fused_shapes


def standing(setup: TrainingSetup, stage: Stage) -> list[Term]:
    """Workspaces and buffers that a stage keeps from step to step."""
    if setup.recipe.stack != "megatron":
        return []
    libraries = Libraries(setup.capability, setup.switches)
    one = setup.layout.inside_replica()
    shapes = {found for _, run in stage.runs for found in fused_shapes(run.block, one)}
    n_micro = setup.batch.n_micro
    return [
        standing_term(libraries, stage, setup.layout, _shape(setup), n_micro=n_micro, shapes=shapes)
    ]


def deferred(setup: TrainingSetup, stage: Stage) -> list[Term]:
    """What waits for the end of the step."""
    if setup.recipe.stack != "megatron":
        return []
    heads = [run.block for _, run in stage.runs if run.block.role == "head"]
    one = setup.layout.inside_replica()
    shapes = [found for block in heads for found in fused_shapes(block, one)]
    return deferred_terms(setup.switches, _shape(setup), n_micro=setup.batch.n_micro, heads=shapes)


def _shape(setup: TrainingSetup) -> Shape:
    """A micro-batch on one rank."""
    batch, layout = setup.batch, setup.layout
    n_tokens = ceil_div(batch.micro_batch * batch.seq_len, layout.cp)
    shards = layout.tp if layout.sequence_parallel else 1
    return Shape(
        n_tokens, ceil_div(n_tokens, shards), n_tokens * batch.seq_len, setup.model.width,
        setup.precision(setup.recipe.weights).bits / 8,
    )  # fmt: skip
