"""Decoders whose every layer has routed experts and nothing else: Mixtral and its relatives."""

from __future__ import annotations

from lmsize.model.blocks import layer_norm, rms_norm
from lmsize.model.config import Config
from lmsize.model.family import family
from lmsize.model.mixture_blocks import (
    Shape,
    built,
    chosen,
    expert_bank,
    grouped_query,
    head_width,
    mixture_decoder,
    nullable_int,
    pre_norm_layer,
    qk_norms,
    read_shape,
    router,
    shared_mlp,
    sliding_layers,
    sparse_mlp,
)
from lmsize.model.parts import AttentionCore, Experts, Linear, Part
from lmsize.model.spec import Block, ModelSpec


@family("mixtral")
def mixtral(config: Config) -> ModelSpec:
    """Llama's attention; the experts' width is ``intermediate_size``."""
    shape = read_shape(config)
    attn = grouped_query(shape, window=nullable_int(config, "sliding_window") or None)
    mlp = sparse_mlp(config, shape.width, n_key="num_local_experts", ffn_key="intermediate_size")
    layer = pre_norm_layer(shape.width, attn, mlp)
    return mixture_decoder(config, shape, [layer] * shape.n_layers)


@family("minimax_m2")
def minimax_m2(config: Config) -> ModelSpec:
    """As Mixtral, with RMSNorm over all query heads together and all key heads together."""
    shape = read_shape(config)
    attn = (*grouped_query(shape), *_norms_over_heads(shape))
    mlp = sparse_mlp(config, shape.width, n_key="num_local_experts", ffn_key="intermediate_size")
    layer = pre_norm_layer(shape.width, attn, mlp)
    return mixture_decoder(config, shape, [layer] * shape.n_layers)


def _norms_over_heads(shape: Shape) -> tuple[Part, ...]:
    return qk_norms(shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim)


@family("olmoe", "flex_olmo")
def olmoe(config: Config) -> ModelSpec:
    """OLMoE norms before attention and MLP, FlexOlmo after them."""
    shape = read_shape(config)
    biased = config.flag("attention_bias")
    attn = grouped_query(shape, qkv_bias=biased, out_bias=biased)
    mlp = sparse_mlp(config, shape.width, ffn_key="intermediate_size")
    if config.model_type == "flex_olmo":
        after_attention = rms_norm("post_attention_layernorm", shape.width)
        after_mlp = rms_norm("post_feedforward_layernorm", shape.width)
        parts = (*attn, *_norms_over_heads(shape), after_attention, *mlp, after_mlp)
        layer = Block("moe layer", parts)
    else:
        # the width of its norms does not follow head_dim
        k_width = shape.width // shape.n_heads * shape.n_kv_heads
        layer = pre_norm_layer(shape.width, (*attn, *qk_norms(shape.width, k_width)), mlp)
    return mixture_decoder(config, shape, [layer] * shape.n_layers)


@family("phimoe")
def phimoe(config: Config) -> ModelSpec:
    """Phi-3.5-MoE: LayerNorm with bias; the router is a linear module."""
    shape = read_shape(config)
    biased = config.flag("attention_bias")
    window = nullable_int(config, "sliding_window") or None
    parts = (
        layer_norm("input_layernorm", shape.width),
        *grouped_query(shape, qkv_bias=biased, out_bias=biased, window=window),
        layer_norm("post_attention_layernorm", shape.width),
        *sparse_mlp(
            config, shape.width, n_key="num_local_experts", ffn_key="intermediate_size",
            gate="router", is_linear=True,
        ),
    )  # fmt: skip
    return mixture_decoder(
        config, shape, [Block("moe layer", parts)] * shape.n_layers,
        norm=layer_norm("norm", shape.width), lm_bias=config.flag("lm_head_bias"),
    )  # fmt: skip


@family("gpt_oss")
def gpt_oss(config: Config) -> ModelSpec:
    """gpt-oss: biases everywhere, attention sinks, every other layer slides."""
    shape = read_shape(config)
    biased = config.flag("attention_bias")
    mlp = sparse_mlp(
        config, shape.width, n_key="num_local_experts", ffn_key="intermediate_size",
        gate="router", bias=True,
    )  # fmt: skip

    def layer(window: int | None) -> Block:
        attn = grouped_query(shape, qkv_bias=biased, out_bias=biased, window=window, sinks=True)
        return pre_norm_layer(shape.width, attn, mlp)

    windows = sliding_layers(config, shape.n_layers, lambda i: (i + 1) % 2 == 1)
    return mixture_decoder(config, shape, built(windows, layer))


