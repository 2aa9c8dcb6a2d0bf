"""Decoders whose attention is unusual too: JetMoe's attention experts, Zaya's convolutions."""

from __future__ import annotations

from lmsize.model.blocks import rms_norm
from lmsize.model.config import Config
from lmsize.model.family import family
from lmsize.model.mixture_blocks import (
    Shape,
    built,
    chosen,
    expert_bank,
    kinds_by_layer,
    mixture_decoder,
    nullable_int,
    pre_norm_layer,
    read_shape,
    router,
)
from lmsize.model.parts import AttentionCore, Conv, Experts, Linear, Norm, Part, Plain
from lmsize.model.spec import Block, ModelSpec


@family("jetmoe")
def jetmoe(config: Config) -> ModelSpec:
    """JetMoE: query and output projections are experts too, keys and values are shared.

    Each chosen attention expert brings as many query heads as there are key heads.
    """
    width, n_layers, vocab = config.require("hidden_size", "num_hidden_layers", "vocab_size")
    n_kv, head_dim = config.int("num_key_value_heads"), config.int("kv_channels")
    n_experts = config.int("num_local_experts")
    top_k = chosen(config, "num_experts_per_tok", n_experts, 2)
    shape = Shape(width, n_layers, n_kv * top_k, vocab, n_kv, head_dim)
    kv_width, ffn = n_kv * head_dim, config.int("intermediate_size")
    moa = (("input_linear.weight", width, kv_width), ("output_linear.weight", kv_width, width))
    moe = (("input_linear.weight", width, 2 * ffn), ("output_linear.weight", ffn, width))
    attn, mlp = "self_attention.experts", "mlp"
    parts = (
        rms_norm("input_layernorm", width),
        router(width, n_experts, f"{attn}.router.layer", is_linear=True),
        Experts(attn, moa, n_experts, top_k), Plain(f"{attn}.bias", (width,)),
        Linear("self_attention.kv_proj", width, 2 * kv_width, False, "column", n_kv),
        AttentionCore(n_kv * top_k, n_kv, head_dim, head_dim),
        rms_norm("post_attention_layernorm", width),
        router(width, n_experts, f"{mlp}.router.layer", is_linear=True),
        Experts(mlp, moe, n_experts, top_k), Plain(f"{mlp}.bias", (width,)),
    )  # fmt: skip
    return mixture_decoder(config, shape, [Block("moe layer", parts)] * n_layers)


@family("zaya")
def zaya(config: Config) -> ModelSpec:
    """Zaya: convolved queries and keys, scaled residuals, a router that is an MLP.

    The router has one class more than there are experts: a token may skip them.
    """
    shape = read_shape(config)
    width, n_experts = shape.width, config.int("num_experts")
    top_k = chosen(config, "num_experts_per_tok", n_experts, 1)
    bank = expert_bank(width, config.int("moe_intermediate_size"), n_experts, top_k)
    scales = (*_scaling("post_attention_residual_scale", width),
              *_scaling("post_mlp_residual_scale", width))  # fmt: skip
    window = nullable_int(config, "sliding_window") or None

    def layer(kind: tuple[str, bool]) -> Block:
        slides, first = kind[0] == "hybrid_sliding", kind[1]
        attn = _convolved_attention(config, shape, window if slides else None)
        mlp = (*_router_mlp(config, width, n_experts, first), bank, *scales)
        return pre_norm_layer(width, attn, mlp)

    kinds = kinds_by_layer(
        config, "layer_types", shape.n_layers, ("hybrid", "hybrid_sliding"), lambda _: "hybrid"
    )
    layers = built(((kind, i == 0) for i, kind in enumerate(kinds)), layer)
    extra = (
        Plain("input_hidden_states_scale", (width,)), Plain("input_hidden_states_bias", (width,)),
    )  # fmt: skip
    return mixture_decoder(config, shape, layers, extra=extra, lm_bias=config.flag("lm_head_bias"))


def _convolved_attention(config: Config, shape: Shape, window: int | None) -> tuple[Part, ...]:
    width, head_dim, biased = shape.width, shape.head_dim, config.flag("attention_bias")
    heads, n_kv = shape.n_heads, shape.n_kv_heads
    q_width, k_width = heads * head_dim, n_kv * head_dim
    prefix, channels = "self_attn.qkv_proj", q_width + k_width
    depthwise, grouped = config.int("cca_time0"), config.int("cca_time1")
    return (
        Linear(f"{prefix}.q_proj", width, q_width, biased, "column", heads),
        Linear(f"{prefix}.k_proj", width, k_width, biased, "column", n_kv),
        Linear(f"{prefix}.v_proj_current", width, k_width // 2, biased, "column", n_kv),
        Linear(f"{prefix}.v_proj_delayed", width, k_width // 2, biased, "column", n_kv),
        Conv(f"{prefix}.conv_qk_depthwise", channels, channels, depthwise, channels),
        Conv(f"{prefix}.conv_qk_grouped", channels, channels, grouped, n_kv + heads),
        Plain("self_attn.qk_norm.temp", (n_kv,)),
        AttentionCore(heads, n_kv, head_dim, head_dim, window),
        Linear("self_attn.o_proj", q_width, width, biased, "row", heads),
    )


def _router_mlp(config: Config, width: int, n_experts: int, first: bool) -> tuple[Part, ...]:
    """From the second layer on it mixes in the state of the router before."""
    hidden, name = config.int("router_hidden_size"), "mlp.gate"
    mixes = () if first else (Plain(f"{name}.router_states_scale", (hidden,)),)
    return (
        Linear(f"{name}.down_proj", width, hidden, True), *mixes,
        Norm(f"{name}.router_mlp.norm", hidden),
        Linear(f"{name}.router_mlp.fc1", hidden, hidden, True),
        Linear(f"{name}.router_mlp.fc2", hidden, hidden, True),
        Linear(f"{name}.router_mlp.out_proj", hidden, n_experts + 1),
    )  # fmt: skip


def _scaling(name: str, width: int) -> tuple[Part, ...]:
    tensors = ("hidden_states_scale", "hidden_states_bias", "residual_scale", "residual_bias")
    return tuple(Plain(f"{name}.{tensor}", (width,)) for tensor in tensors)
