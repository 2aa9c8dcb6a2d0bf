"""The blocks of a stage as its stack runs them in a training step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from lmsize.layout.shares import Stage, Stored, alone, stored_parts
from lmsize.memory.blocks import Placed, placed_blocks
from lmsize.memory.model_states import gradients
from lmsize.memory.shared_tables import head_dim
from lmsize.memory.training_setup import TrainingSetup
from lmsize.memory.turns import Turn
from lmsize.memory.units import padded, units_of
from lmsize.model.spec import Run, Tower
from lmsize.numbers import ceil_div
from lmsize.stacks.setting import Setting


def stage_blocks(
    setup: TrainingSetup, stage: Stage, *, by_unit: bool = False, turn: Turn | None = None
) -> Iterator[Placed]:  # fmt: skip
    """The blocks in order of execution; `by_unit` with the units of weights that stay whole.

    Args:
        turn: the micro-batch's, where these differ.
    """
    is_divided = setup.shards_gradients and not setup.accumulates
    shard = _gradient_shard(setup) if is_divided else None
    if setup.stays_whole and setup.accumulates:
        shard = _added_up
    return placed_blocks(
        setup.model, setup.adapters, stage, _setting(setup, turn), stack=setup.recipe.stack,
        recompute=setup.recompute, most_recomputed=setup.most_recomputed,
        accumulates=_adds_at_once(setup, turn), gradient_shard=shard,
        unit_of=units_of(setup, turn) if setup.is_in_units or by_unit else None, vp=setup.layout.vp,
        lays_out=setup.lays_out_by_stream,
    )  # fmt: skip


def stage_tensors(setup: TrainingSetup, stage: Stage, *, trainable: bool) -> list[Stored]:
    """The stage's tensors on a rank, padded where ranks share them by rows."""
    found = stored_parts(stage, setup.layout, trainable=trainable)
    if not setup.is_in_units:
        return list(found)
    return [padded(stored, setup.shards(2, expert=stored.is_expert)) for stored in found]


def _setting(setup: TrainingSetup, turn: Turn | None) -> Setting:
    recipe, batch = setup.recipe, setup.batch
    gathered = recipe.gathered if setup.gathers_weights else ""
    held = setup.base_type if setup.quant else gathered or recipe.weights
    weights, compute = (setup.precision(name).bits / 8 for name in (held, recipe.compute))
    casts = recipe.autocast or (setup.stack.autocasts_alone and not gathered)
    return Setting(
        micro_batch=batch.micro_batch, seq_len=ceil_div(batch.seq_len, setup.layout.cp),
        weight_itemsize=weights, conduct=setup.model.conduct, attention=setup.attention,
        autocast=compute if casts and (gathered or compute < weights) else None,
        trains_base=setup.adapters is None, quant=setup.quant.name if setup.quant else "",
        head_dim=head_dim(setup.model), layout=setup.layout.inside_replica(), recompute=setup.recompute,
        quant_itemsize=compute, unpacks=setup.unpacks, switches=setup.switches, loss=setup.loss,
        casts=setup.casts, is_half=recipe.compute == "fp16",
        reduces_at_once=setup.shares_by_fsdp2 and turn is None, casts_inputs=setup.is_in_units and weights < setup.precision(recipe.weights).bits / 8,
        inputs_need_grad=setup.adapters is not None and setup.recompute == "full",
    )  # fmt: skip


def _adds_at_once(setup: TrainingSetup, turn: Turn | None) -> bool:
    """Whether each gradient is added to what there is as soon as it is made.

    FSDP2 takes a unit's at its end, unless sums wait in the type that they are made in.
    """
    if not setup.shares_by_fsdp2:
        return setup.accumulates or setup.shards_gradients
    return turn is not None and turn.adds and not setup.recipe.reduced


def _added_up(_tower: Tower, _run: Run) -> int:
    """Bytes that a block's gradients leave beside those that they are added to."""
    return 0


def _gradient_shard(setup: TrainingSetup) -> Callable[[Tower, Run], Any]:
    """What gives the bytes of one block's gradients that stay on this rank."""
    model = setup.adapters or setup.model
    named = {(tower.name, run.block.name): run for tower, run in reversed(list(model.runs()))}

    def shard(tower: Tower, run: Run) -> Any:
        own = named.get((tower.name, run.block.name), run)
        tensors = stored_parts(alone(tower, own), setup.layout, trainable=True)
        return gradients(setup, list(tensors)).value

    return shard
