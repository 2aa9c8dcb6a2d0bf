"""The memory of a training step: what each rank holds, and the moment at which it peaks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lmsize.catalogue import Optimizer, Precision, Recipe
from lmsize.formula import Term, highest, maximum, total
from lmsize.layout.degrees import Layout
from lmsize.layout.shares import Stage, Stored, stages, stored_parts
from lmsize.memory.activations import stage_activations
from lmsize.memory.blocks import Placed, covers, head_dim, placed_blocks
from lmsize.memory.flat_units import flat_units, flattened, with_joins
from lmsize.memory.moments import (
    activations_term,
    gradients_term,
    input_bytes,
    moments,
    passing_term,
)
from lmsize.memory.optimizer_states import StateTypes, optimizer_states
from lmsize.memory.standing import HOPPER, Libraries, Shape, standing_term
from lmsize.memory.storage import storage
from lmsize.model.spec import ModelSpec, Run, Tower
from lmsize.numbers import ceil_div
from lmsize.stacks.fused_shapes import fused_shapes
from lmsize.stacks.setting import Setting
from lmsize.stacks.switches import USUAL, Switches
from lmsize.workload.training import Batch

WHOLE = 4  # no ZeRO stage divides it
KEEPS_GRADIENTS = ("megatron", "deepspeed")  # in buffers of their own, from step to step
FUSED_STEPS = ("megatron",)  # Adam of Transformer Engine or Apex, in one kernel


@dataclass(frozen=True, slots=True)
class TrainingSetup:
    """Everything that the memory of a step depends on.

    Attributes:
        adapters: the model of its adapters; None trains the base itself.
        fallback: steps the tensors that `optimizer` does not handle.
        quant: the number type of the frozen base's linears; None leaves them as they are.
        precision: looks a number type up by name.
        switches: of the stack; `capability` the compute capability of the accelerator.
        pipeline_stage: whose peak is meant: ``worst``, ``first`` or ``last``.
        loss: how the loss is taken, if not as the stack does.
    """

    model: ModelSpec
    adapters: ModelSpec | None
    layout: Layout
    batch: Batch
    recipe: Recipe
    optimizer: Optimizer
    fallback: Optimizer | None
    quant: Precision | None
    recompute: str
    attention: str
    precision: Callable[[str], Precision]
    pipeline_stage: str = "worst"
    switches: Switches = USUAL
    capability: int = HOPPER
    loss: str = ""

    @property
    def has_buckets(self) -> bool:
        """Whether gradients are reduced through a second copy, as torch's DDP does by default."""
        shared = self.layout.n_replicas > 1 and self.layout.zero == 0
        return shared and self.recipe.stack == "transformers"

    @property
    def sums_in_fp32(self) -> bool:
        """Whether DeepSpeed's BF16_Optimizer adds gradients up in an fp32 copy, whole on each rank."""
        return (
            self.recipe.stack == "deepspeed" and self.recipe.weights == "bf16"
            and self.layout.zero < 2
        )  # fmt: skip

    @property
    def is_taped(self) -> bool:
        """Whether the stack's own programs give the activations, rather than a textbook formula."""
        return covers(self.recipe.stack, self.model, self.attention)

    def shards(self, stage: int, *, expert: bool = False) -> int:
        """Over how many ranks ZeRO divides what `stage` divides."""
        whole = self.layout.shards(stage, expert=expert)
        return max(1, whole // self.switches.optimizer_instances) if stage == 1 else whole

    @property
    def gathers_weights(self) -> bool:
        """Whether blocks run on weights gathered for them from all ranks."""
        return self.layout.zero > 2 and self.layout.n_replicas > 1

    @property
    def accumulates(self) -> bool:
        """Whether gradients are there before a backward begins."""
        return self.batch.n_micro > 1 or self.recipe.stack in KEEPS_GRADIENTS

    @property
    def most_recomputed(self) -> int | None:
        """Layers of a stage that full recomputation by block takes in; None for all."""
        each = self.switches.recompute_layers
        return None if each is None else each * self.layout.vp

    @property
    def defers_reduction(self) -> bool:
        """Whether gradients add up whole on every rank until the step's last micro-batch."""
        return self.gathers_weights and self.recipe.defers_reduction and self.batch.n_micro > 1

    @property
    def flattens(self) -> bool:
        """Whether gradients cover the frozen weights that are sharded with trained ones."""
        return self.gathers_weights and self.recipe.flattens

    @property
    def shards_gradients(self) -> bool:
        """Whether each block's gradients are divided over the ranks as soon as they are made."""
        return self.layout.zero > 1 and self.layout.n_replicas > 1


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
    held = _held(setup, base, adapters, trained, frozen=frozen)
    held += _standing(setup, stage)
    graded = [*flattened(base), *adapters] if frozen and setup.flattens else trained
    freed = setup.optimizer.gradient_is_freed
    gradients = [] if freed else [_gradients(setup, graded)]
    reduced = [] if freed else [_gradients(setup, graded, zero_stage=2)]
    gathers = [] if setup.flattens else _gathers(setup, stage)
    after = [_states(setup, trained, frozen=frozen), _inputs(setup)]
    step = total("optimizer_step", [
        *held, *reduced, *after, *_main_gradients(setup, trained), *_step_copies(setup, trained)
    ])  # fmt: skip
    if not setup.is_taped:
        whole = [*held, *gradients, *after, _textbook(setup, stage), *gathers]
        return [total("backward", whole), step]
    blocks = tuple(_blocks(setup, stage))
    in_flight = stage.n_in_flight(setup.batch.n_micro, setup.layout.vp)
    made = []
    for moment in with_joins(moments(blocks)) if setup.flattens else moments(blocks):
        grown = [*(gradients if setup.accumulates else []), gradients_term(moment)]
        activations = activations_term(moment, in_flight=in_flight, whole=blocks)
        units = flat_units(setup, base, adapters, moment.name) if setup.flattens else gathers
        passing = total("temporaries", [passing_term(moment), *units])
        made.append(total(moment.name, [*held, *grown, *after, activations, passing]))
    return [*made, step]


def _held(
    setup: TrainingSetup, base: list[Stored], adapters: list[Stored], trained: list[Stored], *,
    frozen: bool,
) -> list[Term]:  # fmt: skip
    """Weights, and copies of weights and gradients, that are there throughout the step."""
    recipe = setup.recipe
    held = [_weights(setup, base)]
    if frozen:
        held.append(_stored("adapter_weights", adapters, setup, recipe.adapters, zero_stage=3))
    if recipe.main_weights and not frozen:
        held.append(_stored("main_weights", trained, setup, recipe.main_weights, zero_stage=1))
    if setup.sums_in_fp32 and not frozen:
        held.append(_stored("main_gradients", trained, setup, "fp32", zero_stage=WHOLE))
    if setup.has_buckets:
        kind = recipe.adapters if frozen else recipe.gradients
        held.append(_stored("gradient_buckets", trained, setup, kind, zero_stage=2))
    return held


def _main_gradients(setup: TrainingSetup, trained: list[Stored]) -> list[Term]:
    """The copy of the gradients that the step works on, made for it and let go of before the next."""
    kind = setup.recipe.main_gradients
    if not kind or setup.adapters is not None:
        return []
    return [_stored("main_gradients", trained, setup, kind, zero_stage=1)]


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


def _gradients(
    setup: TrainingSetup, trained: list[Stored], *, zero_stage: int | None = None
) -> Term:
    """Gradients as they add up over micro-batches; at a ZeRO stage's division if one is given."""
    recipe = setup.recipe
    kind = recipe.weights if setup.switches.grad_reduce_in_bf16 else recipe.gradients
    kind = kind if setup.adapters is None else recipe.adapters
    stage = zero_stage or (WHOLE if setup.defers_reduction else 2)
    return _stored("gradients", trained, setup, kind, zero_stage=stage)


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
        trains_base=setup.adapters is None, quant=setup.quant.name if setup.quant else "",
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
        return _gradients(setup, list(tensors)).value

    return placed_blocks(
        setup.model, setup.adapters, stage, setting, stack=recipe.stack,
        recompute=setup.recompute, most_recomputed=setup.most_recomputed, accumulates=setup.accumulates or setup.shards_gradients,
        gradient_shard=None if setup.accumulates or not setup.shards_gradients else shard,
    )  # fmt: skip


def _stored(
    label: str, tensors: Iterable[Stored], setup: TrainingSetup, dtype: str, *, zero_stage: int
) -> Term:
    """Trainable (or all, if none is trained) tensors in one type, a leaf a group."""
    sums: dict[tuple[str, bool], int] = defaultdict(int)
    for stored in tensors:
        if stored.trainable:
            sums[stored.group, stored.is_expert] += stored.n_params
    return total(label, [
        storage(group, n, setup.precision(dtype), n_shards=setup.shards(zero_stage, expert=expert))
        for (group, expert), n in sums.items()
    ])  # fmt: skip


def _weights(setup: TrainingSetup, tensors: Iterable[Stored]) -> Term:
    """The base model: quantised linears, the rest in the recipe's type."""
    sums: dict[tuple[str, bool, bool], int] = defaultdict(int)
    for stored in tensors:
        quantised = setup.quant is not None and stored.is_linear
        sums[stored.group, quantised, stored.is_expert] += stored.n_params
    rest = setup.precision(setup.recipe.unquantised if setup.quant else setup.recipe.weights)
    parts = []
    for (group, quantised, expert), n in sums.items():
        kind = setup.quant if quantised and setup.quant else rest
        label = f"{group} ({kind.name})" if setup.quant else group
        parts.append(storage(label, n, kind, n_shards=setup.shards(3, expert=expert)))
    if not setup.quant:
        n_linear = sum(s.n_params for s in tensors if s.is_linear)
        parts += [
            storage(f"linears cached in {name}", n_linear, setup.precision(name))
            for name in setup.recipe.cached_weights
        ]
    return total("weights", parts)


def _states(setup: TrainingSetup, trained: list[Stored], *, frozen: bool) -> Term:
    types = StateTypes(
        setup.precision,
        setup.recipe.adapters if frozen else setup.recipe.states,
        setup.recipe.adapters if frozen else setup.recipe.weights,
    )
    return optimizer_states(
        "optimizer_states", trained, setup.optimizer, types, fallback=setup.fallback,
        n_shards=setup.shards(1), n_expert_shards=setup.shards(1, expert=True),
    )  # fmt: skip


def _textbook(setup: TrainingSetup, stage: Stage) -> Term:
    batch = setup.batch
    return stage_activations(
        "activations", setup.model, stage, setup.layout, micro_batch=batch.micro_batch,
        seq_len=batch.seq_len, n_micro=batch.n_micro, recompute=setup.recompute,
        attention=setup.attention,
        bytes_per_number=setup.precision(setup.recipe.compute).bits / 8,
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


def _step_copies(setup: TrainingSetup, trained: list[Stored]) -> list[Term]:
    """Temporaries of the optimizer's own arithmetic."""
    optimizer = setup.optimizer
    trainable = [s for s in trained if s.trainable]
    state = setup.precision(setup.recipe.adapters if setup.adapters else setup.recipe.states)
    n_shards = setup.shards(1)
    usual = optimizer.default_implementation
    kind = "fused" if usual == "foreach" and setup.recipe.stack in FUSED_STEPS else usual
    if kind == "foreach":
        copies, numel = optimizer.foreach_copies or 0, sum(s.n_params for s in trainable)
    elif kind == "fused":
        copies, numel = optimizer.fused_copies or 0, sum(s.n_params for s in trainable)
    else:
        copies, numel = optimizer.loop_copies or 0, max((s.numel for s in trainable), default=0)
    if not copies:
        return []
    label = f"{kind} step, {copies:g} copies"
    return [total("temporaries", [storage(label, round(copies * numel), state, n_shards=n_shards)])]
