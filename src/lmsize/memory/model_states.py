"""What a rank holds of the model in training: weights, gradients, optimizer states, their copies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from lmsize.formula import Term, total
from lmsize.layout.shares import Stored
from lmsize.memory.optimizer_states import StateTypes, optimizer_states
from lmsize.memory.storage import storage
from lmsize.memory.training_setup import TrainingSetup

WHOLE = 4  # no ZeRO stage divides it
FUSED_STEPS = ("megatron",)  # Adam of Transformer Engine or Apex, in one kernel
FP32_BITS = 32


def held_throughout(
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


def main_gradients(setup: TrainingSetup, trained: list[Stored]) -> list[Term]:
    """The copy of the gradients that the step works on, made for it and let go of before the next."""
    kind = setup.recipe.main_gradients
    if not kind or setup.adapters is not None:
        return []
    return [_stored("main_gradients", trained, setup, kind, zero_stage=1)]


def gradients(
    setup: TrainingSetup, trained: list[Stored], *, zero_stage: int | None = None
) -> Term:
    """Gradients as they add up over micro-batches; at a ZeRO stage's division if one is given."""
    recipe = setup.recipe
    kind = recipe.weights if setup.switches.grad_reduce_in_bf16 else recipe.gradients
    kind = kind if setup.adapters is None else recipe.adapters
    stage = zero_stage or (WHOLE if setup.defers_reduction else 2)
    return _stored("gradients", trained, setup, kind, zero_stage=stage)


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


def states(setup: TrainingSetup, trained: list[Stored], *, frozen: bool) -> Term:
    types = StateTypes(
        setup.precision,
        setup.recipe.adapters if frozen else setup.recipe.states,
        setup.recipe.adapters if frozen else setup.recipe.weights,
    )
    return optimizer_states(
        "optimizer_states", trained, setup.optimizer, types, fallback=setup.fallback,
        n_shards=setup.shards(1), n_expert_shards=setup.shards(1, expert=True),
    )  # fmt: skip


def step_copies(setup: TrainingSetup, trained: list[Stored]) -> list[Term]:
    """Temporaries of the optimizer's own arithmetic."""
    optimizer = setup.optimizer
    trainable = [s for s in trained if s.trainable]
    frozen = setup.adapters is not None
    state = setup.precision(setup.recipe.adapters if frozen else setup.recipe.states)
    n_shards = setup.shards(1)
    usual = optimizer.default_implementation
    kind = "fused" if usual == "foreach" and setup.recipe.stack in FUSED_STEPS else usual
    if kind == "foreach":
        copies, numel = optimizer.foreach_copies or 0, sum(s.n_params for s in trainable)
    elif kind == "fused":
        copies, numel = optimizer.fused_copies or 0, sum(s.n_params for s in trainable)
    else:
        copies, numel = optimizer.loop_copies or 0, max((s.numel for s in trainable), default=0)
        weights = setup.precision(setup.recipe.adapters if frozen else setup.recipe.weights)
        if optimizer.raised_copies and weights.bits < FP32_BITS:
            copies, state = copies + optimizer.raised_copies, setup.precision("fp32")
    if not copies:
        return []
    label = f"{kind} step, {copies:g} copies"
    return [total("temporaries", [storage(label, round(copies * numel), state, n_shards=n_shards)])]


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
