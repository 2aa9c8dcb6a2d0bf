"""BERT-like encoders with other positions: MPNet's shared bias, RoFormer's and ESM's rotations."""

from __future__ import annotations

from lmsize.model.blocks import attention, layer_norm, lm_head, mlp
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
from lmsize.model.families.encoder_roberta import roberta_heads, usable_positions
from lmsize.model.family import family
from lmsize.model.head_blocks import (
    BERT_LM,
    ROBERTA_LM,
    answer_head,
    dense_classifier,
    lm_transform,
    task_head,
)
from lmsize.model.parts import Embedding, Linear, Part, Plain
from lmsize.model.spec import Block, ModelSpec


@family("mpnet")
def mpnet(config: Config) -> ModelSpec:
    """RoBERTa with a bias by distance that all layers share."""
    shape = read_shape(config)
    layer = Block("layer", (
        *attention(
            width=shape.width, n_heads=shape.n_heads, n_kv_heads=shape.n_heads,
            head_dim=shape.head_dim, prefix="attention.attn", names=("q", "k", "v", "o"),
            qkv_bias=True, out_bias=True, causal=False,
        ),
        layer_norm("attention.LayerNorm", shape.width),
        *mlp(width=shape.width, ffn=shape.ffn, up="intermediate.dense", down="output.dense"),
        layer_norm("output.LayerNorm", shape.width),
    ))  # fmt: skip
    n_buckets = config.int("relative_attention_num_buckets")
    bias = Embedding("encoder.relative_attention_bias", n_buckets, shape.n_heads)
    return encoder(
        config, shape, embedding=bert_embedding(config, shape, n_types=0, extra=[bias]),
        layers=[layer] * shape.n_layers,
        head=task_head(config, roberta_heads(config, shape), usual="MaskedLM"),
        max_positions=usable_positions(config),
    )  # fmt: skip


@family("roformer")
def roformer(config: Config) -> ModelSpec:
    """BERT with rotary positions, kept as a frozen table, and an embedding of its own width."""
    shape = read_shape(config)
    narrow = config.optional_int("embedding_size", least=1) or shape.width
    positions = config.int("max_position_embeddings")
    extra: list[Part] = []
    if narrow != shape.width:
        extra.append(Linear("embeddings_project", narrow, shape.width, True))
    extra.append(Embedding("encoder.embed_positions", positions, shape.head_dim, trainable=False))
    lm = lm_transform(
        BERT_LM, width=shape.width, vocab=shape.vocab, embedding=narrow,
        tied=config.flag("tie_word_embeddings", True),
    )  # fmt: skip
    heads = bert_heads(config, shape, lm, first=()) | {
        "SequenceClassification": dense_classifier(shape.width, config.n_labels),
        "QuestionAnswering": answer_head(shape.width),
    }
    return encoder(
        config, shape,
        embedding=bert_embedding(config, shape, width=narrow, n_positions=0, extra=extra),
        layers=[bert_layer(shape, flags=decoder_flags(config))] * shape.n_layers,
        head=task_head(config, heads, usual="MaskedLM"), max_positions=positions,
    )  # fmt: skip


def _esm_heads(config: Config, shape: Shape) -> dict[str, tuple[Part, ...]]:
    tied = config.flag("tie_word_embeddings", True)
    lm = (
        Linear(ROBERTA_LM.dense, shape.width, shape.width, True),
        layer_norm(ROBERTA_LM.norm, shape.width),
        lm_head(width=shape.width, vocab=shape.vocab, tied=tied, name=ROBERTA_LM.decoder),
        Plain(ROBERTA_LM.bias, (shape.vocab,)),
    )
    classify = dense_classifier(shape.width, config.n_labels)
    return bert_heads(config, shape, lm) | {"SequenceClassification": classify}


@family("esm")
def esm(config: Config) -> ModelSpec:
    """Protein language model: pre-norm BERT, with a head that reads contacts off attention."""
    shape = read_shape(config)
    absolute = config.text("position_embedding_type") == "absolute"
    positions = config.int("max_position_embeddings")
    before = config.flag("emb_layer_norm_before")
    contacts = Linear(
        "contact_head.regression", shape.n_layers * shape.n_heads, 1, True, per_token=0.0
    )
    layer = bert_layer(
        shape, flags=decoder_flags(config), norms=("attention.LayerNorm", "LayerNorm"),
        norms_first=True,
    )  # fmt: skip
    embedding = bert_embedding(
        config, shape, n_positions=positions if absolute else 0, n_types=0, norm=False,
        extra=[layer_norm("embeddings.layer_norm", shape.width)] if before else (),
    )  # fmt: skip
    after = layer_norm("encoder.emb_layer_norm_after", shape.width)
    return encoder(
        config, shape, embedding=embedding, layers=[layer] * shape.n_layers,
        head=task_head(
            config, _esm_heads(config, shape), usual="MaskedLM", final=[after, contacts]
        ),
        max_positions=positions, learned_positions=absolute,
    )  # fmt: skip
