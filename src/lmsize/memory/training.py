"""The memory of a training step: what each rank holds, and the moment at which it peaks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from lmsize.formula import Term, highest, maximum, total
from lmsize.layout.shares import Stage, stages, stored_parts
from lmsize.memory.blocks import Placed, head_dim, placed_blocks
from lmsize.memory.flat_units import flat_units, flattened, with_joins
from lmsize.memory.model_states import (
    gradients,
    held_throughout,
    main_gradients,
    states,
    step_copies,
)
from lmsize.memory.moments import (
    activations_term,
    gradients_term,
    input_bytes,
    moments,
    passing_term,
)
from lmsize.memory.standing import Libraries, Shape, standing_term
from lmsize.memory.storage import storage
from lmsize.memory.training_setup import TrainingSetup
from lmsize.model.spec import Run, Tower
from lmsize.numbers import ceil_div
from lmsize.stacks.fused_shapes import fused_shapes
from lmsize.stacks.setting import Setting


def training_peak(setup: TrainingSetup) -> Term:
    """The largest moment of the stage that is meant: a maximum of sums of components."""
    adapter_stages = (
        stages(setup.adapters, setup.layout.pp, setup.switches.split) if setup.adapters else ()
    )
    peaks = []
    for stage in _meant(setup):
        adapters = adapter_stages[stage.index] if adapter_stages else None
        peaks.append(maximum(_label(stage), _moments(setup, stage, adapters)))
    return highest("peak", peaks)


def _meant(setup: TrainingSetup) -> Sequence[Stage]:
    every = stages(setup.model, setup.layout.pp, setup.switches.split)
    if setup.pipeline_stage == "first":
        return every[:1]
    return every[-1:] if setup.pipeline_stage == "last" else _unlike(every)


def _unlike(every: Sequence[Stage]) -> Sequence[Stage]:
    """The first of the stages that hold the same: later ones have fewer micro-batches in flight."""
    first: dict[tuple[tuple[int, int, int], ...], Stage] = {}
    for stage in every:
        holds = tuple((id(run.block), run.n_layers, run.n_copies) for _, run in stage.runs)
        first.setdefault(holds, stage)
    return tuple(first.values())


def _label(stage: Stage) -> str:
    return (
        "peak" if stage.n_stages == 1 else f"peak, on stage {stage.index + 1} of {stage.n_stages}"
    )


def _moments(setup: TrainingSetup, stage: Stage, adapter_stage: Stage | None) -> list[Term]:
    frozen = setup.adapters is not None
    base = list(stored_parts(stage, setup.layout, trainable=not frozen))
    adapters = (
        list(stored_parts(adapter_stage, setup.layout, trainable=True)) if adapter_stage else []
    )
    trained = adapters if frozen else base
    held = held_throughout(setup, base, adapters, trained, frozen=frozen)
    held += _standing(setup, stage)
    graded = [*flattened(base), *adapters] if frozen and setup.flattens else trained
    freed = setup.optimizer.gradient_is_freed
    own = [] if freed else [gradients(setup, graded)]
    reduced = [] if freed else [gradients(setup, graded, zero_stage=2)]
    gathers = [] if setup.flattens else _gathers(setup, stage)
    after = [states(setup, trained, frozen=frozen), _inputs(setup)]
    step = total("optimizer_step", [
        *held, *reduced, *after, *main_gradients(setup, trained), *step_copies(setup, trained)
    ])  # fmt: skip
    blocks = tuple(_blocks(setup, stage))
    in_flight = stage.n_in_flight(setup.batch.n_micro, setup.layout.vp)
    made = []
    for moment in with_joins(moments(blocks)) if setup.flattens else moments(blocks):
        grown = [*(own if setup.accumulates else []), gradients_term(moment)]
        activations = activations_term(moment, in_flight=in_flight, whole=blocks)
        units = flat_units(setup, base, adapters, moment.name) if setup.flattens else gathers
        passing = total("temporaries", [passing_term(moment), *units])
        made.append(total(moment.name, [*held, *grown, *after, activations, passing]))
    return [*made, step]


def _standing(setup: TrainingSetup, stage: Stage) -> list[Term]:
    """Workspaces and buffers that a stack keeps."""
    if setup.recipe.stack != "megatron":
        return []
    batch, layout = setup.batch, setup.layout
    n_tokens = ceil_div(batch.micro_batch * batch.seq_len, layout.cp)
    shards = layout.tp if layout.sequence_parallel else 1
    shape = Shape(
        n_tokens, ceil_div(n_tokens, shards), n_tokens * batch.seq_len, setup.model.width,
        setup.precision(setup.recipe.weights).bits / 8,
    )  # fmt: skip
    libraries = Libraries(setup.capability, setup.switches)
    one = layout.inside_replica()
    shapes = {found for _, run in stage.runs for found in fused_shapes(run.block, one)}
    return [
        standing_term(libraries, stage, layout, shape, n_micro=batch.n_micro, shapes=shapes)
    ]  # fmt: skip


def _inputs(setup: TrainingSetup) -> Term:
    """Ids and labels of the step's micro-batches."""
    batch = setup.batch
    tokens = ceil_div(batch.micro_batch * batch.seq_len, setup.layout.cp)
    term = input_bytes.term(
        "ids and labels", n_micro_batches=batch.n_micro, n_tokens=tokens, bytes_per_number=8
    )
    return total("inputs", [term])


