"""Reformer: reversible layers that look at chunks, or at tokens of the same hash."""

from __future__ import annotations

import math
from typing import Any

from lmsize.model.blocks import layer_norm, lm_head, token_embedding
from lmsize.model.config import Config
from lmsize.model.encoder_blocks import Shape, encoder
from lmsize.model.family import family
from lmsize.model.head_blocks import answer_head, dense_classifier, lm_tasks, task_head
from lmsize.model.parts import AttentionCore, Embedding, Linear, Part, Plain
from lmsize.model.spec import Block, ModelSpec

KINDS = ("local", "lsh")
MOST_LAYERS = 1000


def _kinds(config: Config) -> list[str]:
    """Kinds of the layers; their number is the depth."""
    kinds = config.sequence("attn_layers") if config.has("attn_layers") else None
    if not kinds or len(kinds) > MOST_LAYERS or any(kind not in KINDS for kind in kinds):
        raise config.error("attn_layers", kinds, f"a list of {' and '.join(KINDS)}")
    return kinds


def _is_pair(values: list[Any] | None) -> bool:
    return (
        values is not None
        and len(values) == 2
        and all(isinstance(v, int) and not isinstance(v, bool) and 0 < v < 2**31 for v in values)
    )


def _positions(config: Config, width: int) -> tuple[list[Part], int]:
    """A table of positions, or two small ones whose product covers them all; and how many."""
    n_rows, name = config.int("max_position_embeddings"), "embeddings.position_embeddings"
    if not config.flag("axial_pos_embds", True):
        return [Embedding(f"{name}.embedding", n_rows, width)], n_rows
    shape, widths = config.sequence("axial_pos_shape"), config.sequence("axial_pos_embds_dim")
    if not shape or not _is_pair(shape):
        raise config.error("axial_pos_shape", shape, "two positive whole numbers")
    if not widths or not _is_pair(widths) or sum(widths) != width:
        raise config.error(
            "axial_pos_embds_dim", widths, f"two whole numbers that add up to {width}"
        )
    sizes = ((shape[0], 1, widths[0]), (1, shape[1], widths[1]))
    tables: list[Part] = [Plain(f"{name}.weights.{i}", size) for i, size in enumerate(sizes)]
    return tables, math.prod(shape)


def _window(config: Config, kind: str) -> int:
    """Keys that a token sees: chunks before and after its own, for each hash."""
    length = config.int("lsh_attn_chunk_length" if kind == "lsh" else "local_attn_chunk_length")
    around = config.int(f"{kind}_num_chunks_before", least=0)
    around += config.int(f"{kind}_num_chunks_after", least=0)
    return (1 + around) * length * (config.int("num_hashes") if kind == "lsh" else 1)


def _layer(config: Config, shape: Shape, kind: str) -> Block:
    width, heads, head_dim = shape.width, shape.n_heads, config.int("attention_head_size")
    inside, to = "attention.self_attention", heads * head_dim
    # Hashing needs queries and keys to be the same vectors.
    names = ("query_key", "value") if kind == "lsh" else ("query", "key", "value")
    return Block("layer", (
        layer_norm("attention.layer_norm", width),
        *(Linear(f"{inside}.{n}", width, to, split="column", n_units=heads) for n in names),
        AttentionCore(
            heads, heads, head_dim, head_dim, _window(config, kind), config.flag("is_decoder")
        ),
        Linear("attention.output.dense", to, width, split="row", n_units=heads),
        layer_norm("feed_forward.layer_norm", width),
        Linear("feed_forward.dense.dense", width, shape.ffn, True, "column"),
        Linear("feed_forward.output.dense", shape.ffn, width, True, "row"),
    ))  # fmt: skip


@family("reformer")
def reformer(config: Config) -> ModelSpec:
    """Two streams of the width, joined before the head."""
    width, n_heads, vocab = config.require("hidden_size", "num_attention_heads", "vocab_size")
    kinds = _kinds(config)
    shape = Shape(width, len(kinds), n_heads, vocab, config.int("feed_forward_size"))
    tables, n_positions = _positions(config, width)
    both, labels = 2 * width, config.n_labels
    heads = {
        **lm_tasks([
            lm_head(width=both, vocab=vocab, tied=False, name="lm_head.decoder"),
            Plain("lm_head.bias", (vocab,)),
        ]),
        "Model": (),
        "SequenceClassification": dense_classifier(both, labels, middle=width),
        "QuestionAnswering": answer_head(both, labels),
    }  # fmt: skip
    return encoder(
        config, shape,
        embedding=token_embedding(
            config, vocab=vocab, width=width, name="embeddings.word_embeddings", extra=tables
        ),
        layers=[_layer(config, shape, kind) for kind in kinds],
        head=task_head(
            config, heads, usual="LMHead", final=[layer_norm("encoder.layer_norm", both)]
        ),
        max_positions=n_positions,
    )  # fmt: skip
