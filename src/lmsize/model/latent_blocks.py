"""Latent attention (DeepSeek's MLA) and what is built on it: the indexer, hyper-connections."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lmsize.model.config import Config
from lmsize.model.mixture_blocks import Shape, is_null
from lmsize.model.parts import AttentionCore, Indexer, Linear, Norm, Part, Plain

Mixer = tuple[Linear, Plain, Plain]
Picking = tuple[Linear | Norm | Plain | AttentionCore, ...]


@dataclass(frozen=True, slots=True)
class Latent:
    """Dimensions of latent attention.

    Attributes:
        q_rank: width of the queries' bottleneck; None for a plain query projection.
        kv_rank: width of the latent that keys and values are expanded from.
        nope, rope: parts of a query or key head without and with rotary positions.
        v: width of a value head.
    """

    n_heads: int
    q_rank: int | None
    kv_rank: int
    nope: int
    rope: int
    v: int

    @property
    def qk(self) -> int:
        """Width of a query or key head."""
        return self.nope + self.rope


def read_latent(config: Config, n_heads: int) -> Latent:
    """The usual keys; ``q_lora_rank`` may be null."""
    return Latent(
        n_heads=n_heads,
        q_rank=None if is_null(config, "q_lora_rank") else config.int("q_lora_rank"),
        kv_rank=config.int("kv_lora_rank"),
        nope=config.int("qk_nope_head_dim", least=0),
        rope=config.int("qk_rope_head_dim", least=0),
        v=config.int("v_head_dim"),
    )


def latent_shape(config: Config, depth_key: str = "num_hidden_layers") -> Shape:
    """Width, depth, heads and vocabulary; heads of latent attention have their own widths."""
    width, n_layers, n_heads, vocab = config.require(
        "hidden_size", depth_key, "num_attention_heads", "vocab_size"
    )
    return Shape(width, n_layers, n_heads, vocab, n_heads, 0)


def latent_queries(
    width: int, dims: Latent, *, bias: bool = False, prefix: str = "self_attn"
) -> tuple[Part, ...]:
    """Queries through a bottleneck, or straight from the width."""
    q_width, heads = dims.n_heads * dims.qk, dims.n_heads
    if dims.q_rank is None:
        return (Linear(f"{prefix}.q_proj", width, q_width, False, "column", heads),)
    return (
        Linear(f"{prefix}.q_a_proj", width, dims.q_rank, bias),
        Norm(f"{prefix}.q_a_layernorm", dims.q_rank),
        Linear(f"{prefix}.q_b_proj", dims.q_rank, q_width, False, "column", heads),
    )


def latent_values(
    width: int, dims: Latent, *, bias: bool = False, prefix: str = "self_attn",
    window: int | None = None,
) -> tuple[Part, ...]:  # fmt: skip
    """Keys and values from one latent, the attention itself and the output projection.

    The cache holds the latent and the rotary key, not the expanded heads.
    """
    heads, expanded = dims.n_heads, dims.n_heads * (dims.nope + dims.v)
    cached = dims.kv_rank + dims.rope
    return (
        Linear(f"{prefix}.kv_a_proj_with_mqa", width, cached, bias),
        Norm(f"{prefix}.kv_a_layernorm", dims.kv_rank),
        Linear(f"{prefix}.kv_b_proj", dims.kv_rank, expanded, False, "column", heads),
        AttentionCore(heads, heads, dims.qk, dims.v, window, cache_width=cached),
        Linear(f"{prefix}.o_proj", heads * dims.v, width, bias, "row", heads),
    )


def latent_attention(
    width: int, dims: Latent, *, bias: bool = False, prefix: str = "self_attn",
    window: int | None = None,
) -> tuple[Part, ...]:  # fmt: skip
    """Multi-head latent attention, whole."""
    queries = latent_queries(width, dims, bias=bias, prefix=prefix)
    return (*queries, *latent_values(width, dims, bias=bias, prefix=prefix, window=window))


def bottleneck(config: Config, dims: Latent) -> int:
    """The indexer reads the queries' bottleneck, so there must be one."""
    if dims.q_rank is None:
        raise config.error("q_lora_rank", None, "a whole number: the indexer reads it")
    return dims.q_rank


def indexer(config: Config, width: int, q_rank: int) -> tuple[Part, ...]:
    """The lightning indexer: cheap heads that score every token before the attention.

    Their keys are one head wide, and cached; they have no values.
    """
    n_heads, head_dim = config.int("index_n_heads"), config.int("index_head_dim")
    prefix = "self_attn.indexer"
    return of_indexer("lightning", (
        Linear(f"{prefix}.wq_b", q_rank, n_heads * head_dim, False, "column", n_heads),
        Linear(f"{prefix}.wk", width, head_dim),
        Norm(f"{prefix}.k_norm", head_dim, True),
        Linear(f"{prefix}.weights_proj", width, n_heads),
        AttentionCore(n_heads, 1, head_dim, 0, cache_width=head_dim),
    ))  # fmt: skip


def of_indexer(kind: Indexer, parts: Picking) -> Picking:
    """The parts as those of an indexer, which no gradient reaches."""
    return tuple(replace(part, indexer=kind) for part in parts)


def assume_dense(config: Config) -> None:
    """Say that picking the best tokens is not taken into account."""
    config.assume(
        "sparse-attention",
        "indexed attention is counted as if every token attended to all tokens before it",
    )


def hyper_connection(name: str, width: int, n_streams: int, n_mixes: int, n_scales: int) -> Mixer:
    """Weights that mix the residual streams: raw parameters, not linear modules."""
    return (
        Linear(f"{name}.fn", n_streams * width, n_mixes, adaptable=False),
        Plain(f"{name}.base", (n_mixes,)),
        Plain(f"{name}.scale", (n_scales,)),
    )


def hyper_head(width: int, n_streams: int) -> Mixer:
    """What joins the residual streams again before the final norm."""
    return (
        Linear("hc_head.hc_fn", n_streams * width, n_streams, adaptable=False),
        Plain("hc_head.hc_base", (n_streams,)),
        Plain("hc_head.hc_scale", (1,)),
    )