def _blocks(setup: TrainingSetup, stage: Stage) -> Iterable[Placed]:
    """The stage's blocks as its stack runs them."""
    recipe, batch = setup.recipe, setup.batch
    gathered = recipe.gathered if setup.gathers_weights else ""
    held = recipe.unquantised if setup.quant else gathered or recipe.weights
    weights, compute = (setup.precision(name).bits / 8 for name in (held, recipe.compute))
    casts = recipe.autocast or (recipe.stack == "torchtitan" and not gathered)
    setting = Setting(
        micro_batch=batch.micro_batch, seq_len=ceil_div(batch.seq_len, setup.layout.cp),
        weight_itemsize=weights, conduct=setup.model.conduct, attention=setup.attention,
        autocast=compute if casts and compute < weights else None,
        trains_base=setup.adapters is None, quantised=setup.quant is not None,
        head_dim=head_dim(setup.model), layout=setup.layout.inside_replica(), recompute=setup.recompute,
        quant_itemsize=compute, switches=setup.switches, loss=setup.loss,
        inputs_need_grad=setup.adapters is not None and setup.recompute == "full",
    )  # fmt: skip

    def shard(tower: Tower, run: Run) -> Any:
        model = setup.adapters or setup.model
        own = next(
            (r for t, r in model.runs() if t.name == tower.name and r.block.name == run.block.name),
            run,
        )
        tensors = stored_parts(Stage(0, 1, ((tower, _once(own)),)), setup.layout, trainable=True)
        return gradients(setup, list(tensors)).value

    return placed_blocks(
        setup.model, setup.adapters, stage, setting, stack=recipe.stack,
        recompute=setup.recompute, most_recomputed=setup.most_recomputed,
        accumulates=setup.accumulates or setup.shards_gradients,
        gradient_shard=None if setup.accumulates or not setup.shards_gradients else shard,
    )  # fmt: skip


def _gathers(setup: TrainingSetup, stage: Stage) -> list[Term]:
    """What ZeRO-3 holds whole for a while: the widest block's weights and its gradients."""
    if setup.layout.zero < 3 or setup.layout.n_replicas == 1:
        return []
    recipe = setup.recipe
    widest = max(
        sum(
            s.n_params
            for s in stored_parts(Stage(0, 1, ((tower, _once(run)),)), setup.layout, trainable=True)
            if not s.is_expert
        )
        for tower, run in stage.runs
    )
    gathered = setup.precision(recipe.gathered or recipe.weights)
    parts = [storage("widest block gathered", widest, gathered)]
    if setup.adapters is None:
        reduced = setup.precision(recipe.reduced or recipe.gradients)
        parts.append(storage("its gradients before they are scattered", widest, reduced))
    return [total("temporaries", parts)]


def _once(run: Run) -> Run:
    return Run(run.block, 1, min(run.n_copies, 1))
