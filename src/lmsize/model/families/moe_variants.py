"""Decoders with routed experts that differ in more than a flag: gates, patterns, odd norms."""

from __future__ import annotations

from collections.abc import Iterable

from lmsize.model.blocks import rms_norm
from lmsize.model.config import Config
from lmsize.model.families.moe_shared import dense_mlp
from lmsize.model.family import family
from lmsize.model.mixture_blocks import (
    SLIDING,
    Shape,
    built,
    chosen,
    expert_bank,
    grouped_query,
    int_list,
    kinds_by_layer,
    mixture_decoder,
    nullable_int,
    pre_norm_layer,
    read_shape,
    router,
    shared_mlp,
    sliding_layers,
    sparse_layers,
    sparse_mlp,
)
from lmsize.model.parts import AttentionCore, Linear, Norm, Part, Plain
from lmsize.model.spec import Block, ModelSpec


@family("llama4_text")
def llama4_text(config: Config) -> ModelSpec:
    """Llama 4: chunked attention but for every fourth layer, dense and sparse layers in turn."""
    shape, biased = read_shape(config), config.flag("attention_bias")
    width = shape.width

    def layer(kind: tuple[int | None, bool]) -> Block:
        window, sparse = kind
        attn = grouped_query(shape, qkv_bias=biased, out_bias=biased, window=window)
        if window is not None and config.flag("use_qk_norm"):  # layers that turn have both
            bare = Norm("self_attn.qk_norm", shape.head_dim, weight=False)
            attn = (*attn, bare, bare)
        prefix = "feed_forward"
        if not sparse:
            mlp = shared_mlp(width, config.int("intermediate_size_mlp"), prefix=prefix)
            return pre_norm_layer(width, attn, mlp, sparse=False)
        experts = sparse_mlp(
            config, width, n_key="num_local_experts", ffn_key="intermediate_size",
            gate="router", prefix=prefix, is_linear=True,
        )  # fmt: skip
        ffn = config.int("intermediate_size")
        shared = shared_mlp(width, ffn, prefix=f"{prefix}.shared_expert")
        return pre_norm_layer(width, attn, (*experts, *shared))

    kinds = zip(_llama4_windows(config, shape.n_layers), _llama4_sparse(config, shape.n_layers),
                strict=True)  # fmt: skip
    return mixture_decoder(config, shape, built(kinds, layer))


def _llama4_sparse(config: Config, n_layers: int) -> list[bool]:
    listed = int_list(config, "moe_layers")
    if listed is not None:
        at = set(listed)
        return [i in at for i in range(n_layers)]
    step = config.int("interleave_moe_layer_step", 1)
    return [(i + 1) % step == 0 for i in range(n_layers)]


def _llama4_windows(config: Config, n_layers: int) -> list[int | None]:
    """Layers with rope see their own chunk only."""
    roped = int_list(config, "no_rope_layers")  # 1 where a layer has rope, despite the name
    every = config.int("no_rope_layer_interval", 4)
    if not roped:
        roped = [int((i + 1) % every != 0) for i in range(n_layers)]
    if len(roped) != n_layers:
        raise config.error("no_rope_layers", roped, f"{n_layers} entries")
    kinds = kinds_by_layer(
        config, "layer_types", n_layers, ("full_attention", "chunked_attention"),
        lambda i: "chunked_attention" if roped[i] else "full_attention",
    )  # fmt: skip
    chunk = nullable_int(config, "attention_chunk_size") or None
    return [chunk if kind == "chunked_attention" else None for kind in kinds]


@family("afmoe")
def afmoe(config: Config) -> ModelSpec:
    """Arcee's Trinity: four norms a layer, gated attention, a frozen bias of the experts."""
    shape, biased = read_shape(config), config.flag("attention_bias")
    width, n_layers = shape.width, shape.n_layers

    def layer(kind: tuple[int | None, bool]) -> Block:
        window, sparse = kind
        q_width = shape.n_heads * shape.head_dim
        parts = (
            rms_norm("input_layernorm", width),
            *grouped_query(shape, qkv_bias=biased, out_bias=biased, window=window, qk_norm=True),
            Linear("self_attn.gate_proj", width, q_width, False, "column", shape.n_heads),
            rms_norm("post_attention_layernorm", width), rms_norm("pre_mlp_layernorm", width),
            *(_afmoe_experts(config, width) if sparse else dense_mlp(config, shape)),
            rms_norm("post_mlp_layernorm", width),
        )  # fmt: skip
        return Block("moe layer" if sparse else "layer", parts)

    n_dense = config.int("num_dense_layers", 1, least=0)
    every = config.int("global_attn_every_n_layers", 4)
    windows = sliding_layers(config, n_layers, lambda i: (i + 1) % every != 0)
    kinds = zip(windows, [i >= n_dense for i in range(n_layers)], strict=True)
    return mixture_decoder(config, shape, built(kinds, layer))


