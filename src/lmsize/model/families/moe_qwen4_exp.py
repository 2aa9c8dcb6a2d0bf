"""Qwen4-Exp's text decoder: delta rule and indexed attention, n-gram tables, residual streams."""

from __future__ import annotations

from lmsize.model.config import LARGEST, Config
from lmsize.model.family import family
from lmsize.model.latent_blocks import assume_dense, of_indexer
from lmsize.model.mixture_blocks import (
    Shape,
    built,
    grouped_query,
    int_list,
    mixture_decoder,
    read_shape,
    shared_mlp,
    sparse_mlp,
)
from lmsize.model.parts import AttentionCore, Conv, Embedding, Linear, Norm, Part, Plain
from lmsize.model.spec import Block, ModelSpec
from lmsize.model.state_space_blocks import delta_rule

LINEAR, INDEXED = "linear_attention", "indexed_attention"
OLDER = {"full_attention": INDEXED, "qwen_sparse_attention": INDEXED}
MOST_TABLES = 4096  # n-gram tables of all layers together; each takes a search for a prime


@family("qwen4_exp_text")
def qwen4_exp_text(config: Config) -> ModelSpec:
    """Every layer has experts and a gated shared one; some look up hashed n-grams."""
    shape = read_shape(config)
    width, streams = shape.width, config.int("hc_count")
    ffn = config.int("shared_expert_intermediate_size")
    rest = (
        *sparse_mlp(config, width),
        *shared_mlp(width, ffn, prefix="mlp.shared_expert"),
        Linear("mlp.shared_expert_gate", width, 1),
        *_mixer(config, "attn_hyper_connection", width, streams),
        *_mixer(config, "mlp_hyper_connection", width, streams),
    )

    def layer(kind: tuple[str, int | None]) -> Block:
        linear = kind[0] == LINEAR
        mixer = _delta_net(config, width) if linear else _indexed_attention(config, shape)
        grams = () if kind[1] is None else _n_grams(config, width, streams, kind[1])
        return Block("moe layer", (*grams, *mixer, *rest))

    lookups = sorted(set(int_list(config, "ple_layer_ids") or []))  # layers counted from 1
    index = {layer_id - 1: i for i, layer_id in enumerate(lookups)}
    kinds = _kinds(config, shape.n_layers)
    layers = built(((kind, index.get(i)) for i, kind in enumerate(kinds)), layer)
    return mixture_decoder(
        config, shape, layers, norm=Norm("norm", width, weight=False),
        final=_mixer(config, "hyper_connection_mixer", width, streams, inject=False),
    )  # fmt: skip


def _kinds(config: Config, n_layers: int) -> list[str]:
    listed = config.per_layer("layer_types", n_layers, (LINEAR, INDEXED, *OLDER))
    if listed is not None:
        return [OLDER.get(kind, kind) for kind in listed]
    every = config.int("full_attention_interval", 4)
    return [LINEAR if (i + 1) % every else INDEXED for i in range(n_layers)]


def _mixer(
    config: Config, name: str, width: int, streams: int, *, inject: bool = True
) -> tuple[Part, ...]:
    """Reads from the residual streams through a low rank, and writes back to them."""
    wide, rank = streams * width, config.int("hc_lowrank")
    back = (Linear(f"{name}.block_inject_weight", wide, streams),) if inject else ()
    return (
        Norm(f"{name}.hc_norm", wide),
        Linear(f"{name}.input_mix_weight_down", wide, rank),
        Linear(f"{name}.input_mix_weight_up", rank, wide),
        *back,
    )


