"""What a rank holds of the model in training: weights, gradients, optimizer states, their copies."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from functools import reduce
from itertools import pairwise
from typing import Any

from lmsize.formula import Term, formula, maximum, total
from lmsize.layout.shares import Stage, Stored
from lmsize.memory.optimizer_states import StateTypes, optimizer_states, part_of
from lmsize.memory.storage import storage
from lmsize.memory.training_setup import TrainingSetup
from lmsize.memory.whole_tensors import owned, shares_whole
from lmsize.model.parts import Buffer
from lmsize.numbers import ceil_div, larger
from lmsize.source import Source

TABLES = Source(
    "transformers 5.23", "modeling_gptj.py, create_sinusoidal_positions; modeling_gpt_neo.py, bias",
    "https://github.com/huggingface/transformers",
)  # fmt: skip

WHOLE = 4  # no ZeRO stage divides it
FP32_BITS = 32


def held_throughout(
    setup: TrainingSetup, base: list[Stored], adapters: list[Stored], trained: list[Stored], *,
    frozen: bool, uncast: Iterable[Stored] = (),
) -> list[Term]:  # fmt: skip
    """Weights, and copies of weights and gradients, that are there throughout the step.

    Args:
        uncast: of the layers whose products are not in few bits, if others' are.
    """
    recipe = setup.recipe
    n_uncast = sum(s.n_params for s in uncast if s.is_linear)
    held = [_weights(setup, base, n_uncast=n_uncast)]
    if frozen:
        stage = setup.weights_stage
        # Those that no gradient reaches (of towers that stand idle, of an indexer) are there too.
        every = [replace(stored, trainable=True) for stored in adapters]
        held.append(_stored("adapter_weights", every, setup, recipe.adapters, zero_stage=stage))
    if setup.has_main_copies and setup.optimizer_share:
        kind, share = setup.main_weights or recipe.weights, setup.optimizer_share
        mine, stage = (owned(setup, trained), WHOLE) if shares_whole(setup) else (trained, 1)
        held.append(_raised("main_weights", mine, setup, kind, zero_stage=stage, share=share))
    if setup.sums_in_fp32 and (setup.has_main_copies or not frozen):
        held.append(_raised("main_gradients", trained, setup, "fp32", zero_stage=WHOLE))
    if setup.has_buckets:
        kind = recipe.adapters if frozen else recipe.gradients
        held.append(_stored("gradient_buckets", trained, setup, kind, zero_stage=2))
    return held


def gathered_weights(setup: TrainingSetup, base: list[Stored]) -> list[Term]:
    """Weights that stay gathered through the forward and backward of all micro-batches."""
    if not setup.stays_whole:
        return []
    usual = setup.recipe.gathered or setup.recipe.weights
    few = setup.switches.fp8_all_gather
    parts = [
        _stored("gathered_weights", alike, setup, kind, zero_stage=WHOLE)
        for kind, alike in (
            (usual, [s for s in base if not (few and s.is_linear)]),
            ("fp8", [s for s in base if few and s.is_linear]),
        )
        if alike
    ]
    return [total("gathered_weights", [leaf for part in parts for leaf in part.children])]


def main_gradients(setup: TrainingSetup, trained: list[Stored]) -> list[Term]:
    """The copy of the gradients that the step works on, made for it and let go of before the next."""
    kind = setup.recipe.main_gradients
    if not kind or not setup.has_main_copies:
        return []
    return [_stored("main_gradients", trained, setup, kind, zero_stage=1)]


def step_gradients(setup: TrainingSetup, trained: list[Stored]) -> list[Term]:
    """A partition's gradients as the step takes them, where they are not summed up so already."""
    kind = setup.recipe.step_gradients
    if not kind or not setup.has_main_copies or setup.sums_in_fp32:
        return []
    raised = _raised("gradients raised for the step", trained, setup, kind, zero_stage=1)
    return [total("temporaries", [raised])]


def gradients(
    setup: TrainingSetup, trained: list[Stored], *, zero_stage: int | None = None
) -> Term:
    """Gradients as they add up over micro-batches; at a ZeRO stage's division if one is given."""
    waits = zero_stage is None and setup.defers_reduction
    kind = setup.unreduced_type if waits else setup.gradient_type
    stage = zero_stage or (WHOLE if waits else 2)
    return _stored("gradients", trained, setup, kind, zero_stage=stage)


