"""Latent attention behind a lightning indexer (DeepSeek sparse attention)."""

from __future__ import annotations

from lmsize.model.blocks import rms_norm
from lmsize.model.config import Config
from lmsize.model.families.latent_deepseek import replaced_layers
from lmsize.model.families.moe_shared import deepseek_experts, dense_mlp
from lmsize.model.family import family
from lmsize.model.latent_blocks import (
    assume_dense,
    bottleneck,
    hyper_connection,
    hyper_head,
    indexer,
    latent_attention,
    latent_shape,
    latent_values,
    read_latent,
)
from lmsize.model.mixture_blocks import (
    Shape,
    built,
    kinds_by_layer,
    mixture_decoder,
    pre_norm_layer,
    sparse_layers,
)
from lmsize.model.parts import Linear, Norm, Part, Plain
from lmsize.model.spec import Block, ModelSpec

INDEXERS = ("full", "shared")


def _mlp(config: Config, shape: Shape, sparse: bool) -> tuple[Part, ...]:
    return deepseek_experts(config, shape.width) if sparse else dense_mlp(config, shape)


@family("deepseek_v32", "glm_moe_dsa")
def deepseek_v32(config: Config) -> ModelSpec:
    """DeepSeek-V3.2, and GLM-5, where some layers reuse the choice of an earlier one."""
    assume_dense(config)
    shape = latent_shape(config)
    dims = read_latent(config, shape.n_heads)
    attn = latent_attention(shape.width, dims, bias=config.flag("attention_bias"))
    index = indexer(config, shape.width, bottleneck(config, dims))

    def layer(kind: tuple[bool, bool]) -> Block:
        own_index, sparse = kind
        parts = (*attn, *index) if own_index else attn
        return pre_norm_layer(shape.width, parts, _mlp(config, shape, sparse), sparse=sparse)

    owns = [True] * shape.n_layers
    if config.model_type == "glm_moe_dsa":
        owns = _glm_indexers(config, shape.n_layers)
    n_dense = config.int("first_k_dense_replace", 3, least=0)
    sparse_at = sparse_layers(config, shape.n_layers, n_dense)
    return mixture_decoder(config, shape, built(zip(owns, sparse_at, strict=True), layer))


def _glm_indexers(config: Config, n_layers: int) -> list[bool]:
    """Which layers have an indexer of their own; the older keys are a pattern or a frequency."""
    listed = config.per_layer("indexer_types", n_layers, INDEXERS)
    pattern = config.given("index_topk_pattern")
    if listed is None and pattern is not None:
        letters = {"F": "full", "S": "shared"}
        words = [letters.get(x, "") for x in pattern] if isinstance(pattern, str) else pattern
        listed = words if isinstance(words, list) else []
        if len(listed) != n_layers or any(kind not in INDEXERS for kind in listed):
            raise config.error("index_topk_pattern", pattern, f"{n_layers} letters, F or S")
    if listed is not None:
        return [kind == "full" for kind in listed]
    every = config.int("index_topk_freq", 1, least=0) or 1
    offset = config.int("index_skip_topk_offset", 2, least=0)
    return [max(i - offset + 1, 0) % every == 0 for i in range(n_layers)]


@family("axk2")
def axk2(config: Config) -> ModelSpec:
    """A.X K2: queries and an output gate from one matrix; norms with a low-rank gate."""
    assume_dense(config)
    shape = latent_shape(config)
    width, dims = shape.width, read_latent(config, shape.n_heads)
    rank, biased = bottleneck(config, dims), config.flag("attention_bias")
    gated = dims.n_heads * (dims.qk + dims.v)
    attn = (
        Linear("self_attn.q_a_proj", width, rank, biased),
        Norm("self_attn.q_a_layernorm", rank),
        Linear("self_attn.q_gate_proj", 2 * rank, gated, False, "column", dims.n_heads),
        *latent_values(width, dims, bias=biased),
        *indexer(config, width, rank),
    )
    before = _gated_norm(config, "input_layernorm", width)

    def layer(sparse: bool) -> Block:
        name = "post_attention_layernorm"
        between = _gated_norm(config, name, width) if sparse else (rms_norm(name, width),)
        parts = (*before, *attn, *between, *_mlp(config, shape, sparse))
        return Block("moe layer" if sparse else "layer", parts)

    return mixture_decoder(config, shape, built(replaced_layers(config, shape), layer))


def _gated_norm(config: Config, name: str, width: int) -> tuple[Part, ...]:
    rank = config.int("gated_norm_rank")
    return (
        Norm(f"{name}.norm", width),
        Linear(f"{name}.mlp.fc1", width, rank),
        Linear(f"{name}.mlp.fc2", rank, width),
    )


@family("hy_v4")
def hy_v4(config: Config) -> ModelSpec:
    """Hunyuan 4: gated attention with sinks, hyper-connected residual streams."""
    assume_dense(config)
    shape = latent_shape(config)
    width, dims = shape.width, read_latent(config, shape.n_heads)
    heads, rank, streams = dims.n_heads, bottleneck(config, dims), config.int("hc_mult")
    attn = (
        *latent_attention(width, dims, bias=config.flag("attention_bias")),
        Linear("self_attn.gate_proj", width, heads * dims.v, False, "column", heads),
        Plain("self_attn.sinks", (heads,)),
    )
    index = indexer(config, width, rank)
    mixers = (
        *hyper_connection("attn_hc", width, streams, 2 * streams, 2),
        *hyper_connection("ffn_hc", width, streams, 2 * streams, 2),
    )

    def layer(kind: tuple[str, bool]) -> Block:
        own_index, sparse = kind[0] == "full", kind[1]
        parts = (*attn, *(index if own_index else ()))
        return pre_norm_layer(width, parts, (*_mlp(config, shape, sparse), *mixers), sparse=sparse)

    owns = kinds_by_layer(
        config, "indexer_types", shape.n_layers, INDEXERS,
        lambda i: INDEXERS[i != 0 and (i - 1) % 4 != 0],
    )  # fmt: skip
    kinds = zip(owns, sparse_layers(config, shape.n_layers, 1), strict=True)
    return mixture_decoder(config, shape, built(kinds, layer), final=hyper_head(width, streams))
