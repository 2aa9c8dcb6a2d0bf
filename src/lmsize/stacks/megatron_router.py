"""Megatron's router: scores of all experts, the chosen ones, and where their tokens go.

Source: Megatron-LM core/transformer/moe/router.py and moe_utils.py (``topk_routing_with_score_function``,
``compute_routing_scores_for_aux_loss``, ``apply_router_token_dropping``, ``get_capacity``, ``permute``);
Transformer Engine pytorch/router.py and pytorch/triton/permutation.py (``make_row_id_map``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lmsize.model.parts import Experts, Linear
from lmsize.numbers import ceil_div
from lmsize.stacks.megatron_switches import MegatronSwitches
from lmsize.stacks.sections import Section
from lmsize.stacks.setting import Setting, parameter
from lmsize.tape import ops
from lmsize.tape.casts import Casts
from lmsize.tape.program import Gradient, Program, Tensor

FP32, INT64, INT32 = 4, 8, 4
SIZES = {"fp32": 4, "fp64": 8}


@dataclass(frozen=True, slots=True)
class Routing:
    """What the router hands on.

    Attributes:
        weights: one for each row that is computed.
        rows: which token each row is, or where each token goes; saved twice, as one storage.
    """

    weights: Tensor
    rows: Tensor


def routed(
    program: Program, x: Tensor, section: Section, bank: Experts, setting: Setting
) -> Routing:
    """From the normed stream to the weights of the rows that are computed."""
    t, router = setting.n_stream_tokens, section.router
    itemsize = router_itemsize(setting)
    if router is None:
        n_rows = n_rows_sent(bank, setting)
        weights = Tensor("weights", n_rows, itemsize, kind="given")
        return Routing(weights, Tensor("rows", n_rows, INT64))
    logits = _logits(program, x, router, setting)
    table = _table(program, logits, t * bank.top_k, setting)
    if MegatronSwitches.of(
        setting.switches
    ).capacity_factor:  # of those that an expert has room for
        table = _masked(program, table)
    held = [logits]
    if MegatronSwitches.of(setting.switches).aux_loss:
        held.append(_balance(program, logits, setting))
    made = _sent(program, table, bank, setting)
    program.hold(*held)
    return made


def router_itemsize(setting: Setting) -> float:
    """Bytes of a score: the stream's type, if the router is not said to have its own."""
    return SIZES.get(MegatronSwitches.of(setting.switches).router_dtype, setting.weight_itemsize)


def n_rows_sent(bank: Experts, setting: Setting) -> Any:
    """Rows that this rank sends out; every expert's are filled up where they are padded."""
    n_rows = setting.n_stream_tokens * bank.top_k
    switches = MegatronSwitches.of(setting.switches)
    factor = switches.capacity_factor
    n_all = bank.n_experts * setting.layout.ep
    if factor and switches.pads_to_capacity:
        return ceil_div(n_rows * factor, n_all) * n_all
    if switches.router_padding and setting.casts is not None:
        return n_rows + n_filling(n_all, setting.casts)
    return n_rows


def n_filling(n_groups: Any, casts: Casts) -> Any:
    """Rows that fill up groups for kernels of few bits, if what lacks is as likely to be any number."""
    return ceil_div(n_groups * (casts.align - 1), 2)


def n_reached(bank: Experts, setting: Setting) -> Any:
    """Tokens of all ranks that go to an expert of this one, if each chooses independently."""
    n_ranks = setting.layout.ep * (setting.layout.expert_tp if setting.sequence_shards > 1 else 1)
    reached_frac = 1 - (1 - 1 / n_ranks) ** bank.top_k
    return ceil_div(setting.n_stream_tokens * n_ranks * reached_frac, 1)


def _logits(program: Program, x: Tensor, router: Linear, setting: Setting) -> Tensor:
    """The product in the router's own type; both operands are raised to it for the backward."""
    weight = parameter(program, router.name, router.n_in * router.n_out, setting)
    made = Tensor("logits", setting.n_stream_tokens * router.n_out, router_itemsize(setting))
    raised = made.itemsize != x.itemsize
    scratch = x.numel * made.itemsize if raised else 0
    return program.record(
        "linear", [x, weight], made, saves=[x, weight],
        gradients=[Gradient(x, scratch_bytes=2 * scratch), Gradient(weight)],
    )  # fmt: skip


