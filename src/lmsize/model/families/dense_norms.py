"""Decoders whose norms differ: Cohere's parallel layers, OLMo and EXAONE after the block."""

from __future__ import annotations

from lmsize.model.blocks import gated_mlp
from lmsize.model.config import Config
from lmsize.model.dense_blocks import (
    Windows,
    dense_decoder,
    dense_shape,
    post_norm,
    repeating_windows,
)
from lmsize.model.family import family
from lmsize.model.mixture_blocks import grouped_query, is_null, qk_norms, sliding_layers
from lmsize.model.parts import Norm, Part
from lmsize.model.spec import ModelSpec


@family("cohere", "cohere2", "cohere_compass_text")
def cohere(config: Config) -> ModelSpec:
    """Attention and MLP side by side after one LayerNorm without bias."""
    is_first = config.model_type == "cohere"
    shape = dense_shape(config, derived=not is_first)
    width = shape.width
    bias = config.flag("attention_bias")
    mlp = gated_mlp(width=width, ffn=config.int("intermediate_size"))
    has_norms = is_first and config.flag("use_qk_norm")
    q_width, k_width = shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim

    def layer(window: int | None) -> tuple[Part, ...]:
        attn = grouped_query(shape, qkv_bias=bias, out_bias=bias, window=window)
        norms = qk_norms(q_width, k_width) if has_norms else ()
        return (Norm("input_layernorm", width), *attn, *norms, *mlp)

    windows = _cohere_windows(config, shape.n_layers)
    return dense_decoder(config, shape, layer, windows=windows, norm=Norm("norm", width))


def _cohere_windows(config: Config, n_layers: int) -> Windows:
    if config.model_type == "cohere":
        return ()
    if config.model_type == "cohere2":
        return repeating_windows(config, n_layers, 4)
    return sliding_layers(config, n_layers, lambda _: False)


@family("olmo")
def olmo(config: Config) -> ModelSpec:
    """LayerNorms that hold no parameters."""
    shape = dense_shape(config)
    width = shape.width
    bias = config.flag("attention_bias")
    parts = (
        bare_norm("input_layernorm", width),
        *grouped_query(shape, qkv_bias=bias, out_bias=bias),
        bare_norm("post_attention_layernorm", width),
        *gated_mlp(width=width, ffn=config.int("intermediate_size")),
    )
    final = bare_norm("norm", width)
    return dense_decoder(config, shape, lambda _: parts, norm=final)


def bare_norm(name: str, width: int) -> Norm:
    """A norm that scales nothing."""
    return Norm(name, width, weight=False, is_layer_norm=True)


@family("olmo2", "olmo3")
def olmo2(config: Config) -> ModelSpec:
    """Norms after attention and MLP, and over all queries and keys at once."""
    shape = dense_shape(config)
    bias = config.flag("attention_bias")
    mlp = gated_mlp(width=shape.width, ffn=config.int("intermediate_size"))
    norms = qk_norms(shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim)

    def layer(window: int | None) -> tuple[Part, ...]:
        attn = grouped_query(shape, qkv_bias=bias, out_bias=bias, window=window)
        return post_norm(shape.width, (*attn, *norms), mlp)

    is_v3 = config.model_type == "olmo3"
    windows = sliding_layers(config, shape.n_layers, lambda i: (i + 1) % 4 != 0) if is_v3 else ()
    return dense_decoder(config, shape, layer, windows=windows)


@family("exaone4")
def exaone4(config: Config) -> ModelSpec:
    """Norms after attention and MLP, and on each query and key head."""
    shape = dense_shape(config)
    mlp = gated_mlp(width=shape.width, ffn=config.int("intermediate_size"))

    def layer(window: int | None) -> tuple[Part, ...]:
        attn = grouped_query(shape, window=window, qk_norm=True)
        return post_norm(shape.width, attn, mlp)

    return dense_decoder(config, shape, layer, windows=_exaone_windows(config, shape.n_layers))


def _exaone_windows(config: Config, n_layers: int) -> Windows:
    """The pattern is a period, or on the Hub a word such as ``LLLG`` (G: sees everything)."""
    if is_null(config, "sliding_window"):
        return ()
    pattern = config.given("sliding_window_pattern")
    if isinstance(pattern, str) and pattern:
        return sliding_layers(config, n_layers, lambda i: pattern[i % len(pattern)] != "G")
    return repeating_windows(config, n_layers, 4)
