"""Gemma 3n and Gemma 4 (text): embeddings for every layer, caches and heads that layers share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import replace as with_changes

from lmsize.model.blocks import attention, gated_mlp, rms_norm
from lmsize.model.config import Config
from lmsize.model.family import family
from lmsize.model.mixture_blocks import (
    Shape,
    built,
    chosen,
    expert_bank,
    int_list,
    is_null,
    kinds_by_layer,
    mixture_decoder,
    nullable_int,
    read_shape,
)
from lmsize.model.parts import AttentionCore, Embedding, Linear, Norm, Part, Plain
from lmsize.model.spec import Block, ModelSpec

FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True, slots=True)
class Heads:
    """One layer's attention: its kind, its heads, and whether it reuses an earlier cache."""

    kind: str
    n_kv_heads: int
    head_dim: int
    reuses: bool


def _attention(
    config: Config, shape: Shape, heads: Heads, *, k_eq_v: bool = False
) -> tuple[Part, ...]:
    """Queries and keys are normed; a layer that reuses a cache has no keys and values."""
    bias = config.flag("attention_bias")
    bidirectional = config.given("use_bidirectional_attention")
    causal = bidirectional != "all" or config.model_type == "gemma3n_text"
    window = config.int("sliding_window") if heads.kind == SLIDING else None
    parts: tuple[Part, ...] = attention(
        width=shape.width, n_heads=shape.n_heads, n_kv_heads=heads.n_kv_heads,
        head_dim=heads.head_dim, qkv_bias=bias, out_bias=bias,
        window=window if causal or window is None else window // 2 + 1, causal=causal,
    )  # fmt: skip
    norms = ["self_attn.q_norm", "self_attn.k_norm"]
    if heads.reuses:
        parts, norms = tuple(_without_keys(parts)), norms[:1]
    elif k_eq_v and heads.kind == FULL:
        parts = tuple(p for p in parts if getattr(p, "name", "") != "self_attn.v_proj")
    bare = () if heads.reuses else (Norm("self_attn.v_norm", heads.head_dim, weight=False),)
    return (*parts, *(Norm(name, heads.head_dim) for name in norms), *bare)


def _without_keys(parts: tuple[Part, ...]) -> Iterator[Part]:
    for part in parts:
        if isinstance(part, AttentionCore):
            yield with_changes(part, cache_width=0)
        elif not (isinstance(part, Linear) and part.name.endswith((".k_proj", ".v_proj"))):
            yield part


def _reusing(config: Config, kinds: list[str]) -> list[bool]:
    """Which layers read the cache of the last layer of their kind before them."""
    n_shared = config.int("num_kv_shared_layers", least=0)
    first = len(kinds) - n_shared
    if n_shared and set(kinds[: max(first, 0)]) != set(kinds):
        raise config.error(
            "num_kv_shared_layers", n_shared, "so few that a layer of each kind keeps a cache"
        )
    return [bool(n_shared) and i >= first for i in range(len(kinds))]


def _four_norms(
    width: int, attn: tuple[Part, ...], mlp: tuple[Part, ...], extra: tuple[Part, ...]
) -> tuple[Part, ...]:
    return (
        rms_norm("input_layernorm", width), *attn, rms_norm("post_attention_layernorm", width),
        rms_norm("pre_feedforward_layernorm", width), *mlp,
        rms_norm("post_feedforward_layernorm", width), *extra,
    )  # fmt: skip


def _layer_input(width: int, narrow: int) -> tuple[Part, ...]:
    """What a layer does with its own embedding of the token."""
    return (
        Linear("per_layer_input_gate", width, narrow),
        Linear("per_layer_projection", narrow, width),
        rms_norm("post_per_layer_input_norm", width),
    )


def _layer_embeddings(config: Config, shape: Shape, narrow: int) -> tuple[Part, ...]:
    """A second token table that holds an embedding for every layer."""
    rows, all_layers = config.int("vocab_size_per_layer_input"), shape.n_layers * narrow
    return (
        Embedding("embed_tokens_per_layer", rows, all_layers, is_vocabulary=True),
        Linear("per_layer_model_projection", shape.width, all_layers),
        rms_norm("per_layer_projection_norm", narrow),
    )


@family("gemma3n_text")
def gemma3n(config: Config) -> ModelSpec:
    """Gemma 3n: alternating updates of several residual streams, low-rank side paths."""
    shape = read_shape(config)
    width = shape.width
    kinds = kinds_by_layer(
        config, "layer_types", shape.n_layers, (FULL, SLIDING),
        lambda i: SLIDING if (i + 1) % 5 else FULL,
    )  # fmt: skip
    ffns = _widths(config, shape.n_layers)
    narrow, streams = config.int("hidden_size_per_layer_input"), config.int("altup_num_inputs")
    extra = (*_streams(config, width, streams), *_layer_input(width, narrow))

    def layer(key: tuple[str, bool, int]) -> Block:
        heads = Heads(key[0], shape.n_kv_heads, shape.head_dim, key[1])
        mlp = gated_mlp(width=width, ffn=key[2])
        return Block(_name(heads), _four_norms(width, _attention(config, shape, heads), mlp, extra))

    layers = built(zip(kinds, _reusing(config, kinds), ffns, strict=True), layer)
    into, out = (
        (Linear(f"altup_{n}projections", width, width, n_modules=streams - 1),)
        if streams > 1
        else ()
        for n in ("", "unembed_")
    )
    before = (*_layer_embeddings(config, shape, narrow), *into)
    return mixture_decoder(config, shape, layers, extra=before, final=out)


