"""Relatives of the dense decoders that have experts: Mellum, Kolibri, Aria's text model, Doge."""

from __future__ import annotations

from math import isqrt

from lmsize.model.blocks import gated_mlp, rms_norm
from lmsize.model.config import Config
from lmsize.model.dense_blocks import dense_decoder, dense_shape, one_window
from lmsize.model.family import family
from lmsize.model.mixture_blocks import (
    built,
    chosen,
    grouped_query,
    mixture_decoder,
    pre_norm_layer,
    shared_mlp,
    sliding_layers,
    sparse_layers,
    sparse_mlp,
)
from lmsize.model.parts import Experts, Linear, Part, Plain
from lmsize.model.spec import Block, ModelSpec


@family("mellum")
def mellum(config: Config) -> ModelSpec:
    """A norm on each head; layers are sparse unless ``mlp_layer_types`` says otherwise."""
    shape = dense_shape(config)
    width, bias = shape.width, config.flag("attention_bias")
    sparse = sparse_layers(config, shape.n_layers, 0)
    windows = sliding_layers(config, shape.n_layers, lambda _: False)

    def layer(kind: tuple[bool, int | None]) -> Block:
        is_sparse, window = kind
        attn = grouped_query(shape, qkv_bias=bias, out_bias=bias, window=window, qk_norm=True)
        if is_sparse:
            return pre_norm_layer(width, attn, sparse_mlp(config, width))
        mlp = gated_mlp(width=width, ffn=config.int("intermediate_size"))
        return pre_norm_layer(width, attn, mlp, sparse=False)

    return mixture_decoder(config, shape, built(zip(sparse, windows, strict=True), layer))


@family("kolibri1")
def kolibri(config: Config) -> ModelSpec:
    """Every layer is sparse with one shared expert; four norms a layer, norms on heads."""
    shape = dense_shape(config)
    width = shape.width
    shared = shared_mlp(width, config.int("shared_expert_intermediate_size"))
    mlp = (*sparse_mlp(config, width), *shared, rms_norm("post_mlp_layernorm", width))
    after = rms_norm("post_self_attn_layernorm", width)

    def layer(window: int | None) -> Block:
        attn = grouped_query(shape, window=window, qk_norm=True)
        return pre_norm_layer(width, (*attn, after), mlp)

    windows = sliding_layers(config, shape.n_layers, lambda i: (i + 1) % 5 != 0)
    return mixture_decoder(config, shape, built(windows, layer))


@family("aria_text")
def aria_text(config: Config) -> ModelSpec:
    """Every layer is sparse; shared experts are one MLP as wide as all of them."""
    shape = dense_shape(config, even=True)
    width, bias = shape.width, config.flag("attention_bias")
    ffn = config.int("intermediate_size") * config.int("moe_num_shared_experts", least=0)
    mlp = (
        *sparse_mlp(
            config, width, n_key="moe_num_experts", k_key="moe_topk",
            ffn_key="intermediate_size", gate="router",
        ),
        *shared_mlp(width, ffn, bias=config.flag("mlp_bias")),
    )  # fmt: skip
    block = pre_norm_layer(width, grouped_query(shape, qkv_bias=bias, out_bias=bias), mlp)
    return mixture_decoder(config, shape, [block] * shape.n_layers)


@family("doge")
def doge(config: Config) -> ModelSpec:
    """Dynamic-mask attention (counted as full), scaled residuals, and in some an MLP with many
    experts of one neuron each beside it.
    """
    shape = dense_shape(config)
    width, heads = shape.width, shape.n_kv_heads
    bias = config.flag("attention_bias")
    mask = (
        Plain("self_attn.A", (heads,)),
        Linear("self_attn.dt_proj", heads * shape.head_dim, heads, bias, "column", heads),
    )
    ffn = config.int("intermediate_size")
    mlp = gated_mlp(width=width, ffn=ffn, bias=config.flag("mlp_bias"))
    tiny = _tiny_experts(config, width) if config.flag("is_moe") else ()

    def layer(window: int | None) -> tuple[Part, ...]:
        attn = grouped_query(shape, qkv_bias=bias, out_bias=bias, window=window, qk_norm=True)
        return (
            rms_norm("input_layernorm", width), *attn, *mask, Plain("input_residual", (width,)),
            rms_norm("post_attention_layernorm", width), *mlp, *tiny,
            Plain("post_attention_residual", (width,)),
        )  # fmt: skip

    return dense_decoder(config, shape, layer, windows=one_window(config, shape.n_layers))


def _tiny_experts(config: Config, width: int) -> tuple[Part, ...]:
    """Two tables with one row an expert, and a router over the product of two key sets."""
    n_experts = config.int("num_experts")
    matrices = (("down_embed.weight", width, 1), ("up_embed.weight", 1, width))
    top_k = chosen(config, "num_experts_per_tok", n_experts)
    return (
        Linear("mlp.router_gate", width, 2 * isqrt(n_experts)),
        Experts("mlp", matrices, n_experts, top_k),
    )
