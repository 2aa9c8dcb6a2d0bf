"""Linears of few bits: how they are stored, and what their products take for a while."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from lmsize.numbers import ceil_div

BLOCK = 64  # weights that share a scale (functional.quantize_4bit)
SCALES_BLOCK = 256  # scales that share one in turn (double quantisation)
N_CODES, N_SCALE_CODES = 16, 256  # values of a 4-bit type, and of the 8-bit type of the scales


class _FewBitsLinear(torch.nn.Linear):  # type: ignore[misc]  # torch is Any to mypy
    """A linear whose weight is packed; `quant_state` is what reads it, by bitsandbytes' names."""

    def __init__(self, weight: Any, bias: Any) -> None:
        torch.nn.Module.__init__(self)
        self.out_features, self.in_features = weight.shape
        self.weight = torch.nn.Parameter(self._packed(weight), requires_grad=False)
        self.bias = bias
        self.quant_state: dict[str, Any] = self._state(weight)

    def _packed(self, weight: Any) -> Any:
        """The weight as it is stored, each kind's own."""
        raise NotImplementedError

    def _state(self, weight: Any) -> dict[str, Any]:
        """What reads it back, each kind's own."""
        raise NotImplementedError

    def _keep_bias_in(self, dtype: Any) -> None:
        """The bias takes the input's type, for good (nn.modules)."""
        if self.bias is not None and self.bias.dtype != dtype:
            self.bias.data = self.bias.data.to(dtype)


class Linear4bit(_FewBitsLinear):
    """``bitsandbytes.nn.Linear4bit``: 4-bit weights, two to a byte, and their scales.

    Args:
        weight: (n_out, n_in) in the type that it is quantised from, and dequantised to.
        compute: type of the products.
        nested: the scales are in 8 bits themselves.
    """

    def __init__(self, weight: Any, bias: Any, *, compute: Any, nested: bool = True) -> None:
        self._nested = nested
        super().__init__(weight, bias)
        self.compute_dtype, self._stored_dtype = compute, weight.dtype

    def _packed(self, weight: Any) -> Any:
        return weight.new_empty((ceil_div(weight.numel(), 2), 1), dtype=torch.uint8)

    def _state(self, weight: Any) -> dict[str, Any]:
        def numbers(n: int, dtype: Any = torch.float32) -> Any:
            return weight.new_empty((n,), dtype=dtype)

        n_blocks = ceil_div(weight.numel(), BLOCK)
        if not self._nested:
            return {"absmax": numbers(n_blocks), "code": numbers(N_CODES)}
        return {
            "absmax": numbers(n_blocks, torch.uint8), "code": numbers(N_CODES),
            "offset": weight.new_empty((), dtype=torch.float32),
            "nested_absmax": numbers(ceil_div(n_blocks, SCALES_BLOCK)),
            "nested_code": numbers(N_SCALE_CODES),
        }  # fmt: skip

    def forward(self, x: Any) -> Any:
        """(..., n_in) to (..., n_out), in the compute type and back."""
        asked = x.dtype
        x = x.to(self.compute_dtype)
        self._keep_bias_in(x.dtype)
        return _Product4bit.apply(x, self).to(asked)

    def product(self, x: Any) -> Any:
        """The unfused product: scales, then the whole weight in the input's type.

        The kernel that reads packed weights directly serves short inputs only (backends/cuda/ops:
        at most 64 to 512 tokens for large weights, by GPU); it is not taken here.
        """
        scales = self.quant_state["absmax"]
        if self._nested:
            raised = torch.empty_like(scales, dtype=torch.float32)
            scales = raised + self.quant_state["offset"]
            if x.device.type == "cpu":
                del raised  # the CUDA backend keeps its name until it returns
        whole = x.new_empty((self.out_features, self.in_features))
        return functional.linear(x, whole, self.bias)

    def dequantised(self) -> Any:
        """The whole weight in the type that it was quantised from (functional.dequantize_4bit)."""
        if self._nested:
            scales = torch.empty_like(self.quant_state["absmax"], dtype=torch.float32)
            scales += self.quant_state["offset"]
        shape = (self.out_features, self.in_features)
        return self.weight.new_empty(shape, dtype=self._stored_dtype)


class _Product4bit(torch.autograd.Function):  # type: ignore[misc]  # torch is Any to mypy
    """autograd._functions.MatMul4Bit: saves nothing of its own, dequantises once more each way."""

    @staticmethod
    def forward(ctx: Any, x: Any, linear: Any) -> Any:
        ctx.linear = linear
        return linear.product(x)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        if not ctx.needs_input_grad[0]:
            return None, None
        return torch.matmul(grad, ctx.linear.dequantised().to(grad.dtype)), None


class Linear8bitLt(_FewBitsLinear):
    """``bitsandbytes.nn.Linear8bitLt`` without a threshold: a byte a weight, a scale a row."""

    def _packed(self, weight: Any) -> Any:
        return torch.empty_like(weight, dtype=torch.int8)

    def _state(self, weight: Any) -> dict[str, Any]:
        return {"SCB": weight.new_empty((weight.shape[0],), dtype=torch.float32)}

    def forward(self, x: Any) -> Any:
        """(..., n_in) to (..., n_out)."""
        self._keep_bias_in(x.dtype)
        return _Product8bit.apply(x, self)

    def dequantised(self, dtype: Any) -> Any:
        """The whole weight in some type, times a scale a row."""
        whole = self.weight.to(dtype, copy=True)
        return whole.mul_(self.quant_state["SCB"].unsqueeze(1).mul(1 / 127))

    def integer_product(self, x: Any) -> Any:
        """Rows of the input in int8, sums in int32, the result in fp16 and then in its own type."""
        half = x.to(torch.float16)
        scales = half.new_empty((half.shape[0],), dtype=torch.float32)
        rows = torch.empty_like(half, dtype=torch.int8)
        del half
        sums = torch._int_mm(rows, self.weight.t())  # noqa: SLF001  # the product bitsandbytes makes
        made = torch.empty_like(sums, dtype=torch.float16)
        del scales
        if self.bias is not None and self.bias.dtype != torch.float16:
            made.add_(self.bias)
        return made.to(x.dtype)


class _Product8bit(torch.autograd.Function):  # type: ignore[misc]  # torch is Any to mypy
    """autograd._functions.MatMul8bitLt, on a CPU MatMul8bitFp: both keep their input."""

    @staticmethod
    def forward(ctx: Any, x: Any, linear: Any) -> Any:
        ctx.linear, ctx.shape = linear, x.shape
        if x.device.type == "cpu":
            ctx.kept = x
            return functional.linear(x, linear.dequantised(x.dtype), linear.bias)
        ctx.kept = x.reshape(-1, x.shape[-1])
        made = linear.integer_product(ctx.kept)
        return made.reshape(*x.shape[:-1], linear.out_features)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        if not ctx.needs_input_grad[0]:
            return None, None
        grad = grad.reshape(-1, grad.shape[-1]).contiguous()
        whole = ctx.linear.dequantised(ctx.kept.dtype)
        return torch.matmul(grad.to(ctx.kept.dtype), whole).view(ctx.shape), None