def _name(heads: Heads) -> str:
    kind = "attention" if heads.kind == FULL else "sliding attention"
    return f"{kind} layer without cache" if heads.reuses else f"{kind} layer"


def _widths(config: Config, n_layers: int) -> list[int]:
    """The MLP's width of each layer: one number for all, or a list."""
    if not isinstance(config.given("intermediate_size"), list):
        return [config.int("intermediate_size")] * n_layers
    widths = int_list(config, "intermediate_size") or []
    if len(widths) != n_layers or not all(widths):
        raise config.error("intermediate_size", widths, f"a number, or a list of {n_layers}")
    return widths


def _streams(config: Config, width: int, n: int) -> tuple[Part, ...]:
    rank = config.int("laurel_rank")
    return (
        Plain("altup.correct_output_scale", (width,)),
        Linear("altup.correction_coefs", n, n),
        Linear("altup.prediction_coefs", n, n * n),
        Linear("altup.modality_router", width, n),
        rms_norm("altup.router_norm", width),
        Linear("laurel.linear_left", width, rank),
        Linear("laurel.linear_right", rank, width),
        rms_norm("laurel.post_laurel_norm", width),
    )


@family("gemma4_text", "gemma4_unified_text")
def gemma4(config: Config) -> ModelSpec:
    """Gemma 4: wider heads in full layers; experts beside the MLP, if any."""
    shape = read_shape(config)
    width = shape.width
    kinds = kinds_by_layer(
        config, "layer_types", shape.n_layers, (FULL, SLIDING),
        lambda i: SLIDING if (i + 1) % 6 else FULL,
    )  # fmt: skip
    kinds = [*kinds[:-1], FULL]  # as the class insists
    narrow = config.int("hidden_size_per_layer_input", 0, least=0)
    extra = _layer_input(width, narrow) if narrow else ()
    ffn, k_eq_v = config.int("intermediate_size"), config.flag("attention_k_eq_v")
    is_mixture = config.flag("enable_moe_block")
    experts = _experts(config, width) if is_mixture else ()

    def layer(heads: Heads) -> Block:
        doubled = heads.reuses and config.flag("use_double_wide_mlp")
        mlp = gated_mlp(width=width, ffn=2 * ffn if doubled else ffn)
        attn = _attention(config, shape, heads, k_eq_v=k_eq_v)
        name = _name(heads).replace("layer", "moe layer") if is_mixture else _name(heads)
        return Block(name, (*_four_norms(width, attn, mlp, extra), *experts))

    before = _layer_embeddings(config, shape, narrow) if narrow else ()
    layers = built(_heads(config, shape, kinds), layer)
    return mixture_decoder(config, shape, layers, extra=before)


def _experts(config: Config, width: int) -> tuple[Part, ...]:
    n_experts = config.int("num_experts")
    top_k = chosen(config, "top_k_experts", n_experts)
    norms = ("post_feedforward_layernorm_1", "post_feedforward_layernorm_2")
    return (
        Linear("router.proj", width, n_experts),
        Plain("router.scale", (width,)),
        Plain("router.per_expert_scale", (n_experts,)),
        expert_bank(width, config.int("moe_intermediate_size"), n_experts, top_k, name="experts"),
        *(rms_norm(name, width) for name in (*norms, "pre_feedforward_layernorm_2")),
    )


def _heads(config: Config, shape: Shape, kinds: list[str]) -> list[Heads]:
    """Full layers have heads of ``global_head_dim``; a saved config says it layer by layer."""
    reuses = _reusing(config, kinds)
    listed = config.section("per_layer_config")
    if listed is not None:
        return [
            _listed_heads(
                listed.section(str(i)), Heads(kind, shape.n_kv_heads, shape.head_dim, reuse)
            )
            for i, (kind, reuse) in enumerate(zip(kinds, reuses, strict=True))
        ]
    full_dim, full_kv = config.int("global_head_dim", 512), shape.n_kv_heads
    if config.flag("attention_k_eq_v") and not is_null(config, "num_global_key_value_heads"):
        full_kv = nullable_int(config, "num_global_key_value_heads") or full_kv
    return [
        Heads(kind, full_kv, full_dim, reuse)
        if kind == FULL
        else Heads(kind, shape.n_kv_heads, shape.head_dim, reuse)
        for kind, reuse in zip(kinds, reuses, strict=True)
    ]


def _listed_heads(own: Config | None, heads: Heads) -> Heads:
    if own is None:
        return heads
    n_kv_heads, head_dim = (
        own.int(key) if own.has(key) else usual
        for key, usual in (("num_key_value_heads", heads.n_kv_heads), ("head_dim", heads.head_dim))
    )
    return Heads(heads.kind, n_kv_heads, head_dim, heads.reuses)
