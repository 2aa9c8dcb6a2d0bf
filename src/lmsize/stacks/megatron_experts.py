"""Megatron core's mixture: a router, tokens sent to their experts, products for all of a rank at once.

Weights of experts are applied to the activation inside of the expert, so that no output of one is
kept. Tokens are taken to be spread evenly.
"""

from __future__ import annotations

from typing import Any

from lmsize.model.parts import Experts
from lmsize.stacks.linears import applied
from lmsize.stacks.mlp import dense_mlp
from lmsize.stacks.sections import Section
from lmsize.stacks.setting import Setting, Style, parameter
from lmsize.tape import ops
from lmsize.tape.program import Gradient, Program, Tensor

FP32 = 4


def mixture(
    program: Program, x: Tensor, section: Section, setting: Setting, style: Style
) -> Tensor:
    """From the normed stream to what the experts, routed and shared, add to it."""
    bank = section.experts
    assert bank is not None
    weights = _routed_weights(program, x, section, bank, setting)
    gates = [part for part in section.linears if part.n_out == 1]
    shared = [part for part in section.linears if part not in gates]
    start = len(program.ops)
    own = dense_mlp(program, x, shared, setting, style) if shared else None
    if setting.runs_again("shared_experts") and shared:
        program.recompute(start)
    for gate in gates:
        assert own is not None
        open_ = ops.pointwise(
            program, applied(program, x, gate, setting), name="sigmoid", saves="output"
        )
        own = ops.mul(program, open_, own, small=open_)
    out = _experts(program, x, weights, bank, setting=setting)
    return out if own is None else ops.add(program, out, own)


def _routed_weights(
    program: Program, x: Tensor, section: Section, bank: Experts, setting: Setting
) -> Tensor:
    """Weights of the chosen experts: as a table of all experts in fp32, then one for each row sent."""
    t, router = setting.n_stream_tokens, section.router
    if router is None:
        return Tensor("weights", t * bank.top_k, FP32, kind="given")
    n_all = router.n_out
    weight = parameter(program, router.name, router.n_in * n_all, setting)
    logits = Tensor("logits", t * n_all, FP32)
    program.record(
        "linear", [x, weight], logits, saves=[x, weight],
        gradients=[Gradient(x), Gradient(weight)],
    )  # fmt: skip
    balance = ops.pointwise(program, logits, name="softmax for balance", saves="output")
    chosen = ops.gather(program, logits, numel=t * bank.top_k, n_rows=t * bank.top_k)
    scores = ops.pointwise(program, chosen, name="softmax", saves="output")
    table = Tensor("table of weights", t * n_all, FP32)
    mask = Tensor("mask of experts", t * n_all, 1)
    made = Tensor("weights", t * bank.top_k, FP32)
    program.record("scatter", [scores], table, gradients=[Gradient(scores)])
    program.record(
        "masked_select", [table], made, saves=[table, mask], gradients=[Gradient(table)],
        side=[mask],
    )  # fmt: skip
    program.hold(logits, balance)
    return made


def _experts(
    program: Program, x: Tensor, weights: Tensor, bank: Experts, *, setting: Setting
) -> Tensor:
    """Rows of tokens go out, pass their experts, and come back."""
    width = bank.matrices[0][1]
    layout = setting.layout
    gathered = layout.expert_tp if setting.sequence_shards > 1 else 1
    n_sent = setting.n_stream_tokens * bank.top_k
    n_rows = n_sent * gathered
    is_split, has_several = layout.ep > 1 or gathered > 1, bank.n_experts > 1
    sent = ops.gather(program, x, numel=n_sent * width, n_rows=n_sent, name="rows by expert")
    rows = _moved(program, sent, n_rows * width, "rows received") if is_split else sent
    sorted_ = _moved(program, rows, n_rows * width, "rows sorted") if has_several else rows
    out = _bank(program, sorted_, weights, bank, n_rows=n_rows, setting=setting)
    program.hold(sent, rows)
    if has_several:
        out = _moved(program, out, n_rows * width, "rows unsorted")
    back = _moved(program, out, n_sent * width, "rows back") if is_split else out
    made = ops.gather(
        program, back, numel=setting.n_stream_tokens * width, n_rows=1, name="tokens in order"
    )
    program.hold(out, back)
    return made


def _moved(program: Program, x: Tensor, numel: Any, name: str) -> Tensor:
    """Rows in another place or order: all to all, gathered, concatenated; saves nothing."""
    return ops.copy(program, x, numel=numel, name=name)


def _bank(
    program: Program, rows: Tensor, weights: Tensor, bank: Experts, *, n_rows: Any, setting: Setting
) -> Tensor:
    """The experts' two products and the weighted activation between them."""
    up, down = bank.matrices
    inner = _product(program, rows, up, bank, setting)
    is_gated = up[2] == 2 * down[1]
    start = len(program.ops)
    weighted = Tensor("weighted activation", n_rows * down[1], rows.itemsize)
    if is_gated:  # one kernel, which computes the activation again
        program.record(
            "gated", [inner, weights], weighted, saves=[inner, weights],
            gradients=[Gradient(inner), Gradient(weights)],
        )  # fmt: skip
    else:
        active = ops.pointwise(program, inner, name=setting.conduct.activation, saves="input")
        raised = Tensor("weighted in fp32", n_rows * down[1], FP32)
        program.record(
            "mul", [active, weights], raised, saves=[active, weights],
            gradients=[Gradient(active), Gradient(weights)],
        )  # fmt: skip
        program.record("cast", [raised], weighted, gradients=[Gradient(raised)])
    activated = len(program.ops)
    out = _product(program, weighted, down, bank, setting)
    if setting.runs_again("moe_act"):
        program.recompute(start, stop=activated, outputs=True)
    return out


def _product(
    program: Program, x: Tensor, matrix: tuple[str, int, int], bank: Experts, setting: Setting
) -> Tensor:
    name, n_in, n_out = matrix
    weight = parameter(program, f"{bank.name}.{name}", bank.n_experts * n_in * n_out, setting)
    return ops.grouped_linear(program, x, weight, numel=x.numel // n_in * n_out, name=name)
