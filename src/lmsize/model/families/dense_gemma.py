"""Gemma 1 to 3 (text) and VaultGemma."""

from __future__ import annotations

from lmsize.model.blocks import attention, gated_mlp, rms_norm
from lmsize.model.config import Config
from lmsize.model.dense_blocks import (
    Windows,
    dense_decoder,
    dense_shape,
    pre_norm,
    repeating_windows,
)
from lmsize.model.family import family
from lmsize.model.mixture_blocks import Shape, grouped_query, qk_norms, sliding_layers
from lmsize.model.parts import Part
from lmsize.model.spec import ModelSpec


@family("gemma")
def gemma(config: Config) -> ModelSpec:
    """Pre-norm; the width of a head is its own number."""
    shape = dense_shape(config)
    bias = config.flag("attention_bias")
    attn = grouped_query(shape, qkv_bias=bias, out_bias=bias)
    mlp = gated_mlp(width=shape.width, ffn=config.int("intermediate_size"))
    parts = pre_norm(shape.width, attn, mlp)
    return dense_decoder(config, shape, lambda _: parts)


@family("vaultgemma")
def vaultgemma(config: Config) -> ModelSpec:
    """Gemma 2 without the norms after attention and MLP."""
    shape = dense_shape(config, even=True)
    width = shape.width
    bias = config.flag("attention_bias")
    mlp = gated_mlp(width=width, ffn=config.int("intermediate_size"))

    def layer(window: int | None) -> tuple[Part, ...]:
        attn = grouped_query(shape, qkv_bias=bias, out_bias=bias, window=window)
        return (
            rms_norm("input_layernorm", width), *attn,
            rms_norm("pre_feedforward_layernorm", width), *mlp,
        )  # fmt: skip

    return dense_decoder(config, shape, layer, windows=_alternating(config, shape.n_layers))


@family("gemma2", "gemma3_text")
def gemma2(config: Config) -> ModelSpec:
    """Four norms a layer; Gemma 3 also norms queries and keys.

    Used as an encoder (``use_bidirectional_attention``), a token of Gemma 3 sees half of the
    window on either side.
    """
    shape = dense_shape(config, even=True)
    is_v3 = config.model_type == "gemma3_text"
    causal = not (is_v3 and config.flag("use_bidirectional_attention"))
    norms = qk_norms(shape.head_dim, shape.head_dim) if is_v3 else ()
    bias = config.flag("attention_bias")
    ffn = config.int("intermediate_size")

    def layer(window: int | None) -> tuple[Part, ...]:
        # Both sides of a bidirectional window, as transformers halves it, and the token itself.
        reach = window if causal or window is None else 2 * (window // 2) + 1
        attn = attention(
            width=shape.width, n_heads=shape.n_heads, n_kv_heads=shape.n_kv_heads,
            head_dim=shape.head_dim, qkv_bias=bias, out_bias=bias, window=reach, causal=causal,
        )  # fmt: skip
        return _four_norms(shape, (*attn, *norms), ffn)

    is_mixed = _repeating if is_v3 else _alternating
    return dense_decoder(config, shape, layer, windows=is_mixed(config, shape.n_layers))


def _four_norms(shape: Shape, attn: tuple[Part, ...], ffn: int) -> tuple[Part, ...]:
    width = shape.width
    return (
        rms_norm("input_layernorm", width), *attn, rms_norm("post_attention_layernorm", width),
        rms_norm("pre_feedforward_layernorm", width), *gated_mlp(width=width, ffn=ffn),
        rms_norm("post_feedforward_layernorm", width),
    )  # fmt: skip


def _alternating(config: Config, n_layers: int) -> Windows:
    return sliding_layers(config, n_layers, lambda i: i % 2 == 0)


def _repeating(config: Config, n_layers: int) -> Windows:
    return repeating_windows(config, n_layers, 6)
