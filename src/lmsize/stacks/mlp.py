"""MLPs: gated or plain, the two matrices of the gate apart or in one."""

from __future__ import annotations

from collections.abc import Callable

from lmsize.model.parts import Linear
from lmsize.stacks.linears import applied, as_one
from lmsize.stacks.sections import Section
from lmsize.stacks.setting import Setting, Style
from lmsize.tape import ops
from lmsize.tape.program import Program, Tensor


def mlp(program: Program, x: Tensor, section: Section, setting: Setting, style: Style) -> Tensor:
    """From the normed stream to what the MLP adds to it."""
    return dense_mlp(program, x, section.linears, setting, style)


def dense_mlp(
    program: Program, x: Tensor, linears: list[Linear], setting: Setting, style: Style, *,
    is_shared: bool = False,
) -> Tensor:  # fmt: skip
    """Up, an activation and down; with a gate if there are three matrices or one of double width.

    Args:
        is_shared: whether something else saves what it reads.
    """
    *ups, down = linears
    if style.fuses_matrices:
        ups = [as_one(ups, setting)]
    kind = setting.conduct.activation
    up = setting.of_shared if is_shared else setting
    first = applied(program, x, ups[0], up)
    if len(ups) == 2:
        inner = gated_mlp(program, first, lambda: applied(program, x, ups[1], up), kind, style)
    elif ups[0].n_out == 2 * down.n_in:
        half = first.numel // 2
        gate, other = ops.split(program, first, (half, half))
        inner = gated_mlp(program, gate, lambda: other, kind, style)
    else:
        inner = style.activation(program, first, kind)
    inner = ops.dropout(program, inner, setting.conduct.activation_dropout)
    if down.stays_fp32:  # T5 takes it to the type of that matrix, whatever autocast does then
        inner = ops.cast(program, inner, setting.weight_itemsize)
    program.inner = inner
    made = (style.down or applied)(program, inner, down, setting)
    program.hold(inner)
    return made


def gated_mlp(
    program: Program, gate: Tensor, other: Callable[[], Tensor], kind: str, style: Style
) -> Tensor:
    """The activation of the gate times the other half, which is computed after it if apart."""
    if style.gated is not None:
        return style.gated(program, gate, other(), kind)
    if kind == "clamped_swiglu":
        return _clamped(program, gate, other())
    if kind == "limited_silu":
        gate = ops.pointwise(program, gate, name="clamped gate", saves="input")
        half = ops.pointwise(program, other(), name="clamped half", saves="input")
        return ops.mul(program, style.activation(program, gate, "silu"), half, name="gated")
    inner = style.activation(program, gate, kind)
    return ops.mul(program, inner, other(), name="gated")


def _clamped(program: Program, gate: Tensor, other: Tensor) -> Tensor:
    """gpt-oss: ``(up + 1) * gate * sigmoid(1.702 * gate)``, both halves clamped before."""
    gate = ops.pointwise(program, gate, name="clamped gate", saves="input")
    other = ops.pointwise(program, other, name="clamped half", saves="input")
    curve = ops.pointwise(program, gate, name="times 1.702")
    curve = ops.mul(program, gate, ops.pointwise(program, curve, name="sigmoid", saves="output"))
    made = ops.mul(program, ops.pointwise(program, other, name="plus one"), curve, name="gated")
    program.hold(other)
    return made