@family("granitemoe", "granitemoeshared", "granitemoe_swa")
def granite_moe(config: Config) -> ModelSpec:
    """Granite 3 MoE, its version with a shared expert, and the one with sinks and windows."""
    shape = read_shape(config)
    biased, slides = config.flag("attention_bias"), config.model_type == "granitemoe_swa"
    mlp: tuple[Part, ...] = sparse_mlp(
        config, shape.width, n_key="num_local_experts", ffn_key="intermediate_size",
        gate="router", prefix="block_sparse_moe",
    )  # fmt: skip
    if config.model_type != "granitemoe":
        mlp += _granite_shared(shape.width, config.int("shared_intermediate_size", 0, least=0))

    def layer(window: int | None) -> Block:
        attn = grouped_query(shape, qkv_bias=biased, out_bias=biased, window=window, sinks=slides)
        return pre_norm_layer(shape.width, attn, mlp)

    windows: list[int | None] = [None] * shape.n_layers
    if slides:
        windows = sliding_layers(config, shape.n_layers, lambda i: i % 4 != 0)
    return mixture_decoder(config, shape, built(windows, layer))


def _granite_shared(width: int, ffn: int) -> tuple[Part, ...]:
    if not ffn:
        return ()
    return (
        Linear("shared_mlp.input_linear", width, 2 * ffn, False, "column"),
        Linear("shared_mlp.output_linear", ffn, width, False, "row"),
    )


@family("dbrx")
def dbrx(config: Config) -> ModelSpec:
    """DBRX: fused QKV, LayerNorm without bias, experts' keys in a section of their own."""
    width, n_layers, n_heads, vocab = config.require("d_model", "n_layers", "n_heads", "vocab_size")
    attn = config.section("attn_config") or Config({}, "", path="attn_config.")
    ffn = config.section("ffn_config") or Config({}, "", path="ffn_config.")
    n_kv, n_experts = attn.int("kv_n_heads", 1), ffn.int("moe_num_experts", 4)
    shape = Shape(width, n_layers, n_heads, vocab, n_kv, head_width(config, width, n_heads, "_"))
    inner, top_k = ffn.int("ffn_hidden_size", 3584), chosen(ffn, "moe_top_k", n_experts, 1)
    matrices = (("w1", width, inner), ("v1", width, inner), ("w2", inner, width))
    head_dim, prefix = shape.head_dim, "norm_attn_norm.attn"
    parts: tuple[Part, ...] = (
        layer_norm("norm_attn_norm.norm_1", width, bias=False),
        Linear(f"{prefix}.Wqkv", width, width + 2 * n_kv * head_dim, False, "column", n_kv),
        AttentionCore(n_heads, n_kv, head_dim, head_dim),
        Linear(f"{prefix}.out_proj", width, width, False, "row", n_heads),
        layer_norm("norm_attn_norm.norm_2", width, bias=False),
        router(width, n_experts, "ffn.router.layer", is_linear=True),
        Experts("ffn.experts.mlp", matrices, n_experts, top_k),
    )
    return mixture_decoder(
        config, shape, [Block("moe layer", parts)] * n_layers, norm=layer_norm("norm_f", width, bias=False),
        embedding="wte", can_tie=False,
    )  # fmt: skip


@family("grok-1")
def grok_1(config: Config) -> ModelSpec:
    """Grok-1, from its published ``model.py``: norms before and after both halves of a layer."""
    shape = read_shape(config)
    width, n_experts = shape.width, config.int("num_experts", 8)
    top_k = chosen(config, "num_experts_per_tok", n_experts, 2)
    attn = grouped_query(shape)
    parts = (
        rms_norm("pre_attn_norm", width), *attn, rms_norm("post_attn_norm", width),
        rms_norm("pre_moe_norm", width),
        router(width, n_experts, "moe_block.gate", is_linear=True),
        expert_bank(width, config.int("intermediate_size"), n_experts, top_k,
                    name="moe_block.experts"),
        rms_norm("post_moe_norm", width),
    )  # fmt: skip
    return mixture_decoder(config, shape, [Block("moe layer", parts)] * shape.n_layers)


@family("deepseek")
def deepseek_moe(config: Config) -> ModelSpec:
    """DeepSeek-MoE, the first version: Llama's attention, shared experts, first layers dense."""
    shape = read_shape(config)
    biased = config.flag("attention_bias")
    n_dense = config.int("first_k_dense_replace", 0, least=0)
    every = config.int("moe_layer_freq", 1)
    n_shared = config.int("n_shared_experts", 0, least=0)

    def layer(sparse: bool) -> Block:
        attn = grouped_query(shape, qkv_bias=biased, out_bias=biased)
        if not sparse:
            ffn = config.int("intermediate_size", 11008)
            return pre_norm_layer(
                shape.width, attn, shared_mlp(shape.width, ffn, prefix="mlp"), sparse=False
            )
        mlp: tuple[Part, ...] = sparse_mlp(config, shape.width, n_key="n_routed_experts")
        if n_shared:
            mlp += shared_mlp(shape.width, n_shared * config.int("moe_intermediate_size"))
        return pre_norm_layer(shape.width, attn, mlp)

    has_experts = config.has("n_routed_experts")
    sparse = [has_experts and i >= n_dense and i % every == 0 for i in range(shape.n_layers)]
    return mixture_decoder(config, shape, built(sparse, layer))
