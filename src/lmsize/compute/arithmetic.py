"""Floating-point operations of one pass: a multiply and an add are two."""

from __future__ import annotations

from typing import Any

from lmsize.formula import formula
from lmsize.numbers import smaller
from lmsize.source import Source

SCALING_LAWS = Source(
    "Scaling Laws for Neural Language Models", "table 1", "https://arxiv.org/abs/2001.08361"
)
PALM = Source("PaLM", "appendix B", "https://arxiv.org/abs/2204.02311")


@formula(source=SCALING_LAWS)
def matmul_flops(*, n_weights: Any, n_tokens: Any, n_passes: Any) -> Any:
    """FLOPs of tokens through weight matrices.

    Assumes: every weight meets every token once in each pass.
    Valid for: any matrix product; a backward pass is two passes (gradient of the input and of
    the weight), one where the weight is frozen.
    """
    return 2 * n_weights * n_tokens * n_passes


@formula(source=PALM)
def attention_pairs(*, n_queries: Any, n_keys: Any, window: Any, causal: Any) -> Any:
    """Pairs of query and key that attend to each other in one sequence.

    Assumes: a causal query sees itself and at most `window` - 1 tokens before it.
    Valid for: ``causal`` 1 (lower triangle, ``n_queries == n_keys``) or 0 (every query sees
    `window` keys or all); pass ``window >= n_keys`` for full attention.
    """
    reach = smaller(window, n_keys)
    full = n_queries * reach
    hidden = reach * (reach - 1) / 2
    return full - causal * hidden


@formula(source=PALM)
def attention_flops(
    *, n_pairs: Any, n_heads: Any, head_dim: Any, v_head_dim: Any, n_sequences: Any, n_passes: Any
) -> Any:
    """FLOPs of scores and weighted values.

    Assumes: a backward pass is two passes; softmax and masks are not counted.
    Valid for: any attention whose pairs are given.
    """
    return 2 * n_pairs * n_heads * (head_dim + v_head_dim) * n_sequences * n_passes


@formula(source=Source("Mamba", "section 3", "https://arxiv.org/abs/2312.00752"))
def scan_flops(*, flops_per_token: Any, n_tokens: Any, n_passes: Any) -> Any:
    """FLOPs of recurrences (state-space, linear attention, convolutions along the sequence).

    Assumes: a backward pass is two passes.
    Valid for: recurrent and chunked forms alike, at the recurrent form's count.
    """
    return flops_per_token * n_tokens * n_passes
