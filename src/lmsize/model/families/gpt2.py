"""GPT-2 and what kept its layer: GPT-SW3, GPT-BigCode (one kv head), the first GPT."""

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
from lmsize.model.head_blocks import generic_heads, sequence_summary, task_head
from lmsize.model.parts import AttentionCore, Buffer, Embedding, Linear, Part
from lmsize.model.spec import Block, ModelSpec

CORE = ("n_embd", "n_layer", "n_head", "vocab_size")


def gpt_shape(config: Config) -> Shape:
    """The sizes under GPT-2's names; a feed-forward width left out is four times the width."""
    width, n_layers, n_heads, vocab = config.require(*CORE)
    check_heads(config, "n_head", width, n_heads)
    ffn = config.optional_int("n_inner", least=1) or 4 * width
    return Shape(width, n_layers, n_heads, vocab, ffn)


def _cross_attention(shape: Shape) -> tuple[Part, ...]:
    """Keys and values of an encoder from one matrix, queries from another."""
    heads, head_dim = shape.n_heads, shape.head_dim
    return (
        layer_norm("ln_cross_attn", shape.width),
        Linear("crossattention.c_attn", shape.width, 2 * shape.width, True, "column", heads),
        Linear("crossattention.q_attn", shape.width, shape.width, True, "column", heads),
        AttentionCore(heads, heads, head_dim, head_dim, causal=False, cross=True),
        Linear("crossattention.c_proj", shape.width, shape.width, True, "row", heads),
    )


def _layer(shape: Shape, *, n_kv_heads: int, cross: bool = False) -> Block:
    return Block("layer", (
        layer_norm("ln_1", shape.width),
        *fused_attention(
            width=shape.width, n_heads=shape.n_heads, n_kv_heads=n_kv_heads,
            head_dim=shape.head_dim, qkv="attn.c_attn", out="attn.c_proj", qkv_bias=True,
            out_bias=True,
        ),
        layer_norm("ln_2", shape.width),
        *(_cross_attention(shape) if cross else ()),
        *mlp(width=shape.width, ffn=shape.ffn, up="mlp.c_fc", down="mlp.c_proj"),
    ))  # fmt: skip


def _model(
    config: Config, shape: Shape, layer: Block, *, tables: tuple[str, str] = ("wte", "wpe"),
    final: bool = True,
) -> ModelSpec:  # fmt: skip
    """Tables of tokens and positions, the layers, a tied head or transformers' others."""
    width, positions = shape.width, config.int("n_positions")
    tied = config.flag("tie_word_embeddings", True)
    lm = (lm_head(width=width, vocab=shape.vocab, tied=tied),)
    # The second of two heads chooses between texts: one label.
    choice = sequence_summary(config, width, 1, name="multiple_choice_head.summary")
    heads = generic_heads(config, width, lm) | {"DoubleHeads": (*lm, *choice)}
    norm = [layer_norm("ln_f", width)] if final else []
    return decoder(
        config, width=width, n_layers=shape.n_layers, n_heads=shape.n_heads, vocab=shape.vocab,
        embedding=token_embedding(
            config, vocab=shape.vocab, width=width, name=tables[0],
            extra=[Embedding(tables[1], positions, width)],
        ),
        layers=[layer] * shape.n_layers,
        head=task_head(config, heads, usual="LMHead", final=norm),
        max_positions=positions, learned_positions=True,
    )  # fmt: skip


@family("gpt2", "gpt-sw3")
def gpt2(config: Config) -> ModelSpec:
    """Pre-norm decoder with LayerNorm, biases everywhere and a two-matrix MLP."""
    shape = gpt_shape(config)
    cross = config.flag("add_cross_attention")
    return _model(config, shape, _layer(shape, n_kv_heads=shape.n_heads, cross=cross))


@family("gpt_bigcode")
def gpt_bigcode(config: Config) -> ModelSpec:
    """GPT-2 whose queries share one key and value (SantaCoder, StarCoder)."""
    shape = gpt_shape(config)
    multi_query, cross = config.flag("multi_query"), config.flag("add_cross_attention")
    if multi_query and cross:
        raise config.error("add_cross_attention", cross, "false where multi_query is true")
    n_kv_heads = 1 if multi_query else shape.n_heads
    return _model(config, shape, _layer(shape, n_kv_heads=n_kv_heads, cross=cross))


@family("openai-gpt")
def openai_gpt(config: Config) -> ModelSpec:
    """The first GPT: norms after attention and MLP, none at the end."""
    width, n_layers, n_heads, vocab = config.require(*CORE)
    check_heads(config, "n_head", width, n_heads)
    shape = Shape(width, n_layers, n_heads, vocab, 4 * width)
    norm, *attention, second, up, down = _layer(shape, n_kv_heads=n_heads).parts
    positions = config.int("n_positions")
    triangle = Buffer("attn.bias", (positions, positions))
    layer = Block("layer", (*attention, triangle, norm, up, down, second))
    return _model(config, shape, layer, tables=("tokens_embed", "positions_embed"), final=False)
