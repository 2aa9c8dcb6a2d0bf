"""DeepSeek-V4: one shared key-value head, compressed memories and hyper-connections."""

from __future__ import annotations

from lmsize.model.config import Config
from lmsize.model.family import family
from lmsize.model.latent_blocks import Picking, hyper_connection, hyper_head, of_indexer
from lmsize.model.mixture_blocks import (
    Shape,
    built,
    int_list,
    mixture_decoder,
    nullable_int,
    pre_norm_layer,
    read_shape,
    shared_mlp,
    sparse_mlp,
)
from lmsize.model.parts import AttentionCore, Linear, Norm, Part, Plain
from lmsize.model.spec import Block, ModelSpec

SLIDING, SPARSE, HEAVY = (
    "sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention",
)  # fmt: skip
BY_RATIO = {0: SLIDING, 4: SPARSE, 128: HEAVY}
RATES = {SPARSE: 4, HEAVY: 128}


@family("deepseek_v4")
def deepseek_v4(config: Config) -> ModelSpec:
    """Every layer has experts; kinds of attention alternate."""
    config.assume(
        "sparse-attention",
        "compressed attention is counted as if every token attended to all compressed entries",
    )
    shape = read_shape(config)
    width, streams = shape.width, config.int("hc_mult")
    n_mixes = (2 + streams) * streams
    rest = (
        *sparse_mlp(config, width, n_key="n_routed_experts"),
        *shared_mlp(width, config.int("moe_intermediate_size"), bias=config.flag("mlp_bias")),
        *hyper_connection("attn_hc", width, streams, n_mixes, 3),
        *hyper_connection("ffn_hc", width, streams, n_mixes, 3),
    )
    queries, out = _queries(config, shape), _output(config, shape)

    def layer(kind: str) -> Block:
        compressed = _compressor(config, shape, kind) if kind != SLIDING else ()
        return pre_norm_layer(width, (*queries, *compressed, *out), rest)

    layers = built(_kinds(config, shape.n_layers), layer)
    return mixture_decoder(config, shape, layers, final=hyper_head(width, streams))


def _kinds(config: Config, n_layers: int) -> list[str]:
    """``layer_types``, or the Hub's ``compress_ratios`` (which count the MTP layer too)."""
    listed = config.per_layer("layer_types", n_layers, (SLIDING, SPARSE, HEAVY))
    if listed is not None:
        return listed
    ratios = int_list(config, "compress_ratios")
    if ratios is None:
        return [HEAVY if i < 2 or i % 2 == 0 else SPARSE for i in range(n_layers)]
    if len(ratios) < n_layers or any(ratio not in BY_RATIO for ratio in ratios):
        raise config.error("compress_ratios", ratios, f"{n_layers} entries, each 0, 4 or 128")
    return [BY_RATIO[ratio] for ratio in ratios[:n_layers]]


def _rate(config: Config, kind: str) -> int:
    """How many tokens make one compressed entry."""
    short = "compress_rate_csa" if kind == SPARSE else "compress_rate_hca"
    if config.has(short):
        return config.int(short)
    rates = config.section("compress_rates")
    if rates is not None:
        return rates.int(kind)
    return RATES[kind]


def _queries(config: Config, shape: Shape) -> tuple[Part, ...]:
    """Queries through a bottleneck, one vector that is key and value at once, the window."""
    width, heads, head_dim = shape.width, shape.n_heads, shape.head_dim
    rank = config.int("q_lora_rank")
    window = nullable_int(config, "sliding_window") or None
    return (
        Linear("self_attn.q_a_proj", width, rank),
        Norm("self_attn.q_a_norm", rank),
        Linear("self_attn.q_b_proj", rank, heads * head_dim, False, "column", heads),
        Linear("self_attn.kv_proj", width, head_dim),
        Norm("self_attn.kv_norm", head_dim),
        AttentionCore(heads, 1, head_dim, head_dim, window, cache_width=head_dim),
        Plain("self_attn.sinks", (heads,)),
    )


def _output(config: Config, shape: Shape) -> tuple[Part, ...]:
    """The output projection in two steps, the first in groups of heads."""
    groups, rank = config.int("o_groups"), config.int("o_lora_rank")
    q_width = shape.n_heads * shape.head_dim
    if groups > q_width:
        raise config.error("o_groups", groups, f"at most {q_width}, the width of all heads")
    return (
        Linear("self_attn.o_a_proj", q_width // groups, groups * rank, False, "column", groups),
        Linear("self_attn.o_b_proj", groups * rank, shape.width, False, "row", groups),
    )


def _compressor(config: Config, shape: Shape, kind: str) -> tuple[Part, ...]:
    """The memory of compressed entries, and for the sparse kind the indexer that picks them."""
    prefix, rate = "self_attn.compressor", _rate(config, kind)
    if kind == HEAVY:
        return _pooled(prefix, shape, shape.head_dim, 1, rate)
    n_heads, head_dim = config.int("index_n_heads"), config.int("index_head_dim")
    index = f"{prefix}.indexer"
    picking = of_indexer("pooled", (
        *_pooled(index, shape, head_dim, 2, rate, index_heads=n_heads),
        Linear(f"{index}.q_b_proj", config.int("q_lora_rank"), n_heads * head_dim),
        Linear(f"{index}.scorer.weights_proj", shape.width, n_heads),
    ))  # fmt: skip
    return (*_pooled(prefix, shape, shape.head_dim, 2, rate), *picking)


def _pooled(
    prefix: str, shape: Shape, head_dim: int, n_halves: int, rate: int, *, index_heads: int = 0
) -> Picking:
    """Entries that each pool `rate` tokens, and attention to them (an indexer's has no values).

    There is one entry for `rate` tokens; arithmetic and cache know only tokens, so the entry's
    width is divided instead of the number of entries.
    """
    per_token = -(-head_dim // rate)
    value = 0 if index_heads else per_token
    return (
        Linear(f"{prefix}.kv_proj", shape.width, n_halves * head_dim),
        Linear(f"{prefix}.gate_proj", shape.width, n_halves * head_dim),
        Plain(f"{prefix}.position_bias", (rate, n_halves * head_dim)),
        Norm(f"{prefix}.kv_norm", head_dim),
        AttentionCore(index_heads or shape.n_heads, 1, per_token, value, cache_width=per_token),
    )
