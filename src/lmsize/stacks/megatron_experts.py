"""Megatron core's mixture: a router, tokens sent to their experts, products for all of a rank at once.

Weights of experts are applied to the activation inside of the expert, so that no output of one is
kept. Tokens are taken to be spread evenly.
"""

from __future__ import annotations

from typing import Any

from lmsize.model.parts import Experts
from lmsize.stacks.linears import applied
from lmsize.stacks.megatron_router import Routing, n_rows_sent, routed
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
    routing = routed(program, x, section, bank, setting)
    gates = [part for part in section.linears if part.n_out == 1]
    shared = [part for part in section.linears if part not in gates]
    start = len(program.ops)
    own = dense_mlp(program, x, shared, setting, style, is_shared=True) if shared else None
    if setting.runs_again("shared_experts") and shared:
        program.recompute(start)
    for gate in gates:
        assert own is not None
        open_ = ops.pointwise(
            program, applied(program, x, gate, setting), name="sigmoid", saves="output"
        )
        own = ops.mul(program, open_, own, small=open_)
    out = _experts(program, x, routing, bank, setting=setting)
    return out if own is None else ops.add(program, out, own)


def _experts(
    program: Program, x: Tensor, routing: Routing, bank: Experts, *, setting: Setting
) -> Tensor:
    """Rows of tokens go out, pass their experts, and come back."""
    width = bank.matrices[0][1]
    layout = setting.layout
    gathered = layout.expert_tp if setting.sequence_shards > 1 else 1
    n_sent = n_rows_sent(bank, setting)
    n_rows = n_sent * gathered
    is_split, has_several = layout.ep > 1 or gathered > 1, bank.n_experts > 1
    sent = _placed(program, x, routing, n_sent * width, "rows by expert")
    rows = _moved(program, sent, n_rows * width, "rows received") if is_split else sent
    sorted_ = _moved(program, rows, n_rows * width, "rows sorted") if has_several else rows
    if setting.casts is not None:  # filled up for the kernels (Fp8Padding)
        sorted_ = _moved(program, sorted_, n_rows * width, "rows padded")
    out = _bank(program, sorted_, routing.weights, bank, n_rows=n_rows, setting=setting)
    program.hold(sent, rows)
    if setting.casts is not None:
        out = _moved(program, out, n_rows * width, "rows unpadded")
    if has_several:
        out = _moved(program, out, n_rows * width, "rows unsorted")
    back = _moved(program, out, n_sent * width, "rows back") if is_split else out
    made = _placed(program, back, routing, setting.n_stream_tokens * width, "tokens in order")
    program.hold(out, back)
    return made


def _placed(program: Program, x: Tensor, routing: Routing, numel: Any, name: str) -> Tensor:
    """Tokens to rows and back, by the same map, which is saved."""
    made = Tensor(name, numel, x.itemsize)
    return program.record(
        "gather", [x, routing.rows], made, saves=[routing.rows], gradients=[Gradient(x)]
    )


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
    again = setting.runs_again("moe_act")
    out = _product(program, weighted, down, bank, setting.of_shared if again else setting)
    if again:
        program.recompute(start, stop=activated, outputs=True)
    return out


def _product(
    program: Program, x: Tensor, matrix: tuple[str, int, int], bank: Experts, setting: Setting
) -> Tensor:
    name, n_in, n_out = matrix
    weight = parameter(program, f"{bank.name}.{name}", bank.n_experts * n_in * n_out, setting)
    made = ops.grouped_linear(
        program, x, weight, numel=x.numel // n_in * n_out, name=name, casts=setting.casts
    )
    rank = setting.rank(bank.name)
    return (
        made
        if rank is None
        else _adapted(program, x, made, matrix, bank, rank=rank, setting=setting)
    )


def _adapted(
    program: Program, x: Tensor, base: Tensor, matrix: tuple[str, int, int], bank: Experts, *,
    rank: int, setting: Setting,
) -> Tensor:  # fmt: skip
    """Every expert's own adapter beside its matrix."""
    _, n_in, n_out = matrix
    itemsize = setting.adapting.itemsize or setting.weight_itemsize
    down, up = (
        program.parameter(name, bank.n_experts * numel, itemsize, trained=True)
        for name, numel in (("lora_A", n_in * rank), ("lora_B", rank * n_out))
    )
    n_rows = x.numel // n_in
    inner = ops.grouped_linear(program, x, down, numel=n_rows * rank, name="lora_A")
    outer = ops.grouped_linear(program, inner, up, numel=n_rows * n_out, name="lora_B")
    return ops.add(program, base, ops.pointwise(program, outer, name="scaled"))
