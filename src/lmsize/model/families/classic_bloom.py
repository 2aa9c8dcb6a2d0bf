"""Decoders with ALiBi or rotary positions and fused attention: BLOOM, Falcon, MPT."""

from __future__ import annotations

from lmsize.model.blocks import (
    decoder,
    fused_attention,
    layer_norm,
    lm_head,
    mlp,
    token_embedding,
)
from lmsize.model.config import Config
from lmsize.model.encoder_blocks import Shape, check_heads
from lmsize.model.family import family
from lmsize.model.head_blocks import generic_heads, task_head
from lmsize.model.parts import Norm, Part
from lmsize.model.spec import Block, ModelSpec


def _older(config: Config, old: str, new: str) -> str:
    """The older name of a key where the config gives that one alone."""
    return old if config.has(old) and not config.has(new) else new


def _width_key(config: Config) -> str:
    """`n_embed`, which transformers lets overrule `hidden_size`."""
    return "n_embed" if config.has("n_embed") else "hidden_size"


def _model(
    config: Config, shape: Shape, layer: Block, *, table: str, final: Norm,
    max_positions: int | None, extra: tuple[Part, ...] = (),
) -> ModelSpec:  # fmt: skip
    width, vocab = shape.width, shape.vocab
    lm = lm_head(width=width, vocab=vocab, tied=config.flag("tie_word_embeddings", True))
    return decoder(
        config, width=width, n_layers=shape.n_layers, n_heads=shape.n_heads, vocab=vocab,
        embedding=token_embedding(config, vocab=vocab, width=width, name=table, extra=extra),
        layers=[layer] * shape.n_layers,
        head=task_head(
            config, generic_heads(config, width, [lm]), usual="CausalLM", final=[final]
        ),
        max_positions=max_positions,
    )  # fmt: skip


@family("bloom")
def bloom(config: Config) -> ModelSpec:
    """Pre-norm decoder with ALiBi and a norm of the embeddings."""
    width, n_layers, n_heads, vocab = config.require(
        _width_key(config), "n_layer", "n_head", "vocab_size"
    )
    check_heads(config, "n_head", width, n_heads)
    shape = Shape(width, n_layers, n_heads, vocab, 4 * width)
    layer = Block("layer", (
        layer_norm("input_layernorm", width),
        *fused_attention(
            width=width, n_heads=n_heads, n_kv_heads=n_heads, head_dim=shape.head_dim,
            qkv="self_attention.query_key_value", out="self_attention.dense", qkv_bias=True,
            out_bias=True,
        ),
        layer_norm("post_attention_layernorm", width),
        *mlp(width=width, ffn=shape.ffn, up="mlp.dense_h_to_4h", down="mlp.dense_4h_to_h"),
    ))  # fmt: skip
    return _model(
        config, shape, layer, table="word_embeddings", final=layer_norm("ln_f", width),
        extra=(layer_norm("word_embeddings_layernorm", width),),
        max_positions=config.optional_int("seq_length", least=1),
    )  # fmt: skip


def _falcon_norms(config: Config, width: int, *, new: bool) -> list[Norm]:
    """One norm, two before parallel branches (40B), or two in turn."""
    if not config.flag("parallel_attn", True):
        names = ["input_layernorm", "post_attention_layernorm"]
    elif (config.optional_int("num_ln_in_parallel_attn") or (2 if new else 1)) == 2:
        names = ["ln_attn", "ln_mlp"]
    else:
        names = ["input_layernorm"]
    return [layer_norm(name, width) for name in names]


def _falcon_kv_heads(config: Config, n_heads: int, *, new: bool) -> int:
    if not new:
        return 1 if config.flag("multi_query", True) else n_heads
    key = _older(config, "n_head_kv", "num_kv_heads")
    n_kv_heads = config.optional_int(key, least=1) or n_heads
    if n_heads % n_kv_heads:
        raise config.error(key, n_kv_heads, f"a divisor of the {n_heads} heads")
    return n_kv_heads


@family("falcon", "RefinedWeb", "RefinedWebModel")
def falcon(config: Config) -> ModelSpec:
    """Falcon 7B (one kv head), 40B and 180B (groups, two norms), RW (ALiBi, norms in turn).

    `RefinedWeb` and `RefinedWebModel` are the types that the first checkpoints (40B; 7B) carried,
    with `n_head`, `n_layer` and `n_head_kv`.
    """
    heads_key = _older(config, "n_head", "num_attention_heads")
    width, n_layers, n_heads, vocab = config.require(
        _width_key(config), _older(config, "n_layer", "num_hidden_layers"), heads_key,
        "vocab_size",
    )  # fmt: skip
    check_heads(config, heads_key, width, n_heads)
    new = config.flag("new_decoder_architecture", config.model_type == "RefinedWeb")
    bias = config.flag("bias")
    ffn = config.optional_int("ffn_hidden_size", least=1) or 4 * width
    shape = Shape(width, n_layers, n_heads, vocab, ffn)
    layer = Block("layer", (
        *_falcon_norms(config, width, new=new),
        *fused_attention(
            width=width, n_heads=n_heads, head_dim=shape.head_dim,
            n_kv_heads=_falcon_kv_heads(config, n_heads, new=new),
            qkv="self_attention.query_key_value", out="self_attention.dense", qkv_bias=bias,
            out_bias=bias,
        ),
        *mlp(
            width=width, ffn=ffn, up="mlp.dense_h_to_4h", down="mlp.dense_4h_to_h", bias=bias
        ),
    ))  # fmt: skip
    return _model(
        config, shape, layer, table="word_embeddings", final=layer_norm("ln_f", width),
        max_positions=config.optional_int("max_position_embeddings", least=1),
    )  # fmt: skip


@family("mpt")
def mpt(config: Config) -> ModelSpec:
    """No biases, ALiBi; transformers fixes the feed-forward width at four times the width."""
    width, n_layers, n_heads, vocab = config.require("d_model", "n_layers", "n_heads", "vocab_size")
    check_heads(config, "n_heads", width, n_heads)
    shape = Shape(width, n_layers, n_heads, vocab, 4 * width)
    layer = Block("layer", (
        layer_norm("norm_1", width, bias=False),
        *fused_attention(
            width=width, n_heads=n_heads, n_kv_heads=n_heads, head_dim=shape.head_dim,
            qkv="attn.Wqkv", out="attn.out_proj",
        ),
        layer_norm("norm_2", width, bias=False),
        *mlp(width=width, ffn=shape.ffn, up="ffn.up_proj", down="ffn.down_proj", bias=False),
    ))  # fmt: skip
    return _model(
        config, shape, layer, table="wte", final=layer_norm("norm_f", width, bias=False),
        max_positions=config.int("max_seq_len"),
    )  # fmt: skip