def _afmoe_experts(config: Config, width: int) -> tuple[Part, ...]:
    experts = sparse_mlp(config, width, gate="router.gate", is_linear=True)
    ffn = config.int("moe_intermediate_size") * config.int("num_shared_experts", 0, least=0)
    bias = Plain("mlp.expert_bias", (config.int("num_experts"),), trainable=False)
    return (*experts, *shared_mlp(width, ffn), bias)


@family("laguna")
def laguna(config: Config) -> ModelSpec:
    """Laguna: its own number of query heads in each layer, gated attention."""
    shape, biased = read_shape(config), config.flag("attention_bias")
    width, n_layers, head_dim = shape.width, shape.n_layers, shape.head_dim
    per_head = config.given("gating") in (None, True, "per-head")

    def layer(kind: tuple[int | None, bool, int]) -> Block:
        window, sparse, n_heads = kind
        gate = n_heads if per_head else n_heads * head_dim
        attn = (
            *grouped_query(shape, qkv_bias=biased, out_bias=biased, window=window, qk_norm=True,
                           n_heads=n_heads),
            Linear("self_attn.g_proj", width, gate, False, "column", n_heads),
        )  # fmt: skip
        mlp: tuple[Part, ...] = dense_mlp(config, shape)
        if sparse:
            bias = (config.int("num_experts"),)
            mlp = (
                *sparse_mlp(config, width),
                Plain("mlp.gate.e_score_correction_bias", bias, trainable=False),
                *shared_mlp(width, config.int("shared_expert_intermediate_size", least=0)),
            )
        return pre_norm_layer(width, attn, mlp, sparse=sparse)

    key = "num_attention_heads_per_layer"
    heads = int_list(config, key) or [shape.n_heads] * n_layers
    if len(heads) != n_layers or min(heads) < 1:
        raise config.error(key, heads, f"{n_layers} positive whole numbers")
    windows = sliding_layers(config, n_layers, lambda _: False)
    kinds = zip(windows, sparse_layers(config, n_layers, 1), heads, strict=True)
    return mixture_decoder(config, shape, built(kinds, layer))


@family("cohere2_moe")
def cohere2_moe(config: Config) -> ModelSpec:
    """Command A MoE: attention and MLP side by side behind one norm."""
    shape, biased = read_shape(config), config.flag("attention_bias")
    width, n_layers, ffn = shape.width, shape.n_layers, config.int("intermediate_size")

    def layer(kind: tuple[int | None, bool]) -> Block:
        window, sparse = kind
        attn = grouped_query(shape, qkv_bias=biased, out_bias=biased, window=window)
        if sparse:
            n_shared = config.int("num_shared_experts", 0, least=0)
            shared = shared_mlp(width, ffn * n_shared) if n_shared else ()
            mlp = (*sparse_mlp(config, width, ffn_key="intermediate_size"), *shared)
        else:
            mlp = shared_mlp(width, config.int("prefix_dense_intermediate_size", ffn), prefix="mlp")
        parts = (rms_norm("input_layernorm", width), *attn, *mlp)
        return Block("moe layer" if sparse else "layer", parts)

    n_dense = config.int("first_k_dense_replace", 0, least=0)
    first = config.int("prefix_dense_sliding_window_pattern", 1)
    rest = config.int("sliding_window_pattern", 4)
    windows = sliding_layers(
        config, n_layers,
        lambda i: (i + 1) % first != 0 if i < n_dense else (i - n_dense + 1) % rest != 0,
    )  # fmt: skip
    kinds = zip(windows, sparse_layers(config, n_layers, n_dense), strict=True)
    return mixture_decoder(config, shape, built(kinds, layer))


