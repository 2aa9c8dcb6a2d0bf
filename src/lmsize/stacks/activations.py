"""Activations of transformers (``activations.py`` there), by their names in a config."""

from __future__ import annotations

from lmsize.tape import ops
from lmsize.tape.program import Gradient, Program, Tensor

FP32 = 4


def activation(program: Program, x: Tensor, kind: str) -> Tensor:
    """One kernel that saves its input for most; some are written out."""
    if kind in ("relu", "tanh", "sigmoid"):
        return ops.pointwise(program, x, name=kind, saves="output")
    if kind == "relu2":
        kept = ops.pointwise(program, x, name="relu", saves="output")
        return ops.power(program, ops.raised(program, kept), name="square")
    if kind in ("gelu_new", "gelu_fast"):
        return _written_gelu(program, x)
    if kind == "quick_gelu":
        gate = ops.pointwise(program, x, name="times 1.702")
        return ops.mul(program, x, ops.pointwise(program, gate, name="sigmoid", saves="output"))
    if kind == "esm_gelu":
        return _esm_gelu(program, x)
    if kind == "xielu":
        return _xielu(program, x)
    if kind == "bloom_gelu":
        return _bloom_gelu(program, x)
    return ops.pointwise(program, x, name=kind, saves="input")


def _xielu(program: Program, x: Tensor) -> Tensor:
    """``where(x > 0, p * x * x + b * x, (expm1(min(x, e)) - x) * n + b * x)``; p and n are learned.

    Source: ``XIELUActivation._xielu_python`` in ``activations.py``; its CUDA kernel is not on PyPI.
    """
    p, n = (
        program.parameter(name, 1, x.itemsize if program.autocast is None else FP32,
                          trained=program.trains_base)
        for name in ("alpha_p", "alpha_n")
    )  # fmt: skip
    above = Tensor("above zero", x.numel, 1)
    program.record("compare", [x], above)
    square = ops.mul(program, ops.mul(program, p, x, small=p), x)
    square = ops.add(program, square, ops.pointwise(program, x, name="times beta"))
    least = ops.pointwise(program, x, name="at most epsilon", saves="input")
    curve = ops.pointwise(program, ops.raised(program, least), name="expm1", saves="output")
    curve = ops.mul(program, ops.add(program, curve, x), n, small=n)
    curve = ops.add(program, curve, ops.pointwise(program, x, name="times beta"))
    made = Tensor("xielu", x.numel, curve.itemsize)
    program.record(
        "where", [above, square, curve], made, saves=[above],
        gradients=[Gradient(square), Gradient(curve)],
    )  # fmt: skip
    return made


def _bloom_gelu(program: Program, x: Tensor) -> Tensor:
    """A function of Bloom's own, in plain torch each way: saves its input.

    At its fullest the forward holds four tensors of that size (``x * 0.5``, the factor before the
    bracket and two of the bracket), the backward five (the tanh, ``0.5 * x``, ``1 - tanh ** 2`` and
    two of the last bracket).
    """
    made = Tensor("gelu", x.numel, x.itemsize)
    return program.record(
        "bloom_gelu", [x], made, saves=[x], gradients=[Gradient(x, scratch_bytes=4 * made.n_bytes)],
        forward_bytes=3 * made.n_bytes,
    )  # fmt: skip


def _esm_gelu(program: Program, x: Tensor) -> Tensor:
    """``x * 0.5 * (1 + erf(x / sqrt(2)))``; the root's backward is one expression of five tensors."""
    half = ops.pointwise(program, x, name="half")
    inner = ops.pointwise(program, x, name="over root 2")
    curve = ops.pointwise(
        program, inner, name="erf", saves="input", scratch_bytes=4 * inner.n_bytes
    )
    return ops.mul(program, half, ops.pointwise(program, curve, name="plus one"))


def _written_gelu(program: Program, x: Tensor) -> Tensor:
    """``0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x ** 3)))``."""
    half = ops.pointwise(program, x, name="half")
    cube = ops.power(program, ops.raised(program, x), name="cube")
    inner = ops.add(program, x, ops.pointwise(program, cube, name="times 0.044715"))
    inner = ops.pointwise(program, inner, name="times sqrt(2 / pi)")
    curve = ops.pointwise(program, inner, name="tanh", saves="output")
    return ops.mul(program, half, ops.pointwise(program, curve, name="plus one"))
