"""The memory of a training step: what each rank holds, and the moment at which it peaks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial, reduce
from typing import Any

from lmsize.formula import Term, given, highest, maximum, total
from lmsize.layout.ends import ends
from lmsize.layout.shares import Stage, Stored, stages, stored_parts
from lmsize.memory.blocks import Placed, head_dim, placed_blocks
from lmsize.memory.flat_units import flat_units, flattened, with_joins
from lmsize.memory.model_states import (
    gathered_weights,
    gradients,
    held_throughout,
    main_gradients,
    states,
    step_copies,
    step_gradients,
)
from lmsize.memory.moments import (
    activations_term,
    gradients_term,
    held_by_graph,
    input_bytes,
    moments,
    passing_term,
)
from lmsize.memory.stack_buffers import deferred, standing
from lmsize.memory.step_segments import has_flat_steps, step_segments
from lmsize.memory.storage import storage
from lmsize.memory.training_setup import TrainingSetup
from lmsize.memory.unit_moments import gathered_at_once, in_streams, with_units
from lmsize.memory.units import padded, units_of
from lmsize.model.spec import Run, Tower
from lmsize.numbers import ceil_div, larger
from lmsize.stacks.setting import Setting

STEP = "optimizer_step"


def training_peak(setup: TrainingSetup) -> Term:
    """The largest moment of the stage that is meant: a maximum of sums of components."""
    peaks = [
        maximum(_label(stage), _moments(setup, stage, adapters))
        for stage, adapters in _stages(setup)
    ]
    return highest("peak", peaks)


def training_segments(setup: TrainingSetup) -> Term | None:
    """What the allocator holds beyond what is ever live at once; None where nothing says.

    The fullest forward or backward, and segments that nothing else can use: those of the step's flat
    tensors (DeepSpeed), those of other streams (FSDP2).
    """
    if (setup.is_in_units or setup.stays_whole) and setup.adapters is None:
        return highest("segments", [_by_streams(setup, stage) for stage in _meant(setup)])
    if not has_flat_steps(setup):
        return None
    held = []
    for stage, adapters in _stages(setup):
        passes = [m for m in _moments(setup, stage, adapters) if m.label != STEP]
        blocks = _blocks(setup, stage)
        free = reduce(larger, (placed.piece.largest for placed in blocks), 0)
        trained = _parts(setup, adapters or stage, trainable=True)
        own = step_segments(setup, trained, free)
        held.append(total(_label(stage), [maximum("passes", passes), own]))
    return highest("segments", held)


def _by_streams(setup: TrainingSetup, stage: Stage) -> Term:
    """Each stream's own fullest instant: the allocator never lends a block to another stream."""
    *found, step = _moments(setup, stage, None)
    ahead = gathered_at_once(tuple(_blocks(setup, stage, by_unit=True)))
    apart = (lambda _: 0) if setup.stays_whole else in_streams
    passes = reduce(larger, (moment.value - apart(moment) for moment in found))
    shards = step.child("gradients")
    own = [given("gathered in one piece", ahead, "bytes"), *([shards] if shards else [])]
    return total(_label(stage), [given("passes", passes, "bytes"), total("of other streams", own)])


PASSING = ("activations", "temporaries")


def passing_tensors(setup: TrainingSetup) -> tuple[Term, float] | None:
    """The fullest forward or backward, and what of it comes and goes, where lengths vary; else None."""
    if setup.lengths == "equal":
        return None
    found = []
    for stage, adapters in _stages(setup):
        passes = [m for m in _moments(setup, stage, adapters) if m.label != STEP]
        found.append(maximum(_label(stage), passes))
    fullest = highest("passes", found)
    parts = (part.value for part in fullest.winner.children if part.label in PASSING)
    return fullest, sum(parts)


