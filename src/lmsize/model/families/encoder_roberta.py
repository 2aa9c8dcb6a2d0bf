"""RoBERTa and its translations, its pre-norm variants, X-MOD's adapters, I-BERT, LUKE."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from lmsize.model.blocks import layer_norm, lm_head
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
from lmsize.model.family import family
from lmsize.model.head_blocks import (
    ROBERTA_LM,
    dense_classifier,
    label_head,
    lm_tasks,
    lm_transform,
    pooler,
    task_head,
)
from lmsize.model.parts import Embedding, Linear, Part, Plain
from lmsize.model.spec import Block, ModelSpec


def roberta_heads(config: Config, shape: Shape) -> dict[str, tuple[Part, ...]]:
    """RoBERTa's heads: a classifier of two layers, and a pooler where there is none."""
    tied = config.flag("tie_word_embeddings", True)
    lm = lm_transform(ROBERTA_LM, width=shape.width, vocab=shape.vocab, tied=tied)
    return bert_heads(config, shape, lm) | {
        "SequenceClassification": dense_classifier(shape.width, config.n_labels)
    }


def usable_positions(config: Config) -> int:
    """Longest sequence: positions are counted from behind the padding's."""
    padding = config.raw.get("pad_token_id", 1)
    skipped = padding + 1 if isinstance(padding, int) and padding >= 0 else 0
    return max(config.int("max_position_embeddings") - skipped, 1)


def roberta_like(
    config: Config, shape: Shape, *, layer: Block, embedding: Block | None = None,
    final: Iterable[Part] = (),
) -> ModelSpec:  # fmt: skip
    """An encoder with RoBERTa's heads and positions."""
    return encoder(
        config, shape, embedding=embedding or bert_embedding(config, shape),
        layers=[layer] * shape.n_layers,
        head=task_head(config, roberta_heads(config, shape), usual="MaskedLM", final=final),
        max_positions=usable_positions(config),
    )  # fmt: skip


@family("roberta", "camembert", "xlm-roberta", "data2vec-text")
def roberta(config: Config) -> ModelSpec:
    """BERT's layers under RoBERTa's heads."""
    shape = read_shape(config)
    return roberta_like(config, shape, layer=bert_layer(shape, flags=decoder_flags(config)))


@family("roberta-prelayernorm")
def roberta_prelayernorm(config: Config) -> ModelSpec:
    """RoBERTa with norms before attention and feed-forward, and one at the end."""
    shape = read_shape(config)
    norms = ("attention.LayerNorm", "intermediate.LayerNorm")
    layer = bert_layer(shape, flags=decoder_flags(config), norms=norms, norms_first=True)
    return roberta_like(config, shape, layer=layer, final=[layer_norm("LayerNorm", shape.width)])


@family("xlm-roberta-xl")
def xlm_roberta_xl(config: Config) -> ModelSpec:
    """Pre-norm too, and no norm of the embeddings."""
    shape = read_shape(config)
    norms = ("attention.self_attn_layer_norm", "LayerNorm")
    layer = bert_layer(shape, flags=decoder_flags(config), norms=norms, norms_first=True)
    return roberta_like(
        config, shape, layer=layer,
        embedding=bert_embedding(config, shape, norm=False),
        final=[layer_norm("encoder.LayerNorm", shape.width)],
    )  # fmt: skip


@family("xmod")
def xmod(config: Config) -> ModelSpec:
    """RoBERTa with an adapter for each language in every layer; a token passes through one."""
    shape = read_shape(config)
    languages = config.sequence("languages") or []
    if not languages or len(languages) > 10_000:
        raise config.error("languages", len(languages), "a list of 1 to 10000 languages")
    narrow, n = shape.width // config.int("adapter_reduction_factor", 2), len(languages)
    if not narrow:
        raise config.error(
            "adapter_reduction_factor", config.int("adapter_reduction_factor", 2),
            f"at most the width {shape.width}",
        )  # fmt: skip
    adapters = "output.adapter_modules"
    extra: list[Part] = [
        Linear(f"{adapters}.dense1", shape.width, narrow, True, n_modules=n, per_token=1 / n),
        Linear(f"{adapters}.dense2", narrow, shape.width, True, n_modules=n, per_token=1 / n),
    ]
    if config.flag("adapter_layer_norm"):
        extra.append(layer_norm("output.adapter_layer_norm", shape.width))
    final = [layer_norm("encoder.LayerNorm", shape.width)] if config.flag("pre_norm") else []
    layer = bert_layer(shape, flags=decoder_flags(config), extra=extra)
    return roberta_like(config, shape, layer=layer, final=final)


