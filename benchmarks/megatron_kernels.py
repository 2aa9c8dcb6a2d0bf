"""What stands in for Transformer Engine's modules: each makes, saves and lets go of the same tensors.

Read off Transformer Engine 2.20 (pytorch/module/linear.py, layernorm_linear.py, grouped_linear.py,
rmsnorm.py; pytorch/attention/rope.py, dot_product_attention; pytorch/permutation.py). Weight gradients are
summed elsewhere, as with gradient accumulation fused. Nothing is computed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

BF16 = torch.bfloat16


def like(x: torch.Tensor, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype or x.dtype, device=x.device)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return like(x, *x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        x, _ = ctx.saved_tensors
        return like(grad, *x.shape), None


class _NormLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: torch.Tensor, weight: torch.Tensor) -> Any:
        flat = x.reshape(-1, x.shape[-1])
        normed = like(x, *flat.shape)
        deviations = like(x, len(flat), dtype=torch.float32)
        out = like(x, *x.shape[:-1], weight.shape[0])
        ctx.save_for_backward(flat, scale, weight, normed, deviations)
        ctx.shape = x.shape
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        flat, scale, *_ = ctx.saved_tensors
        of_normed = like(grad, *flat.shape)
        out = like(grad, *ctx.shape), torch.empty_like(scale), None
        del of_normed
        return out


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        out = like(x, *x.shape)
        ctx.save_for_backward(x, scale, like(x, x.numel() // x.shape[-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        x, scale, _ = ctx.saved_tensors
        return like(grad, *x.shape), torch.empty_like(scale)


class _Grouped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, splits: list[int], n_out: int, *weights: Any) -> Any:
        out = like(x, x.shape[0], n_out)
        ctx.save_for_backward(*torch.split(x, splits), *weights)
        ctx.shape = x.shape
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        n_weights = len(ctx.saved_tensors) // 2
        return like(grad, *ctx.shape), None, None, *[None] * n_weights


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        n_tokens, n_sequences, n_heads, _ = q.shape
        out = like(q, *q.shape[:-1], v.shape[-1])
        sums = like(q, n_sequences, n_heads, n_tokens, 1, dtype=torch.float32)
        ctx.save_for_backward(q, k, v, out, sums, like(q, 2, dtype=torch.int64))
        return out

    @staticmethod
    def backward(ctx: Any, _: torch.Tensor) -> Any:
        return tuple(torch.empty_like(x) for x in ctx.saved_tensors[:3])


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(angles)
        return like(x, *x.shape)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        _ = ctx.saved_tensors
        return like(grad, *grad.shape), None


class Split(torch.autograd.Function):
    """``SplitAlongDim``."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, dim: int, sizes: list[int]) -> Any:
        ctx.dim = dim
        return torch.split(x, sizes, dim)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        return torch.cat(grads, ctx.dim), None, None


class _Permute(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weights: torch.Tensor, mask: torch.Tensor, n: int
    ) -> Any:
        rows = like(x, x.shape[0], 2 * mask.shape[1] + 1, dtype=torch.int32)
        ctx.save_for_backward(rows)
        ctx.mark_non_differentiable(rows)
        ctx.shapes = x.shape, weights.shape
        return like(x, n, x.shape[1]), like(weights, n), rows

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, of_weights: torch.Tensor, _: Any) -> Any:
        shape, shape_of_weights = ctx.shapes
        return like(grad, *shape), like(of_weights, *shape_of_weights), None, None


class _Unpermute(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, rows: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        ctx.save_for_backward(rows)
        ctx.shape = x.shape
        return like(x, *shape)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        return like(grad, *ctx.shape), None, None


def rotary(x: torch.Tensor, angles: torch.Tensor, **_: Any) -> torch.Tensor:
    return _Rotary.apply(x, angles)


def permute(x: torch.Tensor, weights: torch.Tensor, mask: torch.Tensor, num_out_tokens: int) -> Any:
    return _Permute.apply(x, weights, mask, int(num_out_tokens))


def unpermute(x: torch.Tensor, rows: torch.Tensor, restore_shape: torch.Size, **_: Any) -> Any:
    return _Unpermute.apply(x, rows, restore_shape)


def gemm(a: torch.Tensor, b: torch.Tensor, dtype: torch.dtype, layout: str = "TN", **_: Any) -> Any:
    """``general_gemm``."""
    shape = {"TN": (b.shape[0], a.shape[0]), "NN": (b.shape[0], a.shape[1])}
    return [like(b, *shape.get(layout, (b.shape[1], a.shape[1])), dtype=dtype)]


def _weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, dtype=BF16))


class Norm(nn.Module):
    def __init__(self, hidden_size: int, **_: Any) -> None:
        super().__init__()
        self.weight = _weight(hidden_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _Norm.apply(x.contiguous(), self.weight)


class Linear(nn.Module):
    def __init__(self, n_in: int, n_out: int, **_: Any) -> None:
        super().__init__()
        self.weight = _weight(n_out, n_in)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _Linear.apply(x, self.weight), None


class NormLinear(nn.Module):
    def __init__(self, n_in: int, n_out: int, **_: Any) -> None:
        super().__init__()
        self.weight, self.scale = _weight(n_out, n_in), _weight(n_in)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _NormLinear.apply(x, self.scale, self.weight), None


class Grouped(nn.Module):
    def __init__(self, n: int, n_in: int, n_out: int, **_: Any) -> None:
        super().__init__()
        self.n_out = n_out
        self.weights = nn.ParameterList([_weight(n_out, n_in) for _ in range(n)])

    def forward(self, x: torch.Tensor, splits: list[int]) -> tuple[torch.Tensor, None]:
        return _Grouped.apply(x, [int(n) for n in splits], self.n_out, *self.weights), None


class Attention(nn.Module):
    """cuDNN's: what is no layout that it knows is copied (``get_qkv_layout``)."""

    def __init__(self, **_: Any) -> None:
        super().__init__()

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: Any, **__: Any) -> Any:
        if not all(x.is_contiguous() for x in (q, k, v)):
            q, k, v = (x.contiguous() for x in (q, k, v))
        return _Attention.apply(q, k, v).flatten(2)