def _stages(setup: TrainingSetup) -> Iterator[tuple[Stage, Stage | None]]:
    """The stages that are meant, each with that of its adapters."""
    adapter_stages = (
        stages(setup.adapters, setup.layout.pp, setup.switches.split) if setup.adapters else ()
    )
    for stage in _meant(setup):
        yield stage, adapter_stages[stage.index] if adapter_stages else None


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
    base = _parts(setup, stage, trainable=not frozen)
    adapters = _parts(setup, adapter_stage, trainable=True) if adapter_stage else []
    trained = adapters if frozen else base
    uncast = ends(stage, **setup.switches.bf16_ends, vp=setup.layout.vp) if setup.casts else None
    plain = stored_parts(uncast, setup.layout, trainable=True) if uncast else ()
    held = held_throughout(setup, base, adapters, trained, frozen=frozen, uncast=plain)
    held += standing(setup, stage, adapter_stage)
    graded = [*flattened(base), *adapters] if frozen and setup.flattens else trained
    freed = setup.optimizer.gradient_is_freed
    own = [] if freed else [gradients(setup, graded)]
    reduced = [] if freed else [gradients(setup, graded, zero_stage=2)]
    timed = setup.flattens or setup.is_in_units
    gathers = [] if timed else _gathers(setup, stage)
    after = [states(setup, trained, frozen=frozen), _inputs(setup)]
    blocks = tuple(_blocks(setup, stage))
    step = total(STEP, [
        *held, *reduced, *after, *main_gradients(setup, trained), *step_gradients(setup, trained),
        *held_by_graph(blocks),
        *step_copies(setup, trained),
    ])  # fmt: skip
    schedule = setup.switches.schedule(setup.layout.vp)
    put_off = deferred(setup, stage, adapter_stage)
    made = []
    sharing = partial(with_units, stays=setup.layout.zero == 2) if setup.is_in_units else None
    found = moments(blocks, sharing=sharing, alike=setup.lengths == "equal")
    for moment in with_joins(found) if setup.flattens else found:
        grown = [
            *gathered_weights(setup, base), *(own if setup.accumulates else []),
            gradients_term(moment),
        ]  # fmt: skip
        in_flight = stage.n_in_flight(setup.batch.n_micro, schedule, at_loss=moment.at_loss)
        waiting = tuple(_waiting(setup, stage, blocks[-1].piece.output, in_flight))
        activations = activations_term(moment, in_flight=in_flight, whole=blocks, waiting=waiting)
        units = flat_units(setup, stage, adapter_stage, moment.name) if setup.flattens else gathers
        passing = total("temporaries", [passing_term(moment), *units])
        made.append(total(moment.name, [*held, *grown, *after, *put_off, activations, passing]))
    return [*made, step]


def _waiting(
    setup: TrainingSetup, stage: Stage, output: Any, in_flight: float
) -> Iterable[tuple[str, Any, Any]]:
    """What a stage of a pipeline has for the next: what it sent, until its gradient is back.

    DeepSpeed's ``pipe_buffers``; torch's ``fwd_cache``, and a buffer for the gradient of every
    micro-batch (``grad_recv_info``).
    """
    if setup.recipe.stack not in ("deepspeed", "torchtitan") or stage.index == stage.n_stages - 1:
        return
    yield "outputs of the stage", output, in_flight
    if setup.recipe.stack == "torchtitan":
        yield "buffers for their gradients", output, setup.batch.n_micro


def _parts(setup: TrainingSetup, stage: Stage, *, trainable: bool) -> list[Stored]:
    """The stage's tensors on a rank, padded where ranks share them by rows."""
    found = stored_parts(stage, setup.layout, trainable=trainable)
    if not setup.is_in_units:
        return list(found)
    return [padded(stored, setup.shards(2, expert=stored.is_expert)) for stored in found]


def _inputs(setup: TrainingSetup) -> Term:
    """Ids and labels of the step's micro-batches."""
    batch = setup.batch
    tokens = ceil_div(batch.micro_batch * batch.seq_len, setup.layout.cp)
    term = input_bytes.term(
        "ids and labels", n_micro_batches=batch.n_micro, n_tokens=tokens, bytes_per_number=8
    )
    return total("inputs", [term])


def _blocks(setup: TrainingSetup, stage: Stage, *, by_unit: bool = False) -> Iterable[Placed]:
    """The stage's blocks as its stack runs them; `by_unit` with the units of weights that stay whole."""
    recipe, batch = setup.recipe, setup.batch
    gathered = recipe.gathered if setup.gathers_weights else ""
    held = setup.base_type if setup.quant else gathered or recipe.weights
    weights, compute = (setup.precision(name).bits / 8 for name in (held, recipe.compute))
    casts = recipe.autocast or (recipe.stack == "torchtitan" and not gathered)
    setting = Setting(
        micro_batch=batch.micro_batch, seq_len=ceil_div(batch.seq_len, setup.layout.cp),
        weight_itemsize=weights, conduct=setup.model.conduct, attention=setup.attention,
        autocast=compute if casts and (gathered or compute < weights) else None,
        trains_base=setup.adapters is None, quant=setup.quant.name if setup.quant else "",
        head_dim=head_dim(setup.model), layout=setup.layout.inside_replica(), recompute=setup.recompute,
        quant_itemsize=compute, unpacks=setup.unpacks, switches=setup.switches, loss=setup.loss,
        casts=setup.casts,
        casts_inputs=setup.is_in_units and weights < setup.precision(recipe.weights).bits / 8,
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
        accumulates=(setup.accumulates or setup.shards_gradients) and not setup.is_in_units,
        gradient_shard=shard if setup.shards_gradients and not setup.accumulates else None,
        unit_of=units_of(setup) if setup.is_in_units or by_unit else None, vp=setup.layout.vp,
    )  # fmt: skip


def _gathers(setup: TrainingSetup, stage: Stage) -> list[Term]:
    """What ZeRO-3 holds whole for a while: the widest block's weights and its gradients."""
    if not setup.gathers_weights or setup.stays_whole:
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
