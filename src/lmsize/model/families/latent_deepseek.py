"""Latent attention with DeepSeek's experts: DeepSeek-V2 and V3, Kimi-K2 and their relatives."""

from __future__ import annotations

from dataclasses import replace

from lmsize.model.blocks import rms_norm
from lmsize.model.config import Config
from lmsize.model.families.moe_shared import deepseek_experts, dense_mlp
from lmsize.model.family import family
from lmsize.model.latent_blocks import latent_attention, latent_shape, read_latent
from lmsize.model.mixture_blocks import (
    Shape,
    built,
    chosen,
    mixture_decoder,
    nullable_int,
    pre_norm_layer,
    router,
    shared_mlp,
    sparse_layers,
)
from lmsize.model.parts import Experts, Part
from lmsize.model.spec import Block, ModelSpec


def latent_decoder(
    config: Config, sparse_at: list[bool], *, mlp_bias: bool = False,
    after_experts: tuple[Part, ...] = (),
) -> ModelSpec:  # fmt: skip
    """Latent attention in every layer; dense or routed MLPs as `sparse_at` says."""
    shape = latent_shape(config)
    width, dims = shape.width, read_latent(config, shape.n_heads)
    attn = latent_attention(width, dims, bias=config.flag("attention_bias"))

    def layer(sparse: bool) -> Block:
        mlp: tuple[Part, ...] = dense_mlp(config, shape, bias=mlp_bias)
        if sparse:
            mlp = (*deepseek_experts(config, width, bias=mlp_bias), *after_experts)
        return pre_norm_layer(width, attn, mlp, sparse=sparse)

    return mixture_decoder(config, shape, built(sparse_at, layer))


@family("deepseek_v2", "deepseek_v3", "kimi_k2")
def deepseek(config: Config) -> ModelSpec:
    """The first layers are dense; V2 may have biases in its MLPs."""
    if config.model_type == "kimi_k2":  # which transformers loads as DeepSeek-V3
        return replace(deepseek(config.typed("deepseek_v3")), model_type="kimi_k2")
    n_layers = latent_shape(config).n_layers
    n_dense = config.int("first_k_dense_replace", 0, least=0)
    sparse_at = [i >= n_dense for i in range(n_layers)]
    mlp_bias = config.model_type == "deepseek_v2" and config.flag("mlp_bias")
    return latent_decoder(config, sparse_at, mlp_bias=mlp_bias)


@family("glm4_moe_lite")
def glm4_moe_lite(config: Config) -> ModelSpec:
    """GLM-4.7-Flash: as DeepSeek-V3, kinds of MLP listed by layer."""
    return latent_decoder(config, sparse_layers(config, latent_shape(config).n_layers, 1))


@family("axk1")
def axk1(config: Config) -> ModelSpec:
    """A.X K1: as DeepSeek-V3, with a norm behind the experts."""
    shape = latent_shape(config)
    after = (rms_norm("mlp.post_mlp_layernorm", shape.width),)
    return latent_decoder(config, replaced_layers(config, shape), after_experts=after)


def replaced_layers(config: Config, shape: Shape) -> list[bool]:
    """``mlp_layer_types``, else the older keys of which layers have experts."""
    n_dense = config.int("first_k_dense_replace", 1, least=0)
    every = config.int("moe_layer_freq", 1)
    return sparse_layers(config, shape.n_layers, n_dense, every)


@family("longcat_flash")
def longcat_flash(config: Config) -> ModelSpec:
    """LongCat-Flash: two attentions and two dense MLPs a layer beside one bank of experts.

    A token that is routed to a zero-computation expert passes unchanged, so on average it uses
    fewer experts than it is routed to.
    """
    shape = _longcat_shape(config)
    width, dims = shape.width, read_latent(config, shape.n_heads)
    biased = config.flag("attention_bias")
    ffn = config.int("ffn_hidden_size")
    parts: tuple[Part, ...] = ()
    for i in range(2):
        parts += (
            rms_norm(f"input_layernorm.{i}", width),
            *latent_attention(width, dims, bias=biased, prefix=f"self_attn.{i}"),
            rms_norm(f"post_attention_layernorm.{i}", width),
            *shared_mlp(width, ffn, prefix=f"mlps.{i}"),
        )
    layer = Block("moe layer", (*parts, *_longcat_experts(config, width)))
    return mixture_decoder(config, shape, [layer] * shape.n_layers)


def _longcat_shape(config: Config) -> Shape:
    if config.has("num_layers") or not config.has("num_hidden_layers"):
        return latent_shape(config, "num_layers")
    halves = latent_shape(config)  # transformers counts each attention as a hidden layer
    n_layers = max(1, halves.n_layers // 2)
    return Shape(halves.width, n_layers, halves.n_heads, halves.vocab, halves.n_kv_heads, 0)


def _longcat_experts(config: Config, width: int) -> tuple[Part, ...]:
    ffn, n_routed = config.int("expert_ffn_hidden_size"), config.int("n_routed_experts")
    n_all = n_routed + (nullable_int(config, "zero_expert_num") or 0)
    routed = chosen(config, "moe_topk", n_all, 12)
    used = max(1, round(routed * n_routed / n_all))
    return (
        router(width, n_all, "mlp.router.classifier", bias=config.flag("router_bias")),
        # the first matrix has rows for zero-computation experts too, which never run
        Experts("mlp.experts", (("gate_up_proj", width, 2 * ffn),), n_all, used),
        Experts("mlp.experts", (("down_proj", ffn, width),), n_routed, used),
    )  # fmt: skip