@family("ernie4_5_moe")
def ernie4_5_moe(config: Config) -> ModelSpec:
    """ERNIE 4.5: one flag for all biases, the head's too; a frozen correction of the router."""
    shape, biased = read_shape(config), config.flag("use_bias")
    width, n_layers = shape.width, shape.n_layers
    attn = grouped_query(shape, qkv_bias=biased, out_bias=biased)

    def layer(sparse: bool) -> Block:
        if not sparse:
            return pre_norm_layer(width, attn, dense_mlp(config, shape, bias=biased), sparse=False)
        n_shared = config.int("moe_num_shared_experts", 0, least=0)
        ffn = n_shared * config.int("moe_intermediate_size")
        correction = (1, config.int("moe_num_experts"))
        mlp = (
            *sparse_mlp(config, width, n_key="moe_num_experts", k_key="moe_k"),
            Plain("mlp.gate.moe_statics.e_score_correction_bias", correction, trainable=False),
            *(shared_mlp(width, ffn, bias=biased) if n_shared else ()),
        )
        return pre_norm_layer(width, attn, mlp)

    start, every = config.int("moe_layer_start_index", least=0), config.int("moe_layer_interval")
    end = config.given("moe_layer_end_index")
    last = n_layers if end in (None, -1) else config.int("moe_layer_end_index", least=0)
    sparse_at = [(i + 1) % every == 0 and start <= i <= last for i in range(n_layers)]
    return mixture_decoder(config, shape, built(sparse_at, layer), lm_bias=biased)


@family("hunyuan_v1_moe")
def hunyuan_v1_moe(config: Config) -> ModelSpec:
    """Hunyuan-A13B: a shared MLP in every layer; experts per token may differ by layer."""
    shape, biased = read_shape(config), config.flag("attention_bias")
    width, n_experts = shape.width, config.int("num_experts")
    ffn = config.int("intermediate_size")
    norms = (
        Norm("self_attn.query_layernorm", shape.head_dim),
        Norm("self_attn.key_layernorm", shape.head_dim),
    )
    attn = (*grouped_query(shape, qkv_bias=biased, out_bias=biased), *norms)

    def layer(top_k: int) -> Block:
        mlp = (
            router(width, n_experts, "mlp.gate.wg", is_linear=True),
            expert_bank(width, ffn, n_experts, min(top_k, n_experts)),
            *shared_mlp(width, ffn, prefix="mlp.shared_mlp"),
        )
        return pre_norm_layer(width, attn, mlp)

    return mixture_decoder(config, shape, built(_hunyuan_chosen(config, shape, n_experts), layer))


def _hunyuan_chosen(config: Config, shape: Shape, n_experts: int) -> Iterable[int]:
    if not isinstance(config.given("moe_topk"), list):
        return [chosen(config, "moe_topk", n_experts, 1)] * shape.n_layers
    listed = int_list(config, "moe_topk") or []
    if len(listed) < shape.n_layers or min(listed) < 1:
        raise config.error("moe_topk", listed, f"{shape.n_layers} positive whole numbers")
    return listed[: shape.n_layers]


@family("mimo_v2_flash")
def mimo_v2_flash(config: Config) -> ModelSpec:
    """MiMo-V2-Flash: sliding layers with sinks and twice the key heads; narrower values."""
    shape, biased = read_shape(config), config.flag("attention_bias")
    width, n_heads, head_dim = shape.width, shape.n_heads, shape.head_dim
    v_dim = config.int("v_head_dim")

    window = _mimo_window(config)

    def layer(kind: tuple[str, bool]) -> Block:
        slides, sparse = kind[0] == "sliding_attention", kind[1]
        n_kv = shape.n_kv_heads * (2 if slides else 1)
        attn: tuple[Part, ...] = (
            Linear("self_attn.q_proj", width, n_heads * head_dim, biased, "column", n_heads),
            Linear("self_attn.k_proj", width, n_kv * head_dim, biased, "column", n_kv),
            Linear("self_attn.v_proj", width, n_kv * v_dim, biased, "column", n_kv),
            AttentionCore(n_heads, n_kv, head_dim, v_dim, window if slides else None),
            Linear("self_attn.o_proj", n_heads * v_dim, width, False, "row", n_heads),
        )
        if slides:
            attn += (Plain("self_attn.sinks", (n_heads,)),)
        mlp = dense_mlp(config, shape)
        if sparse:
            mlp = sparse_mlp(config, width, n_key="n_routed_experts")
        return pre_norm_layer(width, attn, mlp, sparse=sparse)

    attn_kinds = kinds_by_layer(
        config, "layer_types", shape.n_layers, SLIDING,
        lambda i: SLIDING[i != 0 and (i + 1) % 6 != 0],
    )  # fmt: skip
    kinds = zip(attn_kinds, sparse_layers(config, shape.n_layers, 1), strict=True)
    return mixture_decoder(config, shape, built(kinds, layer))


def _mimo_window(config: Config) -> int | None:
    """The Hub's files count the tokens before the query, transformers the query too."""
    before = config.given("sliding_window_size")
    if before is not None:
        return config.int("sliding_window_size", least=0) + 1
    return nullable_int(config, "sliding_window") or None