def _table(program: Program, logits: Tensor, n_chosen: Any, setting: Setting) -> Tensor:
    """A weight for every token and expert, mostly zeros."""
    switches = MegatronSwitches.of(setting.switches)
    table = Tensor("table of weights", logits.numel, logits.itemsize)
    if switches.router_fusion:
        kept = [Tensor("scores", logits.numel, FP32), Tensor("mask", logits.numel, 1)]
        return program.record(
            "fused router", [logits], table, saves=kept, gradients=[Gradient(logits)], side=kept
        )
    if switches.router_score == "softmax":  # of the chosen alone
        chosen = ops.gather(program, logits, numel=n_chosen, n_rows=n_chosen)
        scores = _scored(program, chosen, "softmax")
    else:
        every = _scored(program, logits, switches.router_score)
        scores = ops.gather(program, every, numel=n_chosen, n_rows=n_chosen)
        if switches.router_score == "sigmoid":  # made to add up to one
            scores = ops.mul(program, scores, ops.total(program, scores, numel=n_chosen))
    return program.record("scatter", [scores], table, gradients=[Gradient(scores)])


def _scored(program: Program, x: Tensor, name: str) -> Tensor:
    """A function in fp32, whose result is saved and taken back to the router's type."""
    raised = ops.cast(program, x, FP32) if x.itemsize < FP32 else x
    return ops.cast(program, ops.pointwise(program, raised, name=name, saves="output"), x.itemsize)


def _balance(program: Program, logits: Tensor, setting: Setting) -> Tensor:
    """Scores of all experts for the loss for balance; a fused kernel keeps its own, in fp32."""
    is_fused = MegatronSwitches.of(setting.switches).router_fusion
    raises = is_fused or MegatronSwitches.of(setting.switches).router_score != "sigmoid"
    x = ops.cast(program, logits, FP32) if raises and logits.itemsize < FP32 else logits
    return ops.pointwise(program, x, name="scores for balance", saves="output")


def _masked(program: Program, table: Tensor) -> Tensor:
    mask = Tensor("mask of those with room", table.numel, 1)
    made = Tensor("table of those with room", table.numel, table.itemsize)
    return program.record(
        "mul", [table], made, saves=[mask], gradients=[Gradient(table)], side=[mask]
    )


def _map_shape(bank: Experts, setting: Setting) -> tuple[Any, Any]:
    """Tokens and experts of the map by which tokens become rows, where they do."""
    layout, t = setting.layout, setting.n_stream_tokens
    if MegatronSwitches.of(setting.switches).dispatcher == "allgather":
        n_gathered = layout.expert_tp if setting.sequence_shards > 1 else 1
        return t * layout.ep * n_gathered, bank.n_experts
    if MegatronSwitches.of(setting.switches).dispatcher == "flex":
        return n_reached(bank, setting), bank.n_experts
    return t, bank.n_experts * layout.ep


def _sent(program: Program, table: Tensor, bank: Experts, setting: Setting) -> Routing:
    """The weights of the rows that are computed, by a mask or by a map of the experts."""
    n_tokens, n_experts = _map_shape(bank, setting)
    n_sent = n_rows_sent(bank, setting)
    made = Tensor("weights", n_sent, table.itemsize)
    if MegatronSwitches.of(setting.switches).permute_fusion:
        rows = Tensor("map of rows", n_tokens * (2 * n_experts + 1), INT32)
        kept = [rows]
    else:
        rows = Tensor("rows", n_sent, INT64)
        turned = ops.copy(program, table, numel=n_tokens * n_experts, name="table by expert")
        kept = [turned, Tensor("mask of experts", turned.numel, 1)]
        table = turned
    program.record(
        "masked_select", [table], made, saves=kept, gradients=[Gradient(table)],
        side=[rows, *(one for one in kept if one not in (rows, table))],
    )  # fmt: skip
    return Routing(made, rows)
