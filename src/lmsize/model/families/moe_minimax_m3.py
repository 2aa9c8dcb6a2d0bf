"""MiniMax-M3's text decoder: fused dense MLPs, block-sparse attention with an indexer."""

from __future__ import annotations

from lmsize.model.config import Config
from lmsize.model.family import family
from lmsize.model.latent_blocks import assume_dense, of_indexer
from lmsize.model.mixture_blocks import (
    Shape,
    built,
    grouped_query,
    int_list,
    kinds_by_layer,
    mixture_decoder,
    pre_norm_layer,
    read_shape,
    sparse_mlp,
)
from lmsize.model.parts import AttentionCore, Linear, Norm, Part
from lmsize.model.spec import Block, ModelSpec

KINDS = ("full_attention", "minimax_m3_sparse")


@family("minimax_m3_vl_text", "minimax_m3")
def minimax_m3(config: Config) -> ModelSpec:
    """The Hub calls the decoder alone ``minimax_m3``."""
    if config.model_type == "minimax_m3":
        config = config.typed("minimax_m3_vl_text")
    shape = read_shape(config)
    width = shape.width

    def layer(kind: tuple[str, bool]) -> Block:
        indexed, sparse = kind[0] == KINDS[1], kind[1]
        attn = grouped_query(shape, qk_norm=True)
        if indexed:
            attn += _indexer(config, shape)
        if not sparse:
            dense = _fused_mlp("mlp", width, config.int("dense_intermediate_size"))
            return pre_norm_layer(width, attn, dense, sparse=False)
        experts = sparse_mlp(config, width, n_key="num_local_experts", ffn_key="intermediate_size")
        shared = _fused_mlp("mlp.shared_experts", width, config.int("shared_intermediate_size"))
        return pre_norm_layer(width, attn, (*experts, *shared))

    kinds = zip(_attention_kinds(config, shape.n_layers), _sparse_at(config, shape.n_layers),
                strict=True)  # fmt: skip
    return mixture_decoder(config, shape, built(kinds, layer))


def _fused_mlp(prefix: str, width: int, ffn: int) -> tuple[Part, ...]:
    return (
        Linear(f"{prefix}.gate_up_proj", width, 2 * ffn, False, "column"),
        Linear(f"{prefix}.down_proj", ffn, width, False, "row"),
    )


def _legacy(config: Config, key: str, older: str) -> int:
    """The Hub keeps these keys in a section, under other names."""
    section = config.section("sparse_attention_config")
    if section is not None and section.has(older):
        return section.int(older)
    return config.int(key)


def _indexer(config: Config, shape: Shape) -> tuple[Part, ...]:
    assume_dense(config)
    n_heads = _legacy(config, "index_n_heads", "sparse_num_index_heads")
    head_dim = _legacy(config, "index_head_dim", "sparse_index_dim")
    prefix = "self_attn.indexer"
    return of_indexer("blocks", (
        Linear(f"{prefix}.q_proj", shape.width, n_heads * head_dim, False, "column", n_heads),
        Linear(f"{prefix}.k_proj", shape.width, head_dim),
        Norm(f"{prefix}.q_norm", head_dim),
        Norm(f"{prefix}.k_norm", head_dim),
        AttentionCore(n_heads, 1, head_dim, 0, cache_width=head_dim),
    ))  # fmt: skip


def _switches(config: Config, key: str, n_layers: int) -> list[int] | None:
    values = int_list(config, key)
    if values is not None and len(values) != n_layers:
        raise config.error(key, values, f"{n_layers} entries")
    return values


def _attention_kinds(config: Config, n_layers: int) -> list[str]:
    section = config.section("sparse_attention_config")
    freq = _switches(section, "sparse_attention_freq", n_layers) if section else None
    return kinds_by_layer(
        config, "layer_types", n_layers, KINDS, lambda i: KINDS[bool(freq and freq[i])]
    )


def _sparse_at(config: Config, n_layers: int) -> list[bool]:
    freq = _switches(config, "moe_layer_freq", n_layers)
    kinds = kinds_by_layer(
        config, "mlp_layer_types", n_layers, ("dense", "sparse"),
        lambda i: "sparse" if freq is None or freq[i] else "dense",
    )  # fmt: skip
    return [kind == "sparse" for kind in kinds]
