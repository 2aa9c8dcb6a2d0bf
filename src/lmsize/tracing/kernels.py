"""What real kernels give and take, where torch's fake ones say something else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce
from typing import Any

import torch

aten = torch.ops.aten


def _grouped_product(
    first: Any, second: Any, offs: Any = None, bias: Any = None, out_dtype: Any = None
) -> Any:  # fmt: skip
    """The result of a grouped product; torch's fake kernel knows bfloat16 alone, the real one more."""
    del bias
    make = torch._meta_registrations._create_grouped_mm_output_tensor
    return make(first, second, offs, out_dtype or first.dtype)


def _norm(func: Any, weights_at: int) -> Callable[..., Any]:
    """The CPU's norms keep mean and deviation in the weight's type, where that is wider than the input's."""

    def called(x: Any, *args: Any) -> Any:
        out, *kept = func(x, *args)
        weights = args[weights_at : weights_at + 2]
        wide = next((w.dtype for w in weights if w is not None), x.dtype)
        return (out, *(t if t.dtype in (torch.float32, wide) else t.to(wide) for t in kept))

    return called


def _waited(tensor: Any) -> Any:
    """A collective's result once it is there: itself, of which the fake kernel makes another."""
    return tensor


FAKES: dict[Any, Callable[..., Any]] = {
    torch.ops._c10d_functional.wait_tensor.default: _waited,
    aten._grouped_mm.default: _grouped_product,
    aten.native_layer_norm.default: _norm(aten.native_layer_norm.default, 1),
    aten.native_group_norm.default: _norm(aten.native_group_norm.default, 0),
    aten.native_batch_norm.default: _norm(aten.native_batch_norm.default, 0),
    aten._native_batch_norm_legit.default: _norm(aten._native_batch_norm_legit.default, 0),
}  # fmt: skip

# Backward formulas that fill zeros do so in place, but out of place when they see a fake tensor or a
# mode (areAnyTensorSubclassLike in torch/csrc/autograd/FunctionsManual.cpp and the native *_backward).
FILLS = {
    aten.index_put.default, aten.index_add.default, aten.scatter.src, aten.scatter.value,
    aten.scatter_add.default, aten.masked_scatter.default, aten.put.default,
}  # fmt: skip

# Operations over tensors of several types, which the CPU first brings to one, each in a copy that goes
# when the operation is done; CUDA does so number by number (TensorIterator::compute_types).
PROMOTING = {
    *(getattr(aten, name).Tensor for name in (
        "add", "sub", "mul", "div", "add_", "sub_", "mul_", "div_", "eq", "ne", "lt", "le", "gt", "ge",
    )),
    aten.where.self, aten.maximum.default, aten.minimum.default, aten.pow.Tensor_Tensor,
    aten.addcmul.default, aten.addcdiv.default,
}  # fmt: skip


def promoted_copies(func: Any, args: Any) -> Iterator[Any]:
    """The copies that the CPU makes of operands whose type is not the common one.

    Yields:
        The operand and the type of its copy.
    """
    operands = [a for a in args if isinstance(a, torch.Tensor)]
    if func is aten.where.self:
        operands = operands[1:]  # the condition is a truth and stays one
    if len({t.dtype for t in operands}) < 2:
        return
    weighty = [t for t in operands if t.dim()] or operands  # a lone number takes the others' type
    common = reduce(torch.promote_types, (t.dtype for t in weighty))
    for tensor in operands:
        if tensor.dtype != common:
            yield tensor, common
