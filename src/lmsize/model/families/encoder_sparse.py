"""Encoders that see less than every pair of tokens: Longformer, BigBird, Nystromformer, FNet ..."""

from __future__ import annotations

from typing import Any

from lmsize.model.blocks import layer_norm, mlp
from lmsize.model.config import Config
from lmsize.model.encoder_blocks import (
    Shape,
    bert_embedding,
    bert_heads,
    bert_layer,
    decoder_flags,
    encoder,
    read_shape,
)
from lmsize.model.families.encoder_bert import bert_lm, sentence_pair_heads
from lmsize.model.families.encoder_roberta import roberta_heads, usable_positions
from lmsize.model.family import family
from lmsize.model.head_blocks import (
    answer_head,
    dense_classifier,
    label_head,
    pooler,
    task_head,
    without,
)
from lmsize.model.parts import Linear, Part, Plain
from lmsize.model.spec import Block, ModelSpec

PAST_PADDING = 2  # rows that position tables keep for padding beyond the longest sequence


def _is_width(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31


def _windows(config: Config, n_layers: int) -> list[int]:
    """Keys that a token of each layer sees: `attention_window` is one number or one a layer."""
    given = config.given("attention_window")
    if not isinstance(given, list):
        return [config.int("attention_window")] * n_layers
    if len(given) != n_layers or not all(_is_width(window) for window in given):
        raise config.error("attention_window", given, f"{n_layers} positive whole numbers")
    return given


@family("longformer")
def longformer(config: Config) -> ModelSpec:
    """RoBERTa with a window, and second projections for the few tokens that see everything."""
    shape = read_shape(config)
    names = (f"attention.self.{name}_global" for name in ("query", "key", "value"))
    extra = [
        Linear(name, shape.width, shape.width, True, "column", shape.n_heads, per_token=0.0)
        for name in names
    ]
    windows = _windows(config, shape.n_layers)
    return encoder(
        config, shape, embedding=bert_embedding(config, shape),
        layers=[bert_layer(shape, window=window, extra=extra) for window in windows],
        head=task_head(config, roberta_heads(config, shape), usual="MaskedLM"),
        max_positions=usable_positions(config),
    )  # fmt: skip


def _big_bird_heads(config: Config, shape: Shape) -> dict[str, tuple[Part, ...]]:
    width = shape.width
    first, lm = pooler(width, "pooler"), bert_lm(config, shape)
    answer = (
        *mlp(width=width, ffn=shape.ffn, up="qa_classifier.intermediate.dense",
             down="qa_classifier.output.dense"),
        layer_norm("qa_classifier.output.LayerNorm", width),
        label_head(width, 2, name="qa_classifier.qa_outputs", per_token=1.0),
    )  # fmt: skip
    heads = bert_heads(config, shape, lm, first=()) | {
        "SequenceClassification": dense_classifier(width, config.n_labels),
        "PreTraining": (*lm, Linear("cls.seq_relationship", width, 2, True, per_token=0.0)),
    }
    pooled = {task: (first, *parts) for task, parts in heads.items()}
    return pooled | {"QuestionAnswering": answer}


@family("big_bird")
def big_bird(config: Config) -> ModelSpec:
    """BERT whose tokens see two global blocks, three neighbours and some random ones."""
    shape = read_shape(config)
    window = None
    if config.text("attention_type") == "block_sparse":
        window = (5 + config.int("num_random_blocks", least=0)) * config.int("block_size")
    layer = bert_layer(
        shape, flags=decoder_flags(config), bias=config.flag("use_bias"), window=window
    )
    return encoder(
        config, shape, embedding=bert_embedding(config, shape), layers=[layer] * shape.n_layers,
        head=task_head(config, _big_bird_heads(config, shape), usual="MaskedLM"),
        max_positions=config.int("max_position_embeddings"),
    )  # fmt: skip


def _approximate(config: Config, *, convolution: str = "", window: int | None = None) -> ModelSpec:
    """BERT with approximate attention, perhaps a convolution of the values beside it.

    `convolution` is the key of the length of its kernel, null for none; `window` the number of
    keys that a token sees in effect.
    """
    shape, width = read_shape(config), config.int("hidden_size")
    positions = config.int("max_position_embeddings")
    kernel = config.optional_int(convolution, least=1) if convolution else None
    extra: list[Part] = []
    if kernel:
        extra.append(Plain("attention.self.conv.weight", (shape.n_heads, 1, kernel, 1)))
    heads = bert_heads(config, shape, bert_lm(config, shape), first=()) | {
        "SequenceClassification": dense_classifier(width, config.n_labels),
        "MultipleChoice": (pooler(width, "pre_classifier"), label_head(width, 1)),
        "QuestionAnswering": answer_head(width),
    }
    return encoder(
        config, shape,
        embedding=bert_embedding(config, shape, n_positions=positions + PAST_PADDING),
        layers=[bert_layer(shape, window=window, extra=extra)] * shape.n_layers,
        head=task_head(config, heads, usual="MaskedLM"), max_positions=positions,
    )  # fmt: skip


@family("nystromformer")
def nystromformer(config: Config) -> ModelSpec:
    """Attention through landmarks: every token against them, and they against every token."""
    return _approximate(
        config, convolution="conv_kernel_size", window=2 * config.int("num_landmarks")
    )


@family("yoso")
def yoso(config: Config) -> ModelSpec:
    """Attention by hashing; counted as full attention, its bound."""
    return _approximate(config, convolution="conv_window")


@family("mra")
def mra(config: Config) -> ModelSpec:
    """Multi-resolution attention: a few blocks of 32 tokens for each row of blocks."""
    return _approximate(config, window=32 * config.int("block_per_row"))


@family("fnet")
def fnet(config: Config) -> ModelSpec:
    """Fourier transforms in place of attention: no heads, no cache, no matrices for mixing."""
    width, n_layers, vocab = config.require("hidden_size", "num_hidden_layers", "vocab_size")
    shape = Shape(width, n_layers, 1, vocab, config.int("intermediate_size"))
    projection = Linear("embeddings.projection", width, width, True)
    layer = Block("layer", (
        layer_norm("fourier.output.LayerNorm", width),
        *mlp(width=width, ffn=shape.ffn, up="intermediate.dense", down="output.dense"),
        layer_norm("output.LayerNorm", width),
    ))  # fmt: skip
    first = pooler(width)
    heads = sentence_pair_heads(config, shape, bert_lm(config, shape))
    return encoder(
        config, shape, embedding=bert_embedding(config, shape, extra=[projection]),
        layers=[layer] * n_layers,
        head=task_head(config, without(heads, first), usual="MaskedLM", final=[first]),
        max_positions=config.int("max_position_embeddings"),
    )  # fmt: skip
