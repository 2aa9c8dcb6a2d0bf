"""Which kernel of scaled_dot_product_attention CUDA would take, and that kernel's tensors.

A torch without CUDA has no choice to make and falls back on plain arithmetic, whose memory is
quadratic in the length. The rules are those of torch 2.13 (aten/src/ATen/native/transformers:
cuda/sdp_utils.cpp, sdp_utils_cpp.h, attention.cpp). The kernel is put where autograd finds it, after
autocast, so that every thread and every caller sees it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

aten = torch.ops.aten
_HALF = (torch.float16, torch.bfloat16)
_MASK_ALIGNMENT = 8  # numbers; the efficient kernel reads masks in rows of a multiple of it


@dataclass(frozen=True, slots=True)
class Request:
    """A call of scaled_dot_product_attention."""

    query: Any
    key: Any
    value: Any
    mask: Any
    dropout: float
    is_causal: bool
    scale: float | None
    enable_gqa: bool

    @property
    def head_sizes(self) -> tuple[int, int, int]:
        return self.query.shape[-1], self.key.shape[-1], self.value.shape[-1]

    @property
    def is_dense(self) -> bool:
        """Four dimensions, like batches, and an innermost dimension that lies together."""
        tensors = (self.query, self.key, self.value)
        return all(t.dim() == 4 and t.stride(-1) == 1 for t in tensors) and (
            len({t.shape[0] for t in tensors}) == 1
        )

    @property
    def is_trained(self) -> bool:
        return any(t.requires_grad for t in (self.query, self.key, self.value))

    @property
    def heads_agree(self) -> bool:
        return len({t.shape[-3] for t in (self.query, self.key, self.value)}) == 1


def kernel(asked: Request, capability: tuple[int, int]) -> str:
    """``cudnn``, ``flash``, ``efficient`` or ``math``: the first that can serve the request.

    Raises:
        RuntimeError: none of those that are allowed can.
    """
    backends = torch.backends.cuda
    if capability[0] in (9, 10) and backends.cudnn_sdp_enabled() and _cudnn_serves(asked):
        return "cudnn"
    if backends.flash_sdp_enabled() and _flash_serves(asked, capability):
        return "flash"
    if backends.mem_efficient_sdp_enabled() and _efficient_serves(asked, capability):
        return "efficient"
    if not backends.math_sdp_enabled():
        raise RuntimeError("No available kernel.")  # as torch says it
    return "math"


def _cudnn_serves(asked: Request) -> bool:
    head, _, value = asked.head_sizes
    return (
        asked.is_dense
        and asked.query.dtype in _HALF
        and (asked.heads_agree or asked.enable_gqa)
        and (max(head, value) <= 128 or (head, value) == (192, 128))
        and head % 8 == value % 8 == 0
        and asked.key.shape[2] > 1
        and (asked.dropout * 16).is_integer()
    )


def _flash_serves(asked: Request, capability: tuple[int, int]) -> bool:
    head = asked.head_sizes[0]
    consumer = (8, 6) <= capability <= (8, 9) or capability >= (12, 0)
    return (
        capability >= (8, 0)
        and asked.is_dense
        and asked.mask is None
        and asked.query.dtype in _HALF
        and len(set(asked.head_sizes)) == 1
        and head <= 256
        and (asked.heads_agree or asked.enable_gqa)
        and not (asked.is_causal and asked.query.shape[-2] != asked.key.shape[-2])
        and not (
            consumer and asked.is_trained and head > 192 and (asked.dropout > 0 or head <= 224)
        )
    )


def _efficient_serves(asked: Request, capability: tuple[int, int]) -> bool:
    head, key, value = asked.head_sizes
    half = asked.query.dtype in _HALF
    types = (*_HALF, torch.float32) if capability >= (8, 0) else (torch.float16, torch.float32)
    bits = 16 if half else 32
    tensor_cores = capability >= (8, 0) or (capability >= (7, 0) and half)
    alignment = max(4 if capability >= (8, 0) else 1, 128 // bits if tensor_cores else 1)
    return (
        asked.is_dense
        and asked.heads_agree
        and asked.query.dtype in types
        and head == key
        and head % alignment == value % alignment == 0
    )


def registered(library: Any, capability: tuple[int, int]) -> None:
    """Serve scaled_dot_product_attention on CUDA as a GPU of this capability would."""

    def attention(  # noqa: PLR0917  # the signature is torch's
        query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0,
        is_causal: bool = False, *, scale: float | None = None, enable_gqa: bool = False,
    ) -> Any:  # fmt: skip
        asked = Request(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
        return _CALLS[kernel(asked, capability)](asked)

    library.impl("scaled_dot_product_attention", attention, "AutogradCUDA")


def _additive(asked: Request) -> Any:
    """A mask as numbers to add; a boolean one says where attention may look."""
    mask = asked.mask
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.where(
        mask, 0.0, torch.scalar_tensor(float("-inf"), dtype=asked.query.dtype, device=mask.device)
    )


def _expanded_mask(asked: Request, *, alignment: int) -> Any:
    mask = _additive(asked)
    if mask is None:
        return None
    short = -mask.shape[-1] % alignment
    if short:
        mask = torch.nn.functional.pad(mask, (0, short))[..., : mask.shape[-1]]
    return mask.expand(*asked.query.shape[:3], asked.key.shape[2])


def _cudnn(asked: Request) -> Any:
    return aten._scaled_dot_product_cudnn_attention(
        asked.query, asked.key, asked.value, _expanded_mask(asked, alignment=1), asked.is_trained,
        asked.dropout, asked.is_causal, False, scale=asked.scale,
    )[0]  # fmt: skip


def _flash(asked: Request) -> Any:
    head = asked.head_sizes[0]
    short = -head % 8
    scale = asked.scale if asked.scale is not None else head**-0.5
    tensors = [asked.query, asked.key, asked.value]
    if short:
        tensors = [torch.nn.functional.pad(t, (0, short)) for t in tensors]
    out = aten._scaled_dot_product_flash_attention(
        *tensors, asked.dropout, asked.is_causal, False, scale=scale
    )[0]
    return out[..., :head] if short else out


def _efficient(asked: Request) -> Any:
    return aten._scaled_dot_product_efficient_attention(
        asked.query, asked.key, asked.value, _expanded_mask(asked, alignment=_MASK_ALIGNMENT),
        asked.is_trained, asked.dropout, asked.is_causal, scale=asked.scale,
    )[0]  # fmt: skip


def _math(asked: Request) -> Any:
    return aten._scaled_dot_product_attention_math(
        asked.query, asked.key, asked.value, _additive(asked), asked.dropout, asked.is_causal,
        scale=asked.scale, enable_gqa=asked.enable_gqa,
    )[0]  # fmt: skip


_CALLS: dict[str, Callable[[Request], Any]] = {
    "cudnn": _cudnn, "flash": _flash, "efficient": _efficient, "math": _math,
}  # fmt: skip