def _weights(setup: TrainingSetup, tensors: Iterable[Stored], *, n_uncast: Any) -> Term:
    """The base model: quantised linears, the rest in the recipe's type; casts that stay."""
    casts = setup.casts
    sums: dict[tuple[str, bool, bool], int] = defaultdict(int)
    in_few_bits = casts is not None and casts.stores_weights
    for stored in tensors:
        quantised = setup.quant is not None and stored.is_linear
        if not (in_few_bits and stored.is_linear):
            key = stored.group, quantised, stored.is_expert
            sums[key] = sums[key] + stored.n_params
    if in_few_bits and n_uncast:
        sums["linears of the first and last layers", False, False] = n_uncast
    rest = setup.precision(setup.base_type)
    n_cast = sum(s.n_params for s in tensors if s.is_linear) - n_uncast
    parts = []
    for (group, quantised, expert), n in sums.items():
        kind = setup.quant if quantised and setup.quant else rest
        label = f"{group} ({kind.name})" if setup.quant else group
        n_shards = setup.shards(setup.weights_stage, expert=expert)
        parts.append(storage(label, n, kind, n_shards=n_shards))
    if casts is not None and casts.keeps_weights:
        label = f"linears cast to {casts.weights}, {casts.n_copies} each"
        parts.append(storage(label, casts.n_copies * n_cast, setup.precision(casts.weights)))
    elif not setup.quant:
        parts += [
            storage(f"linears cached in {name}", n_cast, setup.precision(name))
            for name in setup.recipe.cached_weights
        ]
    return total("weights", parts)


def states(setup: TrainingSetup, trained: list[Stored], *, frozen: bool) -> Term:
    recipe, base, switches = setup.recipe, setup.base_type, setup.switches
    is_dealt = shares_whole(setup)
    trained = owned(setup, trained) if is_dealt else trained
    kinds = (recipe.adapters, recipe.adapters) if frozen else (recipe.states, recipe.weights)
    of_whole = (base, base)
    if frozen and setup.has_main_copies:
        kinds, of_whole = (recipe.states, recipe.adapters), (recipe.states, base)
    whole = [stored for stored in trained if stored.is_whole]
    own = [stored for stored in trained if not stored.is_whole]
    named = {"exp_avg": switches.exp_avg_dtype, "exp_avg_sq": switches.exp_avg_sq_dtype}
    found = [
        optimizer_states(
            "optimizer_states", tensors, setup.optimizer,
            StateTypes(setup.precision, *types, named, setup.optimizer_share),
            fallback=setup.fallback, n_shards=1 if is_dealt else setup.shards(1),
            n_expert_shards=1 if is_dealt else setup.shards(1, expert=True),
        )
        for tensors, types in ((own, kinds), (whole, of_whole))
    ]  # fmt: skip
    return total("optimizer_states", [leaf for term in found for leaf in term.children])


def step_copies(setup: TrainingSetup, trained: list[Stored]) -> list[Term]:
    """Temporaries of the optimizer's own arithmetic."""
    optimizer = setup.optimizer
    trainable = [s for s in trained if s.trainable]
    in_own = setup.adapters is not None and not setup.has_main_copies
    state = setup.recipe.adapters if in_own else setup.recipe.states
    usual = optimizer.default_implementation
    fuses = setup.stack.fused_step and setup.switches.fused_adam
    kind = "fused" if usual == "foreach" and fuses else usual
    copies = {
        "foreach": setup.foreach_copies, "fused": optimizer.fused_copies
    }.get(kind, optimizer.loop_copies)  # fmt: skip
    weights = setup.precision(setup.recipe.adapters if in_own else setup.recipe.weights)
    if kind == "loop" and optimizer.raised_copies and weights.bits < FP32_BITS:
        copies, state = (copies or 0) + optimizer.raised_copies, "fp32"
    if not copies:
        return []
    label = f"{kind} step, {copies:g} copies"
    leaves = []
    for dtype, tensors in _by_type(setup, trainable, state):
        for alike, n_shards in by_shards(setup, tensors):
            at_once = kind in ("foreach", "fused")
            copied = round(
                copies * sum(s.n_params for s in alike) if at_once
                else _in_loop(alike, copies=copies, previous=optimizer.previous_copies)
            )  # fmt: skip
            leaves.append(storage(label, copied, setup.precision(dtype), n_shards=n_shards))
    if kind == "loop" and len(leaves) > 1:  # one tensor after the other
        leaves = [maximum("one tensor at a time", leaves)]
    return [total("temporaries", leaves)]


