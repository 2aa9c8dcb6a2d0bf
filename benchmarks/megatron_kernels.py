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


class Recipe(NamedTuple):
    """How products in 8 bits cast their operands.

    Attributes:
        itemsize: bytes of a number with its share of the scales.
        n_copies: by rows and by columns, or one that kernels read both ways.
        gathers_rows: ranks gather casts by rows alone, which a layer then keeps.
        align: rows of a group that kernels want a multiple of.
    """

    itemsize: float
    n_copies: int
    gathers_rows: bool = False
    align: int = 16


RECIPES = {
    "tensorwise": Recipe(1.0, 1, gathers_rows=True), "delayed": Recipe(1.0, 1, gathers_rows=True),
    "blockwise": Recipe(1 + 4 / 128, 2), "mxfp8": Recipe(1 + 1 / 32, 2, align=32),
}  # fmt: skip
STATE: dict[str, Recipe | None] = {"recipe": None}


def _cast(x: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """One cast of a tensor, its scales in the same storage."""
    width = x.shape[-1] * recipe.itemsize
    return like(x, *x.shape[:-1], int(width), dtype=torch.uint8)


def _gathered(x: torch.Tensor, n_ranks: int) -> torch.Tensor:
    """The tokens of all ranks, where a rank has a share of them."""
    return like(x, x.shape[0] * n_ranks, *x.shape[1:]) if n_ranks > 1 else x


def _share(x: torch.Tensor, n_ranks: int) -> torch.Tensor:
    """A rank's share of the tokens of a sum over all of them."""
    return like(x, x.shape[0] // n_ranks, *x.shape[1:]) if n_ranks > 1 else x


def _operands(x: torch.Tensor, keeps_input: bool, n_ranks: int) -> tuple[torch.Tensor, Any]:
    """What a product saves of its input, and what it reads: casts, in 8 bits."""
    recipe = STATE["recipe"]
    if recipe is None:
        return x, _gathered(x, n_ranks)
    rows = _cast(x, recipe)
    if keeps_input:
        return x, _gathered(rows, n_ranks)
    keeps_rows = recipe.n_copies == 1 or (n_ranks > 1 and recipe.gathers_rows)
    return (rows if keeps_rows else _cast(x, recipe)), _gathered(rows, n_ranks)


def _read_back(kept: torch.Tensor, n_ranks: int) -> Any:
    """What the gradient of the weight reads of the input."""
    recipe = STATE["recipe"]
    if recipe is not None and kept.dtype != torch.uint8:
        kept = _cast(kept, recipe)
    return _gathered(kept, n_ranks)


def _casts_of(grad: torch.Tensor) -> list[torch.Tensor]:
    """Casts of the gradient of an output."""
    recipe = STATE["recipe"]
    return [] if recipe is None else [_cast(grad, recipe) for _ in range(recipe.n_copies)]


class _Linear(torch.autograd.Function):
    """The gradient of the weight is summed last, and still needs what was gathered."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, spread: Spread, keeps_input: bool
    ) -> torch.Tensor:
        kept, whole = _operands(x, keeps_input, spread.gathers)
        ctx.save_for_backward(kept, weight)
        ctx.spread, ctx.shape = spread, x.shape
        return _share(like(x, *whole.shape[:-1], weight.shape[0]), spread.scatters)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        kept, _ = ctx.saved_tensors
        whole = _gathered(grad, ctx.spread.scatters)
        _few = _casts_of(whole)
        _held = _read_back(kept, ctx.spread.gathers)
        of_whole = like(grad, ctx.shape[0] * ctx.spread.gathers, *ctx.shape[1:])
        return _share(of_whole, ctx.spread.gathers), None, None, None


class _NormLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, scale: torch.Tensor, weight: torch.Tensor, spread: Spread
    ) -> Any:
        flat = x.reshape(-1, x.shape[-1])
        normed = like(x, *flat.shape)
        deviations = like(x, len(flat), dtype=torch.float32)
        kept, whole = _operands(normed, False, spread.gathers)
        del normed
        out = like(x, x.shape[0] * spread.gathers, *x.shape[1:-1], weight.shape[0])
        ctx.save_for_backward(flat, scale, weight, kept, deviations)
        ctx.shape, ctx.spread = x.shape, spread
        del whole
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        flat, scale, _, kept, _ = ctx.saved_tensors
        few = _casts_of(grad)
        whole = _read_back(kept, ctx.spread.gathers)
        of_whole = like(grad, len(flat) * ctx.spread.gathers, flat.shape[-1])
        of_normed = _share(of_whole, ctx.spread.gathers)
        del whole, few  # once the weight's product is summed
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
    def forward(
        ctx: Any, x: torch.Tensor, splits: list[int], n_out: int, keeps_input: bool, *weights: Any
    ) -> Any:
        kept, whole = _operands(x, keeps_input, 1)
        out = like(x, x.shape[0], n_out)
        ctx.save_for_backward(*torch.split(kept, splits), *weights)
        ctx.shape = x.shape
        del whole
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        n_weights = len(ctx.saved_tensors) // 2
        _few = _casts_of(grad)
        out = like(grad, *ctx.shape)
        kept = ctx.saved_tensors[:n_weights]
        _held = [_read_back(one, 1) for one in kept]
        return out, None, None, None, *[None] * n_weights


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
        self.save_original_input = False

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _Linear.apply(x, self.weight, self.spread, self.save_original_input), None


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
        self.n_out, self.save_original_input = n_out, False
        self.weights = nn.ParameterList([_weight(n_out, n_in) for _ in range(n)])

    def forward(self, x: torch.Tensor, splits: list[int]) -> tuple[torch.Tensor, None]:
        splits = [int(n) for n in splits]
        return _Grouped.apply(x, splits, self.n_out, self.save_original_input, *self.weights), None


class ColumnGrouped(Grouped):
    def __init__(self, n: int, n_in: int, n_out: int, **said: Any) -> None:
        super().__init__(n, n_in, n_out // said["config"].expert_tensor_parallel_size)


class RowGrouped(Grouped):
    def __init__(self, n: int, n_in: int, n_out: int, **said: Any) -> None:
        super().__init__(n, n_in // said["config"].expert_tensor_parallel_size, n_out)


def set_save_original_input(module: Linear | Grouped) -> None:
    module.save_original_input = True


class _Moved(torch.autograd.Function):
    """Rows in another place, more or fewer of them."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, n_rows: int) -> torch.Tensor:
        ctx.shape = x.shape
        return like(x, n_rows, *x.shape[1:])

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        return like(grad, *ctx.shape), None


class Padding(nn.Module):
    """``Fp8Padding``: rows filled up to what kernels want, or as they are if they come to that."""

    def __init__(self, _: int) -> None:
        super().__init__()

    def forward(self, x: torch.Tensor, splits: list[int]) -> tuple[torch.Tensor, list[int]]:
        recipe = STATE["recipe"]
        align = 1 if recipe is None else recipe.align
        filled = [-(-int(n) // align) * align for n in splits]
        return (x, splits) if filled == list(splits) else (_Moved.apply(x, sum(filled)), filled)


class Unpadding(nn.Module):
    """``Fp8Unpadding``."""

    def __init__(self, _: int) -> None:
        super().__init__()

    def forward(self, x: torch.Tensor, splits: list[int]) -> torch.Tensor:
        n_rows = sum(int(n) for n in splits)
        return x if n_rows == x.shape[0] else _Moved.apply(x, n_rows)


class Attention(nn.Module):
    """cuDNN's: what is no layout that it knows is copied (``get_qkv_layout``)."""

    def __init__(self, **_: Any) -> None:
        super().__init__()

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: Any, **__: Any) -> Any:
        if not all(x.is_contiguous() for x in (q, k, v)):
            q, k, v = (x.contiguous() for x in (q, k, v))
        return _Attention.apply(q, k, v).flatten(2)
