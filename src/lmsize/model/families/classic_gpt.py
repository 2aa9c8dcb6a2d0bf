"""EleutherAI's GPTs and their kin: GPT-Neo, GPT-J, CodeGen, GPT-NeoX (English and Japanese)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lmsize.model.blocks import (
    attention,
    decoder,
    fused_attention,
    layer_norm,
    lm_head,
    mlp,
    token_embedding,
)
from lmsize.model.config import Config
from lmsize.model.encoder_blocks import Shape, read_shape
from lmsize.model.families.gpt2 import gpt_shape
from lmsize.model.family import family
from lmsize.model.head_blocks import answer_head, generic_heads, task_head
from lmsize.model.parts import Buffer, Embedding, Part, Plain
from lmsize.model.spec import Block, ModelSpec

LOCAL = ("global", "local")


def _sinusoids(config: Config, shape: Shape) -> Buffer:
    """Sines and cosines of every position, in fp32 whatever the model is in."""
    width = config.optional_int("rotary_dim", least=1) or shape.width
    return Buffer("attn.embed_positions", (config.int("n_positions"), width), itemsize=4)


def _attention_kinds(config: Config, n_layers: int) -> list[str]:
    """Kinds of GPT-Neo's layers: listed, or as patterns with how often each repeats."""
    listed = config.per_layer("attention_layers", n_layers, LOCAL)
    if listed is not None:
        return listed
    types: list[Any] = config.sequence("attention_types") or [[list(LOCAL), 12]]
    kinds: list[str] = []
    for item in types:
        if not isinstance(item, list) or len(item) != 2 or not isinstance(item[0], list):
            raise config.error("attention_types", types, "pairs of a list of kinds and a number")
        pattern, n = item
        if not isinstance(n, int) or not 0 < n * len(pattern) <= n_layers:
            raise config.error("attention_types", types, f"patterns for {n_layers} layers")
        kinds += pattern * n
    if len(kinds) != n_layers or any(kind not in LOCAL for kind in kinds):
        raise config.error("attention_types", types, f"global or local for {n_layers} layers")
    return kinds


@family("gpt_neo")
def gpt_neo(config: Config) -> ModelSpec:
    """GPT-2 with a window in every other layer and no bias of query, key and value."""
    width, n_layers, n_heads, vocab = config.require(
        "hidden_size", "num_layers", "num_heads", "vocab_size"
    )
    if width % n_heads:
        raise config.error("num_heads", n_heads, f"a divisor of the width {width}")
    ffn = config.optional_int("intermediate_size", least=1) or 4 * width
    shape = Shape(width, n_layers, n_heads, vocab, ffn)
    window, positions = config.int("window_size"), config.int("max_position_embeddings")

    def layer(kind: str) -> Block:
        parts = attention(
            width=width, n_heads=n_heads, n_kv_heads=n_heads, head_dim=shape.head_dim,
            prefix="attn.attention", names=("q_proj", "k_proj", "v_proj", "out_proj"),
            out_bias=True, window=window if kind == "local" else None,
        )  # fmt: skip
        mask = Buffer("attn.attention.bias", (positions, positions), itemsize=1)
        feed_forward = mlp(width=width, ffn=ffn, up="mlp.c_fc", down="mlp.c_proj")
        return Block(
            "layer",
            (layer_norm("ln_1", width), *parts, mask, layer_norm("ln_2", width), *feed_forward),
        )

    lm = lm_head(width=width, vocab=vocab, tied=config.flag("tie_word_embeddings", True))
    return decoder(
        config, width=width, n_layers=n_layers, n_heads=n_heads, vocab=vocab,
        embedding=token_embedding(
            config, vocab=vocab, width=width, name="wte",
            extra=[Embedding("wpe", positions, width)],
        ),
        layers=[layer(kind) for kind in _attention_kinds(config, n_layers)],
        head=task_head(
            config, generic_heads(config, width, [lm]), usual="CausalLM",
            final=[layer_norm("ln_f", width)],
        ),
        max_positions=positions, learned_positions=True,
    )  # fmt: skip