def _delta_net(config: Config, width: int) -> tuple[Part, ...]:
    """Gated delta rule with a short convolution of queries, keys and values."""
    k_dim, v_dim = config.int("linear_key_head_dim"), config.int("linear_value_head_dim")
    n_k, n_v = config.int("linear_num_key_heads"), config.int("linear_num_value_heads")
    kernel, values = config.int("linear_conv_kernel_dim"), v_dim * n_v
    channels = 2 * k_dim * n_k + values
    name = "linear_attn"
    return (
        Linear(f"{name}.in_proj_qkv", width, channels, False, "column", n_k),
        Linear(f"{name}.in_proj_z", width, values, False, "column", n_v),
        Linear(f"{name}.in_proj_b", width, n_v, False, "column", n_v),
        Linear(f"{name}.in_proj_a", width, n_v, False, "column", n_v),
        Conv(f"{name}.conv1d", channels, channels, kernel, channels, bias=False),
        delta_rule(n_v, k_dim, v_dim, channels, kernel),
        Plain(f"{name}.dt_bias", (n_v,)),
        Plain(f"{name}.A_log", (n_v,)),
        Norm(f"{name}.norm", v_dim),
        Linear(f"{name}.out_proj", values, width, False, "row", n_v),
    )


def _indexed_attention(config: Config, shape: Shape) -> tuple[Part, ...]:
    """Gated attention (the gate comes with the queries) behind an indexer of pooled keys."""
    assume_dense(config)
    biased, width = config.flag("attention_bias"), shape.width
    query, *rest = grouped_query(shape, qkv_bias=biased, out_bias=biased, qk_norm=True)
    assert isinstance(query, Linear)
    gated = Linear(query.name, width, 2 * query.n_out, biased, "column", shape.n_heads)
    n_heads, n_kv = config.int("indexer_n_heads"), config.int("indexer_kv_heads")
    head_dim, name = config.int("indexer_head_dim"), "self_attn.indexer"
    # one key for every `ratio` tokens: its width is divided, as arithmetic counts tokens
    per_token = -(-head_dim // config.int("indexer_compress_ratio"))
    index = of_indexer("pooled", (
        Linear(f"{name}.index_qk_proj", width, (n_heads + n_kv) * head_dim),
        Norm(f"{name}.q_layernorm", head_dim), Norm(f"{name}.k_layernorm", head_dim),
        AttentionCore(n_heads, n_kv, per_token, 0, cache_width=n_kv * per_token),
    ))  # fmt: skip
    return (gated, *rest, *index)


# -- n-gram tables ---------------------------------------------------------------------------


def _n_grams(config: Config, width: int, streams: int, index: int) -> tuple[Part, ...]:
    """Tables of hashed n-grams, whose rows are mixed into the residual streams."""
    n_tables = (config.int("ngram_size", least=2) - 1) * config.int("heads_per_ngram")
    embed, wide = config.int("ple_embed_dim", width), streams * width
    if n_tables * (index + 1) > MOST_TABLES or embed % n_tables:
        raise config.error("heads_per_ngram", n_tables, f"tables that divide {embed} evenly")
    base, unit = config.int("ngram_vocab_size_base"), _padding(config)
    rows = sum(_primes(base, n_tables * (index + 1))[-n_tables:])
    kernel = config.int("ple_conv_kernel_size")
    table = Embedding(
        "ple.ple_embedding.ngram_embedding", -(-rows // unit) * unit, embed // n_tables
    )
    return (
        table,
        Linear("ple.key_proj", embed, wide), Linear("ple.value_proj", embed, width),
        *(Norm(f"ple.norm_{what}", wide) for what in ("key", "query", "conv")),
        Conv("ple.conv1d", wide, wide, kernel, wide, bias=False),
    )  # fmt: skip


def _padding(config: Config) -> int:
    return config.int("make_ngram_vocab_size_divisible_by")


def _primes(start: int, count: int) -> list[int]:
    """The first `count` primes from `start` on: the tables' sizes."""
    found: list[int] = []
    number = max(start, 2)
    while len(found) < count:
        if _is_prime(number):
            found.append(number)
        number += 1
    return found


def _is_prime(number: int) -> bool:
    """Miller-Rabin; these bases leave no doubt below 3.2e9, and sizes end near `LARGEST`."""
    assert number < 1.4 * LARGEST
    small = (2, 3, 5, 7)
    if number < 9 or any(number % p == 0 for p in small):
        return number in small
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in small:
        x = pow(base, odd, number)
        if x in (1, number - 1):
            continue
        if not any(pow(x, 2**r, number) == number - 1 for r in range(1, twos)):
            return False
    return True
