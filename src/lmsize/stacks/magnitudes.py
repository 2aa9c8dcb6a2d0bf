"""DoRA: LoRA whose sum with the base is scaled to a learned magnitude, output by output.

Read off peft 0.19, ``tuners/lora/dora.py``. The norm of the whole sum of weights is taken at every step:
the product of the two small matrices is made in full, by way of a unit matrix, and the base's weight is
copied to the adapter's type; all of it is there until the layer has run.
"""

from __future__ import annotations

from lmsize.model.parts import Linear
from lmsize.stacks.setting import Setting
from lmsize.tape import ops
from lmsize.tape.program import Op, Program, Tensor

FP32 = 4


def decomposed(
    program: Program, x: Tensor, base: Tensor, linear: Linear, *, rank: int, setting: Setting
) -> Tensor:
    """The base's product with what DoRA adds to it."""
    itemsize = setting.adapting.itemsize or setting.weight_itemsize
    down = program.parameter("lora_A", linear.n_in * rank, itemsize, trained=True)
    up = program.parameter("lora_B", rank * linear.n_out, itemsize, trained=True)
    sizes = program.parameter("magnitudes", linear.n_out, itemsize, trained=True)
    raised = ops.cast(program, x, itemsize, name=f"{linear.name} input in fp32")
    whole = _whole_weights(program, linear, rank, setting)
    scale = ops.pointwise(program, sizes, name="magnitude over norm")
    inner = ops.linear(program, raised, down, n_in=linear.n_in, n_out=rank, name="lora_A")
    outer = ops.linear(program, inner, up, n_in=rank, n_out=linear.n_out, name="lora_B")
    plain = ops.pointwise(program, base, name="less bias") if linear.bias else base
    less = ops.pointwise(program, scale, name="less one")
    of_base = ops.mul(program, plain, less, small=less, name="of the base")
    of_lora = ops.mul(program, outer, scale, small=scale, name="of the adapter")
    scaled = ops.pointwise(program, of_lora, name="scaled")
    added = ops.add(program, of_base, scaled)
    program.hold(*whole, scale, outer, plain)
    made = ops.cast(program, ops.add(program, base, added), base.itemsize)
    program.hold(x, raised)
    return made


def _whole_weights(
    program: Program, linear: Linear, rank: int, setting: Setting
) -> tuple[Tensor, ...]:
    """What the norm is taken of, no part of the backward: both weights, a unit matrix, their sum."""
    n, n_in = linear.n_in * linear.n_out, linear.n_in
    low = program.autocast or FP32
    unit = Tensor("unit matrix", n_in * n_in, FP32)
    seen = Tensor("unit matrix cast", n_in * n_in, low) if low < FP32 else unit
    inner = Tensor("lora_A of it", n_in * rank, low)
    product = Tensor("lora weight", n, low)
    raised = Tensor("lora weight in fp32", n, FP32) if low < FP32 else product
    made = dict.fromkeys((unit, seen, inner, product))
    program.ops.append(Op("lora weight", (), tuple(made)))
    if raised is not product:
        program.ops.append(Op("cast", (product,), (raised,)))
    is_copied = setting.weight_itemsize < FP32 or bool(setting.quant)
    weight = Tensor("weight in fp32", n if is_copied else 0, FP32)
    scaled, total = Tensor("scaled lora weight", n, FP32), Tensor("sum of weights", n, FP32)
    program.ops.append(Op("cast", (), (weight,)))
    program.ops.append(Op("scale", (raised,), (scaled,)))
    program.ops.append(Op("sum", (weight, scaled), (total,)))
    program.hold(total)
    return raised, weight, seen, inner
