"""Routed experts: a router, tokens sorted by expert, grouped products, and their weighted sum."""

from __future__ import annotations

from typing import Any

from lmsize.model.parts import Experts
from lmsize.stacks import habits
from lmsize.stacks.linears import applied
from lmsize.stacks.mlp import dense_mlp, gated_mlp
from lmsize.stacks.sections import Section
from lmsize.stacks.setting import Setting, Style, parameter
from lmsize.tape import ops
from lmsize.tape.program import Program, Tensor

FP32 = 4


def mixture(
    program: Program, x: Tensor, section: Section, setting: Setting, style: Style
) -> Tensor:
    """From the normed stream to what the experts, routed and shared, add to it."""
    bank = section.experts
    assert bank is not None
    if setting.conduct.model_type in habits.DENSE_EXPERTS and section.router is not None:
        return _dense_experts(program, x, section, bank, setting=setting, style=style)
    gates = [part for part in section.linears if part.n_out == 1]
    shared = [part for part in section.linears if part not in gates]
    own: Tensor | None = None
    if shared and setting.conduct.model_type in habits.SHARED_FIRST:
        own = dense_mlp(program, x, shared, setting, style)
    weights = _routing(program, x, section, bank, setting)
    routed = routed_experts(program, x, weights, bank, setting=setting, style=style)
    if not shared:
        return routed
    if own is None:
        own = dense_mlp(program, x, shared, setting, style)
    for gate in gates:
        open_ = ops.pointwise(
            program, applied(program, x, gate, setting), name="sigmoid", saves="output"
        )
        own = ops.mul(program, open_, own, small=open_)
    return ops.add(program, routed, own)


def _routing(
    program: Program, x: Tensor, section: Section, bank: Experts, setting: Setting
) -> Tensor:
    """The weights of the chosen experts, in fp32 or in the type of the router's output."""
    t, router = setting.n_stream_tokens, section.router
    if router is None:
        return Tensor("weights", t * bank.top_k, FP32, kind="given")
    if setting.conduct.model_type in habits.FP32_ROUTER:
        raised = ops.cast(program, x, FP32, name="router input in fp32")
        weight = ops.cast(
            program, parameter(program, router.name, router.n_in * router.n_out, setting), FP32
        )
        logits = ops.linear(program, raised, weight, n_in=router.n_in, n_out=router.n_out)
    else:
        logits = applied(program, x, router, setting)
    scores = ops.softmax(program, logits, itemsize=FP32)
    chosen = ops.gather(program, scores, numel=t * bank.top_k, n_rows=t * bank.top_k)
    scale = ops.total(program, chosen, numel=t)
    made = ops.mul(program, chosen, scale, small=scale, name="weights")
    if setting.conduct.model_type in habits.CASTS_WEIGHTS:
        made = ops.cast(program, made, logits.itemsize)
    program.hold(logits)
    return made


def _dense_experts(
    program: Program, x: Tensor, section: Section, bank: Experts, *, setting: Setting, style: Style
) -> Tensor:
    """Llama 4: tokens once for each expert, times their scores; the rest as one product a matrix."""
    assert section.router is not None
    logits = applied(program, x, section.router, setting)
    t, (gate_up, down) = setting.n_stream_tokens, bank.matrices
    best = ops.gather(program, logits, numel=t * bank.top_k, n_rows=t * bank.top_k)
    raised = ops.cast(program, ops.copy(program, best, numel=logits.numel), FP32)
    scores = ops.pointwise(program, raised, name="sigmoid", saves="output")
    scores = ops.cast(program, scores, logits.itemsize)
    rows = ops.copy(program, x, numel=bank.n_experts * x.numel, name="tokens of every expert")
    rows = ops.mul(program, rows, scores, small=scores, name="scored tokens")
    both = _product(program, rows, gate_up, bank, setting)
    half = both.numel // 2
    gate, other = ops.split(program, both, (half, half))
    inner = ops.mul(
        program, other, style.activation(program, gate, setting.conduct.activation), name="gated"
    )
    out = _product(program, inner, down, bank, setting)
    program.hold(both)
    own = dense_mlp(program, x, section.linears, setting, style)
    total = ops.total(program, out, numel=x.numel)
    made = ops.in_place(program, own, total, name="added")
    program.hold(rows, scores, out)
    return made