def _parallel(config: Config, shape: Shape, mixing: tuple[Part, ...]) -> ModelSpec:
    """GPT-J's frame: one norm before attention and MLP, a head with a bias."""
    width, vocab = shape.width, shape.vocab
    parts = (
        layer_norm("ln_1", width),
        *mixing,
        *mlp(width=width, ffn=shape.ffn, up="mlp.fc_in", down="mlp.fc_out"),
    )
    tied = config.flag("tie_word_embeddings")
    heads = generic_heads(
        config, width, [lm_head(width=width, vocab=vocab, tied=tied, bias=True)]
    ) | {"QuestionAnswering": answer_head(width, config.n_labels)}
    return decoder(
        config, width=width, n_layers=shape.n_layers, n_heads=shape.n_heads, vocab=vocab,
        embedding=token_embedding(config, vocab=vocab, width=width, name="wte"),
        layers=[Block("layer", parts)] * shape.n_layers,
        head=task_head(config, heads, usual="CausalLM", final=[layer_norm("ln_f", width)]),
        max_positions=config.int("n_positions"),
    )  # fmt: skip


@family("gptj")
def gptj(config: Config) -> ModelSpec:
    """Attention and MLP side by side, rotary positions, no bias in attention."""
    shape = gpt_shape(config)
    mixing = attention(
        width=shape.width, n_heads=shape.n_heads, n_kv_heads=shape.n_heads,
        head_dim=shape.head_dim, prefix="attn",
        names=("q_proj", "k_proj", "v_proj", "out_proj"),
    )  # fmt: skip
    return _parallel(config, shape, (*mixing, _sinusoids(config, shape)))


@family("codegen")
def codegen(config: Config) -> ModelSpec:
    """GPT-J with query, key and value from one matrix."""
    shape = gpt_shape(config)
    mixing = fused_attention(
        width=shape.width, n_heads=shape.n_heads, n_kv_heads=shape.n_heads,
        head_dim=shape.head_dim, qkv="attn.qkv_proj", out="attn.out_proj",
    )  # fmt: skip
    return _parallel(config, shape, (*mixing, _sinusoids(config, shape)))


def _neox(
    config: Config, shape: Shape, *, head: str, tied: bool, attention_bias: bool, mlp_bias: bool,
    last: tuple[Part, ...] = (),
) -> ModelSpec:  # fmt: skip
    """GPT-NeoX's frame; `last` are parts that only the last layer has."""
    width, vocab = shape.width, shape.vocab
    layer = Block("layer", (
        layer_norm("input_layernorm", width),
        *fused_attention(
            width=width, n_heads=shape.n_heads, n_kv_heads=shape.n_heads,
            head_dim=shape.head_dim, qkv="attention.query_key_value", out="attention.dense",
            qkv_bias=attention_bias, out_bias=attention_bias,
        ),
        layer_norm("post_attention_layernorm", width),
        *mlp(
            width=width, ffn=shape.ffn, up="mlp.dense_h_to_4h", down="mlp.dense_4h_to_h",
            bias=mlp_bias,
        ),
    ))  # fmt: skip
    lm = lm_head(width=width, vocab=vocab, tied=tied, name=head)
    return decoder(
        config, width=width, n_layers=shape.n_layers, n_heads=shape.n_heads, vocab=vocab,
        embedding=token_embedding(config, vocab=vocab, width=width, name="embed_in"),
        layers=[
            *[layer] * (shape.n_layers - 1), replace(layer, parts=(*layer.parts, *last)),
        ],
        head=task_head(
            config, generic_heads(config, width, [lm]), usual="CausalLM",
            final=[layer_norm("final_layer_norm", width)],
        ),
        max_positions=config.int("max_position_embeddings"),
    )  # fmt: skip


@family("gpt_neox")
def gpt_neox(config: Config) -> ModelSpec:
    """GPT-NeoX-20B, Pythia: attention and MLP in parallel, two norms, an untied head."""
    return _neox(
        config, read_shape(config), head="lm_head", tied=config.flag("tie_word_embeddings"),
        attention_bias=config.flag("attention_bias", True), mlp_bias=True,
    )  # fmt: skip


@family("gpt_neox_japanese")
def gpt_neox_japanese(config: Config) -> ModelSpec:
    """GPT-NeoX without biases, but one after the last attention."""
    shape = read_shape(config, ffn=config.int("intermediate_multiple_size"))
    return _neox(
        config, shape, head="embed_out", tied=config.flag("tie_word_embeddings", True),
        attention_bias=False, mlp_bias=False,
        last=(Plain("attention.dense_bias", (shape.width,)),),
    )  # fmt: skip