@family("ibert")
def ibert(config: Config) -> ModelSpec:
    """RoBERTa with layers of its own kind for integers, which adapters do not find."""
    shape = read_shape(config)
    layer = bert_layer(shape)
    parts = (replace(p, adaptable=False) if isinstance(p, Linear) else p for p in layer.parts)
    return roberta_like(config, shape, layer=Block(layer.name, tuple(parts)))


def _luke_embedding(config: Config, shape: Shape) -> Block:
    narrow = config.int("entity_emb_size")
    extra: list[Part] = [
        Embedding("entity_embeddings.entity_embeddings", config.int("entity_vocab_size"), narrow)
    ]
    if narrow != shape.width:
        extra.append(Linear("entity_embeddings.entity_embedding_dense", narrow, shape.width))
    positions, types = config.int("max_position_embeddings"), config.int("type_vocab_size")
    extra += [
        Embedding("entity_embeddings.position_embeddings", positions, shape.width),
        Embedding("entity_embeddings.token_type_embeddings", types, shape.width),
        layer_norm("entity_embeddings.LayerNorm", shape.width),
    ]
    return bert_embedding(config, shape, extra=extra)


def _luke_lm(config: Config, shape: Shape) -> tuple[Part, ...]:
    """Words (never tied, but for the bias) and entities."""
    tied, narrow = config.flag("tie_word_embeddings", True), config.int("entity_emb_size")
    n_entities, to = config.int("entity_vocab_size"), "entity_predictions"
    words = lm_transform(ROBERTA_LM, width=shape.width, vocab=shape.vocab, tied=tied)
    matrix = lm_head(
        width=shape.width, vocab=shape.vocab, tied=False, bias=True, name=ROBERTA_LM.decoder
    )
    return (
        *(matrix if isinstance(p, Linear) and p.name == matrix.name else p for p in words),
        Linear(f"{to}.transform.dense", shape.width, narrow, True, per_token=0.0),
        layer_norm(f"{to}.transform.LayerNorm", narrow),
        Linear(f"{to}.decoder", narrow, n_entities, tied=tied, per_token=0.0),
        Plain(f"{to}.bias", (n_entities,)),
    )


@family("luke")
def luke(config: Config) -> ModelSpec:
    """RoBERTa over words and entities, which have their own table and queries.

    A text has entities only where they are given: their matrices do no work per token.
    """
    shape, width = read_shape(config), config.int("hidden_size")
    extra: tuple[Part, ...] = ()
    if config.flag("use_entity_aware_attention", True):
        extra = tuple(
            Linear(f"attention.self.{pair}_query", width, width, True, "column", shape.n_heads,
                   per_token=0.0)
            for pair in ("w2e", "e2w", "e2e")
        )  # fmt: skip
    first, labels = pooler(width), config.n_labels
    heads = bert_heads(config, shape, (), first=[first]) | {
        **lm_tasks((first, *_luke_lm(config, shape))),
        "EntityClassification": (first, label_head(width, labels)),
        "EntityPairClassification": (first, label_head(2 * width, labels, bias=False)),
        "EntitySpanClassification": (first, label_head(3 * width, labels)),
    }
    return encoder(
        config, shape, embedding=_luke_embedding(config, shape),
        layers=[bert_layer(shape, extra=extra)] * shape.n_layers,
        head=task_head(config, heads, usual="MaskedLM"),
        max_positions=usable_positions(config),
    )  # fmt: skip