def _product(
    program: Program, x: Tensor, matrix: tuple[str, int, int], bank: Experts, setting: Setting
) -> Tensor:
    """A batch of products, one an expert, which autocast lowers."""
    name, n_in, n_out = matrix
    weight = parameter(program, f"{bank.name}.{name}", bank.n_experts * n_in * n_out, setting)
    return ops.grouped_linear(
        program, ops.lowered(program, x), ops.lowered(program, weight),
        numel=x.numel // n_in * n_out, name=name,
    )  # fmt: skip


def routed_experts(
    program: Program, x: Tensor, weights: Tensor, bank: Experts, *, setting: Setting, style: Style
) -> Tensor:
    """Grouped products over tokens sorted by expert, each token ``top_k`` times."""
    sharded = setting.layout.expert_tp if setting.sequence_shards > 1 else 1
    n_rows = setting.n_stream_tokens * bank.top_k * sharded
    width = bank.matrices[0][1]
    rows = ops.gather(program, x, numel=n_rows * width, n_rows=n_rows, name="sorted tokens")
    weights = ops.gather(program, weights, numel=n_rows, n_rows=n_rows, name="sorted weights")
    *ups, down = bank.matrices
    biases = [_bias_rows(program, up, bank, setting, n_rows=n_rows) for up in ups]
    inner = [
        _grouped(program, rows, up, bank, setting, bias=bias)
        for up, bias in zip(ups, biases, strict=True)
    ]
    if len(ups) == 1 and ups[0][2] == 2 * down[1]:
        inner = list(ops.split(program, inner[0], (n_rows * down[1], n_rows * down[1])))
    product = _activated(program, inner, setting, style) if inner else rows
    bias = _bias_rows(program, down, bank, setting, n_rows=n_rows)
    program.hold(*(rows for rows in biases if rows))  # under whose name the others come
    out = _grouped(program, product, down, bank, setting, bias=bias)
    weighted = ops.mul(program, out, weights, small=weights, name="weighted")
    program.hold(rows, out, *([bias] if bias else []))
    restored = ops.gather(
        program, weighted, numel=n_rows * width, n_rows=n_rows, name="tokens in order"
    )
    summed = ops.total(program, restored, numel=setting.n_stream_tokens * width)
    made = ops.cast(program, summed, x.itemsize)
    program.hold(restored)
    return made


def _activated(
    program: Program, made: list[Tensor], setting: Setting, style: Style
) -> Tensor:  # fmt: skip
    """The activation of the first product, times the second if there is one."""
    limits = setting.conduct.model_type in habits.LIMITS_EXPERTS
    kind = "limited_silu" if limits else setting.conduct.activation
    if len(made) == 1:
        return style.activation(program, made[0], kind)
    return gated_mlp(program, made[0], lambda: made[1], kind, style)


def _bias_rows(
    program: Program, matrix: tuple[str, int, int], bank: Experts, setting: Setting, *, n_rows: Any
) -> Tensor | None:
    """The expert's bias of every row; None without."""
    if not bank.bias:
        return None
    name, _, n_out = matrix
    bias = parameter(program, f"{bank.name}.{name}_bias", bank.n_experts * n_out, setting)
    return ops.gather(program, bias, numel=n_rows * n_out, n_rows=0, name=f"{name} bias")


def _grouped(
    program: Program, x: Tensor, matrix: tuple[str, int, int], bank: Experts, setting: Setting, *,
    bias: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """One product an expert over its own rows, the bias added in place; autocast does not reach it."""
    name, n_in, n_out = matrix
    n_weights: Any = bank.n_experts * n_in * n_out
    weight = parameter(program, f"{bank.name}.{name}", n_weights, setting)
    x = ops.cast(program, x, weight.itemsize)
    made = ops.grouped_linear(program, x, weight, numel=x.numel // n_in * n_out, name=name)
    return made if bias is None else ops.in_place(program, made, bias, name="bias added")
