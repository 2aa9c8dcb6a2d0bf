"""Megatron's router: scores of all experts in fp32, the chosen ones, and where their tokens go.

Source: Megatron-LM core/transformer/moe/moe_utils.py (``topk_routing_with_score_function``,
``compute_routing_scores_for_aux_loss``, ``permute``); Transformer Engine pytorch/router.py and
pytorch/triton/permutation.py (``make_row_id_map``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lmsize.model.parts import Experts
from lmsize.stacks.sections import Section
from lmsize.stacks.setting import Setting, parameter
from lmsize.tape import ops
from lmsize.tape.program import Gradient, Program, Tensor

FP32, INT64, INT32 = 4, 8, 4


@dataclass(frozen=True, slots=True)
class Routing:
    """What the router hands on.

    Attributes:
        weights: one for each row that is sent.
        rows: which token each row is, or where each token goes; saved twice, as one storage.
    """

    weights: Tensor
    rows: Tensor


def routed(
    program: Program, x: Tensor, section: Section, bank: Experts, setting: Setting
) -> Routing:
    """From the normed stream to the weights of the rows that are sent."""
    t, router = setting.n_stream_tokens, section.router
    n_sent = n_rows_sent(bank, setting)
    if router is None:
        return Routing(Tensor("weights", n_sent, FP32, kind="given"), Tensor("rows", n_sent, INT64))
    n_all = router.n_out
    weight = parameter(program, router.name, router.n_in * n_all, setting)
    logits = Tensor("logits", t * n_all, FP32)
    program.record(
        "linear", [x, weight], logits, saves=[x, weight],
        gradients=[Gradient(x), Gradient(weight)],
    )  # fmt: skip
    table = _table(program, logits, t * bank.top_k, setting)
    held = [logits]
    if setting.switches.aux_loss:
        held.append(ops.pointwise(program, logits, name="scores for balance", saves="output"))
    made = _sent(program, table, t, n_all, n_sent=n_sent, setting=setting)
    program.hold(*held)
    return made


def n_rows_sent(bank: Experts, setting: Setting) -> Any:
    """Rows that this rank sends out; every expert's are filled up where they are padded."""
    n_rows = setting.n_stream_tokens * bank.top_k
    factor = setting.switches.capacity_factor
    return round_up(n_rows * factor) if factor and setting.switches.pads_to_capacity else n_rows


def round_up(value: Any) -> Any:
    """The next whole number."""
    return -(-value // 1)


def _table(program: Program, logits: Tensor, n_chosen: Any, setting: Setting) -> Tensor:
    """A weight for every token and expert, mostly zeros."""
    switches = setting.switches
    table = Tensor("table of weights", logits.numel, FP32)
    if switches.router_fusion:
        kept = [Tensor("scores", logits.numel, FP32), Tensor("mask", logits.numel, 1)]
        return program.record(
            "fused router", [logits], table, saves=kept, gradients=[Gradient(logits)], side=kept
        )
    if switches.router_score == "softmax":  # of the chosen alone
        chosen = ops.gather(program, logits, numel=n_chosen, n_rows=n_chosen)
        scores = ops.pointwise(program, chosen, name="softmax", saves="output")
    else:
        every = ops.pointwise(program, logits, name=switches.router_score, saves="output")
        scores = ops.gather(program, every, numel=n_chosen, n_rows=n_chosen)
        if switches.router_score == "sigmoid":  # made to add up to one
            scores = ops.mul(program, scores, ops.total(program, scores, numel=n_chosen))
    return program.record("scatter", [scores], table, gradients=[Gradient(scores)])


def _sent(
    program: Program, table: Tensor, n_tokens: Any, n_all: Any, *, n_sent: Any, setting: Setting
) -> Routing:
    """The weights of the rows that go out, by a mask or by a map of all experts."""
    made = Tensor("weights", n_sent, FP32)
    if setting.switches.permute_fusion:
        rows = Tensor("map of rows", n_tokens * (2 * n_all + 1), INT32)
        kept = [rows]
    else:
        rows = Tensor("rows", n_sent, INT64)
        turned = ops.copy(program, table, numel=table.numel, name="table by expert")
        kept = [turned, Tensor("mask of experts", table.numel, 1)]
        table = turned
    program.record(
        "masked_select", [table], made, saves=kept, gradients=[Gradient(table)],
        side=[rows, *(one for one in kept if one not in (rows, table))],
    )  # fmt: skip
    return Routing(made, rows)
