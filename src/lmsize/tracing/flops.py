"""FLOPs of operations, from the shapes they are called with.

A multiplication and an addition are two. Attention counts the scores that a kernel computes: fused
kernels skip the blocks above a causal mask's diagonal, plain arithmetic computes all. torch's own
counter counts a causal mask as none, and grouped products not at all.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch

aten = torch.ops.aten


def _n(shape: Any) -> float:
    return float(prod(shape))


def _product(rows: Any, columns: Any) -> float:
    """(..., m, k) by (..., k, n)."""
    return 2.0 * _n(rows.shape) * int(columns.shape[-1])


def _grouped(args: Any, _out: Any) -> float:
    """Tokens sorted by expert, each row times its expert's matrix; no row is computed twice.

    (t, k) by (e, k, n) goes forward; (k, t) by (t, n) into (e, k, n) gives the weights' gradient.
    """
    first, second = args[0], args[1]
    if first.dim() == 2 and second.dim() == 3:
        return 2.0 * _n((first.shape[0], *second.shape[-2:]))
    return 2.0 * _n(first.shape) * int(second.shape[-1])


def _scores(query: Any, key: Any, *, is_causal: bool) -> float:
    """Pairs of a query and a key that a fused kernel looks at."""
    batch, heads, n_queries, _ = query.shape
    n_keys = key.shape[-2]
    seen = n_queries * n_keys
    if is_causal:
        # Row i of a square mask sees i + 1 keys.
        n = min(n_queries, n_keys)
        seen = n * (n + 1) // 2 + (n_queries - n) * n_keys
    return float(batch * heads * seen)


def _attention(causal_at: int) -> Callable[[Any, Any], float]:
    """Queries by keys, and scores by values."""

    def flops(args: Any, _out: Any) -> float:
        query, key, value = args[:3]
        is_causal = len(args) > causal_at and bool(args[causal_at])
        pairs = _scores(query, key, is_causal=is_causal)
        return 2.0 * pairs * int(query.shape[-1] + value.shape[-1])

    return flops


def _attention_backward(causal_at: int) -> Callable[[Any, Any], float]:
    """The scores again, and the gradients of values, scores, queries and keys: five products."""

    def flops(args: Any, _out: Any) -> float:
        query, key, value = args[1:4]
        is_causal = len(args) > causal_at and bool(args[causal_at])
        pairs = _scores(query, key, is_causal=is_causal)
        return 2.0 * pairs * int(3 * query.shape[-1] + 2 * value.shape[-1])

    return flops


def _convolution(args: Any, out: Any) -> float:
    weight = args[1]
    return 2.0 * _n(out.shape) * _n(weight.shape[1:])


def _convolution_backward(args: Any, _out: Any) -> float:
    grad, _, weight = args[:3]
    n_wanted = int(sum(args[-1][:2]))  # gradients of the input and of the weight
    return 2.0 * _n(grad.shape) * _n(weight.shape[1:]) * n_wanted


FLOPS: dict[Any, Callable[[Any, Any], float]] = {
    aten.mm: lambda args, _: _product(args[0], args[1]),
    aten.bmm: lambda args, _: _product(args[0], args[1]),
    aten.addmm: lambda args, _: _product(args[1], args[2]),
    aten.baddbmm: lambda args, _: _product(args[1], args[2]),
    aten._grouped_mm: _grouped,
    aten._scaled_dot_product_flash_attention: _attention(4),
    aten._scaled_dot_product_flash_attention_for_cpu: _attention(4),
    aten._scaled_dot_product_efficient_attention: _attention(6),
    aten._scaled_dot_product_cudnn_attention: _attention(6),
    aten._scaled_dot_product_flash_attention_backward: _attention_backward(11),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward(7),
    aten._scaled_dot_product_efficient_attention_backward: _attention_backward(11),
    aten._scaled_dot_product_cudnn_attention_backward: _attention_backward(14),
    aten.convolution: _convolution,
    aten.convolution_backward: _convolution_backward,
}


def flops_of(func: Any, args: Any, _kwargs: Any, out: Any) -> float:
    """FLOPs of one call; 0 for what is no product."""
    count = FLOPS.get(func.overloadpacket)
    return count(args, out) if count is not None else 0.0
