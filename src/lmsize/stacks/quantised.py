"""Products with frozen weights of few bits: how libraries compute them, and what each way holds."""

from __future__ import annotations

from typing import Any

from lmsize.numbers import larger
from lmsize.tape import kernels
from lmsize.tape.program import Program, Tensor

FP32, INT32, FP16, INT8 = 4, 4, 2, 1  # bytes


def dequantised_linear(
    program: Program, x: Tensor, *, n_weights: Any, n_in: Any, n_out: Any, name: str = "",
    keeps_input: bool = False, n_copies: int = 1,
) -> Tensor:  # fmt: skip
    """Bitsandbytes in 4 bits: the weight is dequantised whole, forward and backward.

    Under autocast it comes back in fp32, and is cast: the forward holds both for the product, the
    backward (``dequantize_4bit(...).to(grad.dtype)``) until the cast is made.

    Args:
        keeps_input: its node holds its input too, as an attribute which no backward reads.
        n_copies: of the whole weight: two where it is dequantised in one type and cast to another.
    """
    made = Tensor(name, x.numel // n_in * n_out, x.itemsize)
    whole = n_copies * Tensor("dequantised weight", n_weights, x.itemsize).n_bytes
    raised = Tensor("weight in fp32", n_weights, FP32).n_bytes if program.autocast else 0
    return kernels.quantised_linear(
        program, x, made, clings=[x] if keeps_input else [], forward_bytes=whole + raised,
        backward_bytes=larger(whole, whole + raised - x.n_bytes),
    )  # fmt: skip


def unpacked_linear(
    program: Program, x: Tensor, *, n_weights: Any, n_in: Any, n_out: Any, name: str = ""
) -> Tensor:
    """A weight that torch unpacks, shift by shift, and autograd saves in full.

    AutoGPTQ's ``QuantLinear`` without a kernel (``qlinear_cuda_old``): values of int32 as they are
    shifted out, then of int8, then in the type of the scales.
    """
    made = Tensor(name, x.numel // n_in * n_out, x.itemsize)
    whole = Tensor("unpacked weight", n_weights, x.itemsize)
    beyond = n_weights * (INT32 + INT8 - x.itemsize)
    return kernels.quantised_linear(
        program, x, made, saves=[whole], side=[whole], forward_bytes=beyond
    )


def integer_linear(
    program: Program, x: Tensor, *, n_weights: Any, n_in: Any, n_out: Any, name: str = ""
) -> Tensor:
    """A product in int8 (LLM.int8); the weight dequantised whole for its backward.

    Its input is an attribute of the node (``ctx.tensors``), not a saved tensor. Rows of the input are made int8 from an fp16 copy; sums are int32, then fp16, then its type.
    """
    n_rows = x.numel // n_in
    made = Tensor(name, n_rows * n_out, x.itemsize)
    rows = Tensor("rows in int8", x.numel, INT8).n_bytes + Tensor("scales", n_rows, FP32).n_bytes
    half = Tensor("rows in fp16", x.numel, FP16).n_bytes
    sums = Tensor("sums", made.numel, INT32).n_bytes
    lower = Tensor("sums in fp16", made.numel, FP16).n_bytes
    return kernels.quantised_linear(
        program, x, made, clings=[x],
        forward_bytes=rows + larger(half - made.n_bytes, sums + lower),
        backward_bytes=Tensor("dequantised weight", n_weights, x.itemsize).n_bytes,
    )  # fmt: skip
