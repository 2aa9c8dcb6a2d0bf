"""Megatron core's mixture: shared experts, a router, products for all experts of a rank at once.

Weights of experts are applied to the activation inside of the expert, so that no output of one is
kept. Tokens are taken to be spread evenly.

Source: Megatron-LM core/transformer/moe/moe_layer.py (``MoELayer.forward``) and experts.py.
"""

from __future__ import annotations

from lmsize.model.parts import Experts
from lmsize.stacks.linears import applied
from lmsize.stacks.megatron_dispatch import DISPATCHED, Job
from lmsize.stacks.megatron_router import routed
from lmsize.stacks.megatron_switches import MegatronSwitches
from lmsize.stacks.mlp import dense_mlp
from lmsize.stacks.sections import Section
from lmsize.stacks.setting import Setting, Style, parameter
from lmsize.tape import ops
from lmsize.tape.program import Gradient, Program, Tensor

FP32 = 4


def mixture(
    program: Program, x: Tensor, section: Section, setting: Setting, style: Style
) -> Tensor:
    """From the normed stream to what the experts, shared and routed, add to it."""
    bank = section.experts
    assert bank is not None
    own = _shared(program, x, section, setting, style)
    routing = routed(program, x, section, bank, setting)
    program.module_keeps = routing.weights  # by the dispatcher

    def run(rows: Tensor) -> Tensor:
        return _bank(program, rows, routing.weights, bank, setting=setting)

    job = Job(routing, bank, setting, run)
    out = DISPATCHED[MegatronSwitches.of(setting.switches).dispatcher](program, x, job)
    return out if own is None else ops.add(program, out, own)


def _shared(
    program: Program, x: Tensor, section: Section, setting: Setting, style: Style
) -> Tensor | None:
    """What experts that every token passes add, gated where they have a gate; None without any."""
    gates = [part for part in section.linears if part.n_out == 1]
    shared = [part for part in section.linears if part not in gates]
    if not shared:
        return None
    start = len(program.ops)
    own = dense_mlp(program, x, shared, setting, style, is_shared=True)
    if setting.runs_again("shared_experts"):
        program.recompute(start)
    for gate in gates:
        open_ = ops.pointwise(
            program, applied(program, x, gate, setting), name="sigmoid", saves="output"
        )
        own = ops.mul(program, open_, own, small=open_)
    return own


def _bank(
    program: Program, rows: Tensor, weights: Tensor, bank: Experts, *, setting: Setting
) -> Tensor:
    """The experts' two products and the weighted activation between them."""
    up, down = bank.matrices
    n_rows = rows.numel // up[1]
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
    program.inner = None if again else weighted  # which the experts' code names
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
