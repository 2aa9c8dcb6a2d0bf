"""A linear layer, plain or adapted, of a base in full or in few bits."""

from __future__ import annotations

from typing import Any

from lmsize.model.parts import Linear
from lmsize.stacks.magnitudes import decomposed
from lmsize.stacks.setting import Setting, parameter
from lmsize.tape import kernels, ops
from lmsize.tape.program import Program, Tensor


def applied(program: Program, x: Tensor, linear: Linear, setting: Setting) -> Tensor:
    """A linear part on a tensor, with its adapter if it has one."""
    base = base_product(program, x, linear, setting)
    rank = setting.rank(linear.name)
    if rank is None:
        return base
    if setting.adapting.has_magnitudes:
        return decomposed(program, x, base, linear, rank=rank, setting=setting)
    adapted = _adapted if setting.adapting.casts else _adapted_as_is
    return adapted(program, x, base, linear, rank=rank, setting=setting)


def base_product(program: Program, x: Tensor, linear: Linear, setting: Setting) -> Tensor:
    """The product with the base's own weight, in full or in few bits."""
    n_weights = linear.n_in * linear.n_out
    bias = parameter(program, f"{linear.name}.bias", linear.n_out, setting) if linear.bias else None
    if setting.quantised and linear.adaptable:
        return _dequantised(program, x, linear, n_weights, setting)
    weight = parameter(program, linear.name, n_weights, setting, tied=linear.tied)
    return ops.linear(
        program, x, weight, n_in=linear.n_in, n_out=linear.n_out, bias=bias, name=linear.name,
        gathers=setting.sequence_shards if linear.split == "column" else 1,
        scatters=setting.sequence_shards if linear.split == "row" else 1,
    )  # fmt: skip


def _dequantised(
    program: Program, x: Tensor, linear: Linear, n_weights: Any, setting: Setting
) -> Tensor:
    """The product of bitsandbytes in its compute type; the weight in full for it, each way."""
    lower = ops.cast(program, x, setting.quant_itemsize)
    made = kernels.quantised_linear(
        program,
        lower,
        n_weights=n_weights,
        n_in=linear.n_in,
        n_out=linear.n_out,
        name=linear.name,
        keeps_input=setting.adapting.keeps_inputs,
        n_copies=setting.adapting.n_dequantised,
    )
    return ops.cast(program, made, x.itemsize)


def _matrices(
    program: Program, linear: Linear, rank: int, setting: Setting
) -> tuple[Tensor, Tensor]:
    """The adapter's two, in its own type or the base's."""
    itemsize = setting.adapting.itemsize or setting.weight_itemsize
    down = program.parameter("lora_A", linear.n_in * rank, itemsize, trained=True)
    return down, program.parameter("lora_B", rank * linear.n_out, itemsize, trained=True)


def _adapted_as_is(
    program: Program, x: Tensor, base: Tensor, linear: Linear, *, rank: int, setting: Setting
) -> Tensor:
    """LoRA without casts: the input dropped out, two products, a scale, a sum."""
    down, up = _matrices(program, linear, rank, setting)
    dropped = ops.dropout(program, x, setting.adapting.dropout)
    inner = ops.linear(program, dropped, down, n_in=linear.n_in, n_out=rank, name="lora_A")
    outer = ops.linear(program, inner, up, n_in=rank, n_out=linear.n_out, name="lora_B")
    return ops.add(program, base, ops.pointwise(program, outer, name="scaled"))


def _adapted(
    program: Program, x: Tensor, base: Tensor, linear: Linear, *, rank: int, setting: Setting
) -> Tensor:
    """LoRA as peft has it: the input in the adapter's type, two products, a scale, a sum."""
    down, up = _matrices(program, linear, rank, setting)
    raised = ops.cast(program, x, down.itemsize, name=f"{linear.name} input in fp32")
    inner = ops.linear(program, raised, down, n_in=linear.n_in, n_out=rank, name="lora_A")
    outer = ops.linear(program, inner, up, n_in=rank, n_out=linear.n_out, name="lora_B")
    scaled = ops.pointwise(program, outer, name="scaled")
    total = ops.add(program, base, scaled)
    made = ops.cast(program, total, base.itemsize)
    program.hold(x, raised)  # names in the frames that call
    return made
