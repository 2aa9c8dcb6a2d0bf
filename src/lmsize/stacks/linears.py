"""A linear layer, plain or adapted, of a base in full or in few bits."""

from __future__ import annotations

from typing import Any

from lmsize.model.parts import Linear
from lmsize.stacks.setting import Setting, parameter
from lmsize.tape import ops
from lmsize.tape.program import Program, Tensor

ADAPTER_ITEMSIZE = 4  # peft keeps adapters in fp32 (autocast_adapter_dtype)


def applied(program: Program, x: Tensor, linear: Linear, setting: Setting) -> Tensor:
    """A linear part on a tensor, with its adapter if it has one."""
    base = _base(program, x, linear, setting)
    rank = setting.rank(linear.name)
    return base if rank is None else _adapted(program, x, base, linear, rank)


def _base(program: Program, x: Tensor, linear: Linear, setting: Setting) -> Tensor:
    n_weights = linear.n_in * linear.n_out
    bias = parameter(program, f"{linear.name}.bias", linear.n_out, setting) if linear.bias else None
    if setting.quantised and linear.adaptable:
        return _dequantised(program, x, linear, n_weights, setting.quant_itemsize)
    weight = parameter(program, linear.name, n_weights, setting, tied=linear.tied)
    return ops.linear(
        program, x, weight, n_in=linear.n_in, n_out=linear.n_out, bias=bias, name=linear.name,
        gathers=setting.sequence_shards if linear.split == "column" else 1,
        scatters=setting.sequence_shards if linear.split == "row" else 1,
    )  # fmt: skip


def _dequantised(
    program: Program, x: Tensor, linear: Linear, n_weights: Any, itemsize: float
) -> Tensor:
    """The product of bitsandbytes in its compute type; the weight in full for it, each way."""
    lower = ops.cast(program, x, itemsize)
    made = ops.quantised_linear(
        program, lower, n_weights=n_weights, n_in=linear.n_in, n_out=linear.n_out, name=linear.name
    )
    return ops.cast(program, made, x.itemsize)


def _adapted(program: Program, x: Tensor, base: Tensor, linear: Linear, rank: int) -> Tensor:
    """LoRA as peft has it: the input in the adapter's type, two products, a scale, a sum."""
    down = program.parameter("lora_A", linear.n_in * rank, ADAPTER_ITEMSIZE, trained=True)
    up = program.parameter("lora_B", rank * linear.n_out, ADAPTER_ITEMSIZE, trained=True)
    raised = ops.cast(program, x, ADAPTER_ITEMSIZE, name=f"{linear.name} input in fp32")
    inner = ops.linear(program, raised, down, n_in=linear.n_in, n_out=rank, name="lora_A")
    outer = ops.linear(program, inner, up, n_in=rank, n_out=linear.n_out, name="lora_B")
    scaled = ops.pointwise(program, outer, name="scaled")
    total = ops.add(program, base, scaled)
    made = ops.cast(program, total, base.itemsize)
    program.hold(x, raised)  # names in the frames that call
    return made
