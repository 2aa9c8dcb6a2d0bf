"""Decoders with gate and up projections in one matrix: GLM, GLM-4, Phi-3."""

from __future__ import annotations

from lmsize.model.blocks import fused_attention, rms_norm
from lmsize.model.config import Config
from lmsize.model.dense_blocks import (
    dense_decoder,
    dense_shape,
    fused_gate_mlp,
    one_window,
    pre_norm,
)
from lmsize.model.family import family
from lmsize.model.mixture_blocks import grouped_query
from lmsize.model.parts import Part
from lmsize.model.spec import ModelSpec


@family("glm", "glm4")
def glm(config: Config) -> ModelSpec:
    """Biases on queries, keys and values; GLM-4 has two more norms a layer."""
    shape = dense_shape(config)
    width = shape.width
    attention = grouped_query(shape, qkv_bias=config.flag("attention_bias"))
    mlp = fused_gate_mlp(width, config.int("intermediate_size"))
    if config.model_type == "glm4":
        attention = (*attention, rms_norm("post_self_attn_layernorm", width))
        mlp = (*mlp, rms_norm("post_mlp_layernorm", width))
    parts = pre_norm(width, attention, mlp)
    return dense_decoder(config, shape, lambda _: parts)


@family("phi3")
def phi3(config: Config) -> ModelSpec:
    """Queries, keys and values come from one matrix too."""
    shape = dense_shape(config)
    mlp = fused_gate_mlp(shape.width, config.int("intermediate_size"))

    def layer(window: int | None) -> tuple[Part, ...]:
        attn = fused_attention(
            width=shape.width, n_heads=shape.n_heads, n_kv_heads=shape.n_kv_heads,
            head_dim=shape.head_dim, qkv="self_attn.qkv_proj", out="self_attn.o_proj",
            window=window,
        )  # fmt: skip
        return pre_norm(shape.width, attn, mlp)

    return dense_decoder(config, shape, layer, windows=one_window(config, shape.n_layers))
