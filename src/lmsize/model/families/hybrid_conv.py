"""Short convolutions or lightning attention among full attention: LFM2, LFM3, MiniMax-Text."""

from __future__ import annotations

from collections.abc import Iterable

from lmsize.model.blocks import attention, gated_mlp, rms_norm
from lmsize.model.config import LARGEST, Config
from lmsize.model.family import family
from lmsize.model.mixture_blocks import (
    Shape,
    built,
    grouped_query,
    int_list,
    is_null,
    kinds_by_layer,
    mixture_decoder,
    nullable_int,
    pre_norm_layer,
    read_shape,
    sparse_mlp,
)
from lmsize.model.parts import Buffer, Conv, Linear, Norm, Part, Scan
from lmsize.model.spec import Block, ModelSpec
from lmsize.model.state_space_blocks import FULL, LINEAR, decayed_outer_product, mixer_kinds

SLIDING = "sliding_attention"
OLDER_KEYS = {"tie_embedding": "tie_word_embeddings", "block_ff_dim": "intermediate_size"}


@family("lfm2", "lfm2_moe")
def lfm2(config: Config) -> ModelSpec:
    """LFM2: gated short convolutions, some attention; in the mixture, all but the first MLPs."""
    given = {new: config.raw[old] for old, new in OLDER_KEYS.items() if config.has(old)}
    config = config.replacing(given)
    shape = read_shape(config)
    kinds = _lfm2_kinds(config, shape.n_layers)
    mixers = {FULL: _named_attention(shape), "conv": short_conv(config, shape.width)}
    n_dense = shape.n_layers
    if config.model_type == "lfm2_moe":
        n_dense = config.int("num_dense_layers", least=0)
    sparse = [i >= n_dense for i in range(shape.n_layers)]

    def layer(kind: tuple[str, bool]) -> Block:
        is_sparse = kind[1]
        ffn = (
            sparse_mlp(config, shape.width, prefix="feed_forward")
            if is_sparse
            else _mlp(shape.width, _lfm2_ffn(config))
        )
        return _layer(shape.width, mixers[kind[0]], ffn, kind[0], sparse=is_sparse)

    layers = built(zip(kinds, sparse, strict=True), layer)
    return mixture_decoder(config, shape, layers, norm=rms_norm("embedding_norm", shape.width))


def _lfm2_kinds(config: Config, n_layers: int) -> list[str]:
    attends = int_list(config, "full_attn_idxs")
    listed = attends is not None or config.model_type == "lfm2" or config.has("layer_types")
    if not listed:
        raise config.error("layer_types", None, "a list with the kind of each layer")
    indices = set(range(n_layers) if attends is None else attends)
    default = [FULL if i in indices else "conv" for i in range(n_layers)]
    return mixer_kinds(config, n_layers, (FULL, "conv"), default)


