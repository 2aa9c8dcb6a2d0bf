"""A linear layer, plain or adapted, of a base in full or in few bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lmsize.model.parts import Linear
from lmsize.stacks.magnitudes import decomposed
from lmsize.stacks.quantised import dequantised_linear, integer_linear, unpacked_linear
from lmsize.stacks.setting import Setting, parameter
from lmsize.stacks.spread import entered, left, shares_gathered
from lmsize.tape import ops
from lmsize.tape.program import Program, Tensor

INTEGER = "int8"  # LLM.int8 multiplies in int8; other types are dequantised


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


def as_one(linears: Sequence[Linear], setting: Setting) -> Linear:
    """Matrices that read the same input as one product; with one adapter, if any of them has one."""
    named = next((part for part in linears if setting.rank(part.name) is not None), linears[0])
    return replace(
        named, n_out=sum(part.n_out for part in linears), bias=any(part.bias for part in linears)
    )


def base_product(program: Program, x: Tensor, linear: Linear, setting: Setting) -> Tensor:
    """The product with the base's own weight, in full or in few bits."""
    n_weights = linear.n_in * linear.n_out
    bias = parameter(program, f"{linear.name}.bias", linear.n_out, setting) if linear.bias else None
    within = None if linear.is_derived else bias
    if setting.quant and linear.quantisable:
        return _in_few_bits(program, x, linear, n_weights, setting)
    weight = parameter(program, linear.name, n_weights, setting, tied=linear.tied)
    x = entered(program, x, linear, setting)
    if linear.is_derived and program.autocast is not None:  # its transpose is no leaf: cast anew
        weight = ops.cast(program, weight, program.autocast)
    made = ops.linear(
        program, x, weight, n_in=linear.n_in, n_out=linear.n_out, bias=within, name=linear.name,
        gathers=shares_gathered(linear, setting),
        scatters=setting.sequence_shards if linear.split == "row" else 1,
        casts=setting.casts if linear.adaptable else None, in_buffer=setting.gathers_in_buffer,
    )  # fmt: skip
    made = left(program, made, linear, setting)
    return made if bias is None or within is not None else ops.add(program, made, bias, is_row=True)


def _in_few_bits(
    program: Program, x: Tensor, linear: Linear, n_weights: Any, setting: Setting
) -> Tensor:
    """The product of bitsandbytes: in int8, or in its compute type with the weight in full."""
    shape = {"n_weights": n_weights, "n_in": linear.n_in, "n_out": linear.n_out}
    if setting.quant == INTEGER:
        return integer_linear(program, x, **shape, name=linear.name)
    lower = ops.cast(program, x, setting.quant_itemsize)
    if setting.unpacks:
        made = unpacked_linear(program, lower, **shape, name=linear.name)
        return ops.cast(program, made, x.itemsize)
    made = dequantised_linear(
        program, lower, **shape, name=linear.name, keeps_input=setting.adapting.keeps_inputs,
        n_copies=setting.adapting.n_dequantised,
    )  # fmt: skip
    made = ops.cast(program, made, x.itemsize)
    program.hold(x)  # the argument of the module that is called
    return made


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
    """LoRA as peft has it: the input in the adapter's type, two products, a scale, a sum.

    Over a base of few bits (peft's ``lora/bnb.py``) nothing is cast under autocast, and the
    adapter's part takes the base's type before the sum, not after it.
    """
    in_few_bits = bool(setting.quant) and linear.quantisable
    if in_few_bits and setting.quant != INTEGER:
        base = ops.copy(program, base)  # cloned, defensively
    down, up = _matrices(program, linear, rank, setting)
    casts = program.autocast is None or not in_few_bits
    raised = x
    if casts:
        raised = ops.cast(program, x, down.itemsize, name=f"{linear.name} input in fp32")
    inner = ops.linear(program, raised, down, n_in=linear.n_in, n_out=rank, name="lora_A")
    outer = ops.linear(program, inner, up, n_in=rank, n_out=linear.n_out, name="lora_B")
    scaled = ops.pointwise(program, outer, name="scaled")
    if in_few_bits and casts:
        scaled = ops.cast(program, scaled, base.itemsize)
    made = ops.add(program, base, scaled)
    if not in_few_bits:
        made = ops.cast(program, made, base.itemsize)
    program.hold(x, raised)  # names in the frames that call
    return made