def _in_loop(tensors: list[Stored], *, copies: float, previous: float) -> Any:
    """Numbers that the loop holds at its fullest: of one tensor, and of the one that came before.

    Most layers list their norms after their matrices.
    """
    found = reduce(larger, (copies * stored.numel for stored in tensors))
    if not previous:
        return found
    listed = [s for s in tensors if not s.is_norm]
    pairs = pairwise(listed)
    together = (copies * one.numel + previous * before.numel for before, one in pairs)
    return reduce(larger, together, found)


def by_shards(setup: TrainingSetup, tensors: Iterable[Stored]) -> list[tuple[list[Stored], int]]:
    """Trained tensors by the ranks that divide the step's work on them: experts have their own."""
    mine = [stored for stored in tensors if stored.trainable]
    parts = [([s for s in mine if s.is_expert == expert], expert) for expert in (False, True)]
    return [(alike, setup.shards(1, expert=expert)) for alike, expert in parts if alike]


def _raised(
    label: str, tensors: Iterable[Stored], setup: TrainingSetup, dtype: str, *, zero_stage: int,
    share: float = 1.0,
) -> Term:  # fmt: skip
    """Copies of trained tensors in one type, whatever their own."""
    alike = [replace(stored, is_whole=False) for stored in tensors]
    return _stored(label, alike, setup, dtype, zero_stage=zero_stage, share=share)


def _by_type(
    setup: TrainingSetup, tensors: Iterable[Stored], dtype: str
) -> list[tuple[str, list[Stored]]]:
    """Tensors by their number type: whole modules of the base have its own."""
    sums: dict[str, list[Stored]] = {}
    for stored in tensors:
        sums.setdefault(setup.base_type if stored.is_whole else dtype, []).append(stored)
    return list(sums.items())


def _stored(
    label: str, tensors: Iterable[Stored], setup: TrainingSetup, dtype: str, *, zero_stage: int,
    share: float = 1.0,
) -> Term:  # fmt: skip
    """Trainable (or all, if none is trained) tensors in one type, a leaf a group."""
    leaves = []
    for kind, alike in _by_type(setup, (s for s in tensors if s.trainable), dtype):
        sums: dict[tuple[str, bool], int] = defaultdict(int)
        for stored in alike:
            key = stored.group, stored.is_expert
            sums[key] = sums[key] + stored.n_params
        for (group, expert), n in sums.items():
            n_shards = setup.shards(zero_stage, expert=expert)
            mine = part_of(n, share)
            leaves.append(storage(group, mine, setup.precision(kind), n_shards=n_shards))
    return total(label, leaves)


@formula(source=TABLES)
def table_bytes(*, n_layers: Any, layer_bytes: Any) -> Any:
    """Bytes of tables that layers keep as buffers and do not train: sinusoids, causal masks.

    Assumes: each layer has a table of its own, in the type that the class makes it in.
    Valid for: classes of transformers.
    """
    return n_layers * layer_bytes


def buffers(setup: TrainingSetup, stage: Stage) -> list[Term]:
    """Tables of the stage's blocks."""
    usual = int(setup.precision(setup.recipe.weights).bits)
    leaves = []
    for _, run in stage.runs:
        for part in run.block.parts:
            if isinstance(part, Buffer):
                bits = usual if part.itemsize is None else 8 * part.itemsize
                label = f"tables of {run.n_layers} x {run.block.name}"
                n_bytes = ceil_div(math.prod(part.shape) * bits, 8)
                leaves.append(table_bytes.term(label, n_layers=run.n_layers, layer_bytes=n_bytes))
    return [total("buffers", leaves)] if leaves else []
