"""What stands in for Transformer Engine's modules: each makes, saves and lets go of the same tensors.

Read off Transformer Engine 2.20 (pytorch/module/linear.py, layernorm_linear.py, grouped_linear.py,
rmsnorm.py; pytorch/attention/rope.py, dot_product_attention; pytorch/permutation.py). Weight gradients are
summed elsewhere, as with gradient accumulation fused. Nothing is computed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

BF16 = torch.bfloat16


class Spread(NamedTuple):
    """Ranks whose tokens a layer gathers, or over which it shares out those of its sum."""

    gathers: int = 1
    scatters: int = 1


def like(x: torch.Tensor, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype or x.dtype, device=x.device)


def _gathered(x: torch.Tensor, spread: Spread) -> torch.Tensor:
    """The tokens of all ranks, where a rank has a share of them."""
    return like(x, x.shape[0] * spread.gathers, *x.shape[1:]) if spread.gathers > 1 else x


def _share(x: torch.Tensor, n_ranks: int) -> torch.Tensor:
    """A rank's share of the tokens of a sum over all of them."""
    return like(x, x.shape[0] // n_ranks, *x.shape[1:]) if n_ranks > 1 else x


class _Linear(torch.autograd.Function):
    """The gradient of the weight is summed last, and still needs what was gathered."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, spread: Spread) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.spread = spread
        whole = _gathered(x, spread)
        return _share(like(x, *whole.shape[:-1], weight.shape[0]), spread.scatters)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        x, _ = ctx.saved_tensors
        _held, _of_out = _gathered(x, ctx.spread), _gathered(grad, Spread(ctx.spread.scatters))
        of_whole = torch.empty_like(_held)
        return _share(of_whole, ctx.spread.gathers), None, None


class _NormLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, scale: torch.Tensor, weight: torch.Tensor, spread: Spread
    ) -> Any:
        flat = x.reshape(-1, x.shape[-1])
        normed = like(x, *flat.shape)
        deviations = like(x, len(flat), dtype=torch.float32)
        whole = _gathered(normed, spread)
        out = like(x, x.shape[0] * spread.gathers, *x.shape[1:-1], weight.shape[0])
        ctx.save_for_backward(flat, scale, weight, normed, deviations)
        ctx.shape, ctx.spread = x.shape, spread
        del whole
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        _, scale, _, normed, _ = ctx.saved_tensors
        whole = _gathered(normed, ctx.spread)
        of_whole = torch.empty_like(whole)
        of_normed = _share(of_whole, ctx.spread.gathers)
        del whole  # once its product is summed
        out = like(grad, *ctx.shape), torch.empty_like(scale), None, None
        del of_normed, of_whole
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


class _CrossEntropy(torch.autograd.Function):
    """The gradient is written over the logits."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(logits.detach())
        return like(logits, *logits.shape[:-1], dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, _: torch.Tensor) -> Any:
        return ctx.saved_tensors[0]


def cross_entropy(logits: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return _CrossEntropy.apply(logits)


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
    def __init__(self, n_in: int, n_out: int, **said: Any) -> None:
        super().__init__()
        self.spread, tp = _spread(said)
        is_row, is_column = self.spread.scatters > 1, self.spread.gathers > 1
        self.weight = _weight(n_out // tp if is_column else n_out, n_in // tp if is_row else n_in)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _Linear.apply(x, self.weight, self.spread), None


class NormLinear(nn.Module):
    def __init__(self, n_in: int, n_out: int, **said: Any) -> None:
        super().__init__()
        self.spread, tp = _spread(said)
        self.weight, self.scale = _weight(n_out // tp, n_in), _weight(n_in)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _NormLinear.apply(x, self.scale, self.weight, self.spread), None


def _spread(said: dict[str, Any]) -> tuple[Spread, int]:
    """How a layer's tokens are shared, by what Megatron tells it; over how many ranks."""
    tp = said["config"].tensor_model_parallel_size
    if said.get("parallel_mode") == "duplicated":
        return Spread(), tp
    return (Spread(scatters=tp) if said.get("input_is_parallel") else Spread(gathers=tp)), tp


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