def _lfm2_ffn(config: Config) -> int:
    """The MLP's width, which LFM2 derives from the key unless told otherwise."""
    ffn = config.int("intermediate_size")
    if config.model_type != "lfm2" or not config.flag("block_auto_adjust_ff_dim"):
        return ffn
    ffn = int(2 * ffn / 3)
    if not is_null(config, "block_ffn_dim_multiplier"):
        unit = config.int("block_multiple_of")
        ffn = int(config.number("block_ffn_dim_multiplier") * ffn)
        ffn = unit * ((ffn + unit - 1) // unit)
    if not 1 <= ffn <= LARGEST:
        raise config.error("intermediate_size", config.int("intermediate_size"), "a usable width")
    return ffn


def _mlp(width: int, ffn: int) -> tuple[Part, ...]:
    return gated_mlp(width=width, ffn=ffn, prefix="feed_forward", names=("w1", "w3", "w2"))


def _named_attention(shape: Shape) -> tuple[Part, ...]:
    names = ("q_proj", "k_proj", "v_proj", "out_proj")
    return (
        *attention(
            width=shape.width, n_heads=shape.n_heads, n_kv_heads=shape.n_kv_heads,
            head_dim=shape.head_dim, names=names,
        ),
        Norm("self_attn.q_layernorm", shape.head_dim),
        Norm("self_attn.k_layernorm", shape.head_dim),
    )  # fmt: skip


def short_conv(config: Config, width: int) -> tuple[Part, ...]:
    """A convolution of each channel, multiplied by one gate before and another after it."""
    kernel, bias = config.int("conv_L_cache"), config.flag("conv_bias")
    return (
        Linear("conv.in_proj", width, 3 * width, bias, "column", width),
        Conv("conv.conv", width, width, kernel, width, bias),
        Scan(width * kernel, 2 * width),
        Linear("conv.out_proj", width, width, bias, "row"),
    )


def _layer(
    width: int, mixer: Iterable[Part], ffn: Iterable[Part], kind: str, *, sparse: bool = False,
    sandwich: bool = False,
) -> Block:  # fmt: skip
    names = {FULL: "attention", SLIDING: "sliding attention", "conv": "convolution"}
    after = [
        (rms_norm(name, width),) if sandwich else ()
        for name in ("post_operator_norm", "post_ffn_norm")
    ]
    return Block(
        f"{names[kind]} {'moe ' if sparse else ''}layer",
        (
            rms_norm("operator_norm", width), *mixer, *after[0],
            rms_norm("ffn_norm", width), *ffn, *after[1],
        ),
    )  # fmt: skip


@family("lfm3")
def lfm3(config: Config) -> ModelSpec:
    """LFM3: convolutions, full and sliding attention with a gate a head, norms on either side."""
    shape = read_shape(config)
    kinds = kinds_by_layer(
        config, "layer_types", shape.n_layers, (FULL, SLIDING, "conv"), _lfm3_kind
    )
    bias, ffn = config.flag("attention_bias"), config.int("intermediate_size")
    gate: tuple[Part, ...] = ()
    if config.flag("use_attention_gate"):
        gate = (Linear("self_attn.g_proj", shape.width, shape.n_heads, split="column"),)

    def mixer(kind: str) -> tuple[Part, ...]:
        if kind == "conv":
            return short_conv(config, shape.width)
        window = (nullable_int(config, "sliding_window") or None) if kind == SLIDING else None
        attn = grouped_query(shape, qkv_bias=bias, out_bias=bias, qk_norm=True, window=window)
        return (*attn, *gate)

    sandwich = config.flag("use_sandwich_norm")
    layers = built(
        kinds,
        lambda k: _layer(shape.width, mixer(k), _mlp(shape.width, ffn), k, sandwich=sandwich),
    )
    return mixture_decoder(config, shape, layers, norm=rms_norm("embedding_norm", shape.width))


def _lfm3_kind(i: int) -> str:
    if i % 4 == 2:
        return FULL
    return SLIDING if i % 4 == 0 and i else "conv"


@family("minimax", "minimax_text_01", "minimax_m1")
def minimax(config: Config) -> ModelSpec:
    """MiniMax-Text-01: lightning and softmax attention, experts in every layer."""
    shape = read_shape(config)
    window = nullable_int(config, "sliding_window") or None
    mixers = {FULL: grouped_query(shape, window=window), LINEAR: _lightning(shape)}
    ffn = sparse_mlp(config, shape.width, n_key="num_local_experts", ffn_key="intermediate_size")
    names = {LINEAR: "linear attention moe layer", FULL: "attention moe layer"}
    layers = built(
        _minimax_kinds(config, shape.n_layers),
        lambda k: Block(names[k], pre_norm_layer(shape.width, mixers[k], ffn).parts),
    )
    return mixture_decoder(config, shape, layers)


def _minimax_kinds(config: Config, n_layers: int) -> list[str]:
    """By ``layer_types``, by ``attn_type_list`` as released (1 is softmax), else by turns."""
    listed = int_list(config, "attn_type_list")
    if listed is not None and len(listed) != n_layers:
        raise config.error("attn_type_list", listed, f"{n_layers} entries of 0 and 1")
    attends = listed or [int(i % 2 == 0) for i in range(n_layers)]
    return mixer_kinds(config, n_layers, (LINEAR, FULL), [FULL if a else LINEAR for a in attends])


def _lightning(shape: Shape) -> tuple[Part, ...]:
    width, heads, inner = shape.width, shape.n_heads, shape.n_heads * shape.head_dim
    scan = decayed_outer_product(heads, shape.head_dim, shape.head_dim)
    block = scan.chunk
    return (
        Norm("self_attn.norm", inner),
        Linear("self_attn.qkv_proj", width, 3 * inner, False, "column", heads),
        Buffer("self_attn.slope_rate", (heads, 1, 1)),
        Buffer("self_attn.query_decay", (heads, block, 1)),
        Buffer("self_attn.key_decay", (heads, block, 1)),
        Buffer("self_attn.diagonal_decay", (heads, block, block)),
        scan,
        Linear("self_attn.out_proj", inner, width, False, "row", heads),
        Linear("self_attn.output_gate", width, inner, False, "column", heads),
    )
