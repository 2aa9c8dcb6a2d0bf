"""FSMT (two vocabularies) and ProphetNet (predicts several tokens at once)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from lmsize.model.blocks import attention, layer_norm, lm_head, mlp
from lmsize.model.config import Config
from lmsize.model.families.seq2seq_bart import BARE, CAUSAL, Side, Towers
from lmsize.model.family import family
from lmsize.model.parts import Embedding, Linear, Part
from lmsize.model.seq2seq_blocks import (
    Stack,
    encoder_decoder,
    head_class,
    head_dim,
    without_encoder,
)
from lmsize.model.spec import Block, ModelSpec


@family("fsmt")
def fsmt(config: Config) -> ModelSpec:
    """BART with sinusoids and a vocabulary for each language.

    Every class holds the projection to the target's; tied, all three are the target's table.
    transformers does not call that projection the output embedding, so peft adapts it.
    """
    head_class(config, BARE)
    keys = (f"{s}_{key}" for s in ("encoder", "decoder") for key in ("layers", "attention_heads"))
    width, n_source, source_heads, n_target, target_heads, source, target = config.require(
        "d_model", *keys, "src_vocab_size", "tgt_vocab_size"
    )
    encoder = Side.of(config, "encoder", width, n_source, source_heads)
    decoder = Side.of(config, "decoder", width, n_target, target_heads)
    longest = config.int("max_position_embeddings")
    rows = longest + config.int("pad_token_id", 1, least=0) + 1
    positions = (Embedding("embed_positions", rows, width),)
    tied = config.flag("tie_word_embeddings")
    towers = Towers("Model", target, encoder, decoder)
    lm = Linear("decoder.output_projection", width, target, split="column", tied=tied)
    layers = encoder.layers(*encoder.attention(), *encoder.feed_forward())
    return encoder_decoder(
        config, width=width, n_heads=source_heads,
        encoder=Stack(target if tied else source, layers, positions),
        decoder=Stack(target, decoder.layers(*towers.decoder_layer()), positions),
        head=(lm,), shares_table=tied, max_positions=longest,
    )  # fmt: skip


@family("prophetnet")
def prophetnet(config: Config) -> ModelSpec:
    """Post-norm towers; the decoder runs one stream for each token that it predicts.

    The streams share all weights: each matrix runs once for the text and once for each of the
    `ngram` streams. The scores of those streams are not counted.
    """
    task = head_class(config, CAUSAL)
    alone = task == "CausalLM"
    sides = ("decoder",) if alone else ("encoder", "decoder")
    core = (f"num_{side}_{key}" for side in sides for key in ("layers", "attention_heads"))
    width, *numbers, vocab = config.require("hidden_size", *core, "vocab_size")
    longest, n_streams = config.int("max_position_embeddings"), config.int("ngram")
    before = (
        Embedding("position_embeddings", longest, width),
        layer_norm("embeddings_layer_norm", width),
    )
    streams = Embedding("ngram_embeddings", n_streams, width)
    tied = config.flag("tie_word_embeddings")
    lm = replace(lm_head(width=width, vocab=vocab, tied=tied), per_token=float(n_streams))
    encoder = None
    if not alone:
        layers = (_encoder_layer(config, width, numbers[1]),) * numbers[0]
        encoder = Stack(vocab, layers, before, table="word_embeddings")
    n_layers, n_heads = numbers[-2:]
    layer = _decoder_layer(config, width, n_heads, n_streams, alone=alone)
    return encoder_decoder(
        config, width=width, n_heads=numbers[1], encoder=encoder,
        decoder=Stack(vocab, (layer,) * n_layers, (*before, streams), table="word_embeddings"),
        head=() if task == "Model" else (lm,), shares_table=tied, spare_rows=0 if tied else vocab,
        max_positions=longest, learned_positions=True,
    )  # fmt: skip


def _attention(
    config: Config, side: str, prefix: str, width: int, n_heads: int, *,
    causal: bool = False, cross: bool = False,
) -> tuple[Part, ...]:  # fmt: skip
    split = head_dim(config, f"num_{side}_attention_heads", n_heads, width)
    names = ("query_proj", "key_proj", "value_proj", "out_proj")
    return (
        *attention(
            width=width, n_heads=n_heads, n_kv_heads=n_heads, head_dim=split, prefix=prefix,
            names=names, qkv_bias=True, out_bias=True, causal=causal, cross=cross,
        ),
        layer_norm(f"{prefix}_layer_norm", width),
    )  # fmt: skip


def _feed_forward(config: Config, side: str, width: int) -> tuple[Part, ...]:
    ffn = config.int(f"{side}_ffn_dim")
    up, down = "feed_forward.intermediate", "feed_forward.output"
    norm = layer_norm("feed_forward_layer_norm", width)
    return (*mlp(width=width, ffn=ffn, up=up, down=down), norm)


def _encoder_layer(config: Config, width: int, n_heads: int) -> Block:
    own = _attention(config, "encoder", "self_attn", width, n_heads)
    return Block("layer", (*own, *_feed_forward(config, "encoder", width)))


def _decoder_layer(
    config: Config, width: int, n_heads: int, n_streams: int, *, alone: bool
) -> Block:
    own = _attention(config, "decoder", "self_attn", width, n_heads, causal=True)
    n_buckets = config.int("num_buckets") * n_heads
    relative = Linear("self_attn.relative_pos_embeddings", width, n_buckets, True, "column")
    cross: tuple[Part, ...] = ()
    if config.flag("add_cross_attention"):
        cross = _attention(config, "decoder", "cross_attn", width, n_heads, cross=True)
    feed = _feed_forward(config, "decoder", width)
    if alone:
        cross = without_encoder(cross)
    else:
        cross = tuple(_streamed(cross, n_streams, names=("query_proj", "out_proj")))
    return Block("layer", (*_streamed((relative, *own), n_streams), *cross,
                           *_streamed(feed, n_streams)))  # fmt: skip


def _streamed(
    parts: Iterable[Part], n_streams: int, *, names: tuple[str, ...] = ("",)
) -> Iterable[Part]:
    """The matrices with these names, run once more for each stream."""
    for part in parts:
        if isinstance(part, Linear) and part.name.endswith(names):
            yield replace(part, per_token=1.0 + n_streams)
        else:
            yield part
