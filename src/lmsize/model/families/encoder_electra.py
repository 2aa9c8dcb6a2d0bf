"""Encoders with an embedding narrower than their layers: ELECTRA, ConvBERT, ALBERT; DistilBERT."""

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
from lmsize.model.family import family
from lmsize.model.head_blocks import (
    LmNames,
    dense_classifier,
    discriminator_head,
    label_head,
    lm_transform,
    pooler,
    sequence_summary,
    task_head,
)
from lmsize.model.parts import AttentionCore, Conv, Linear, Part, Plain
from lmsize.model.spec import Block, ModelSpec, Run

ALBERT_LM = LmNames(
    "predictions.dense", "predictions.LayerNorm", "predictions.decoder", "predictions.bias"
)


def _electra_heads(config: Config, shape: Shape, narrow: int) -> dict[str, tuple[Part, ...]]:
    width, labels = shape.width, config.n_labels
    tied = config.flag("tie_word_embeddings", True)
    lm = (
        Linear("generator_predictions.dense", width, narrow, True),
        layer_norm("generator_predictions.LayerNorm", narrow),
        lm_head(width=narrow, vocab=shape.vocab, tied=tied, bias=True, name="generator_lm_head"),
    )
    return bert_heads(config, shape, lm, first=()) | {
        "SequenceClassification": dense_classifier(width, labels),
        "MultipleChoice": (*sequence_summary(config, width, labels), label_head(width, 1)),
        "PreTraining": discriminator_head(width),
    }


def _widened(config: Config, shape: Shape, narrow: int) -> Block:
    """An embedding of `narrow` features, projected where the layers are wider."""
    widen = [Linear("embeddings_project", narrow, shape.width, True)]
    extra = widen if narrow != shape.width else []
    return bert_embedding(config, shape, width=narrow, extra=extra)


@family("electra")
def electra(config: Config) -> ModelSpec:
    """BERT's layers over a narrow embedding; a generator's or a discriminator's head."""
    shape, narrow = read_shape(config), config.int("embedding_size")
    return encoder(
        config, shape, embedding=_widened(config, shape, narrow),
        layers=[bert_layer(shape, flags=decoder_flags(config))] * shape.n_layers,
        head=task_head(config, _electra_heads(config, shape, narrow), usual="MaskedLM"),
        max_positions=config.int("max_position_embeddings"),
    )  # fmt: skip


def _grouped(config: Config, name: str, n_in: int, n_out: int) -> Part:
    """A matrix, or as many smaller ones side by side as there are groups."""
    n_groups = config.int("num_groups")
    if n_groups == 1:
        return Linear(name, n_in, n_out, True)
    if n_in % n_groups or n_out % n_groups:
        raise config.error("num_groups", n_groups, f"a divisor of {n_in} and {n_out}")
    return Conv(name, n_in, n_out, 1, n_groups)


def _convbert_layer(config: Config, shape: Shape) -> Block:
    """Half of the width attends, the other half is a convolution with a kernel per token."""
    width, kernel = shape.width, config.int("conv_kernel_size")
    n_heads = max(shape.n_heads // config.int("head_ratio"), 1)
    if width % n_heads:
        raise config.error("head_ratio", config.int("head_ratio"), "heads that divide the width")
    half, inside = n_heads * (width // n_heads // 2), "attention.self"
    projections = (
        Linear(f"{inside}.{name}", width, half, True, "column", n_heads)
        for name in ("query", "key", "value")
    )
    return Block("layer", (
        *projections,
        AttentionCore(n_heads, n_heads, half // n_heads, half // n_heads, causal=False),
        Conv(f"{inside}.key_conv_attn_layer.depthwise", width, width, kernel, width, bias=False),
        Conv(f"{inside}.key_conv_attn_layer.pointwise", width, half, 1, bias=False),
        Plain(f"{inside}.key_conv_attn_layer.bias", (half, 1)),
        Linear(f"{inside}.conv_kernel_layer", half, n_heads * kernel, True),
        Linear(f"{inside}.conv_out_layer", width, half, True),
        Linear("attention.output.dense", width, width, True, "row", n_heads),
        layer_norm("attention.output.LayerNorm", width),
        _grouped(config, "intermediate.dense", width, shape.ffn),
        _grouped(config, "output.dense", shape.ffn, width),
        layer_norm("output.LayerNorm", width),
    ))  # fmt: skip


@family("convbert")
def convbert(config: Config) -> ModelSpec:
    """ELECTRA's frame around layers that mix attention and convolution."""
    shape, narrow = read_shape(config), config.int("embedding_size")
    return encoder(
        config, shape, embedding=_widened(config, shape, narrow),
        layers=[_convbert_layer(config, shape)] * shape.n_layers,
        head=task_head(config, _electra_heads(config, shape, narrow), usual="MaskedLM"),
        max_positions=config.int("max_position_embeddings"),
    )  # fmt: skip


@family("albert")
def albert(config: Config) -> ModelSpec:
    """One layer's weights (or a few groups') used by all layers."""
    shape, narrow = read_shape(config), config.int("embedding_size")
    width, inner = shape.width, config.int("inner_group_num")
    layer = Block("layer", (
        *attention(
            width=width, n_heads=shape.n_heads, n_kv_heads=shape.n_heads,
            head_dim=shape.head_dim, prefix="attention", names=("query", "key", "value", "dense"),
            qkv_bias=True, out_bias=True, causal=False,
        ),
        layer_norm("attention.LayerNorm", width),
        *mlp(width=width, ffn=shape.ffn, up="ffn", down="ffn_output"),
        layer_norm("full_layer_layer_norm", width),
    ))  # fmt: skip
    widen = Linear("encoder.embedding_hidden_mapping_in", narrow, width, True)
    lm = lm_transform(
        ALBERT_LM, width=width, vocab=shape.vocab, embedding=narrow,
        tied=config.flag("tie_word_embeddings", True),
    )  # fmt: skip
    first, labels = pooler(width, "pooler"), config.n_labels
    order = label_head(width, labels, name="sop_classifier.classifier")
    heads = bert_heads(config, shape, lm, first=[first]) | {"PreTraining": (first, *lm, order)}
    return encoder(
        config, shape, embedding=bert_embedding(config, shape, width=narrow, extra=[widen]),
        layers=Run(layer, shape.n_layers * inner, config.int("num_hidden_groups") * inner),
        head=task_head(config, heads, usual="MaskedLM"),
        max_positions=config.int("max_position_embeddings"),
    )  # fmt: skip


@family("distilbert")
def distilbert(config: Config) -> ModelSpec:
    """Half of BERT's layers; no token types, no pooler."""
    shape = read_shape(config, keys=("dim", "n_layers", "n_heads", "vocab_size"), ffn="hidden_dim")
    width, tied = shape.width, config.flag("tie_word_embeddings", True)
    layer = Block("layer", (
        *attention(
            width=width, n_heads=shape.n_heads, n_kv_heads=shape.n_heads,
            head_dim=shape.head_dim, prefix="attention",
            names=("q_lin", "k_lin", "v_lin", "out_lin"), qkv_bias=True, out_bias=True,
            causal=False,
        ),
        layer_norm("sa_layer_norm", width),
        *mlp(width=width, ffn=shape.ffn, up="ffn.lin1", down="ffn.lin2"),
        layer_norm("output_layer_norm", width),
    ))  # fmt: skip
    lm = (
        Linear("vocab_transform", width, width, True),
        layer_norm("vocab_layer_norm", width),
        lm_head(width=width, vocab=shape.vocab, tied=tied, bias=True, name="vocab_projector"),
    )
    dense = pooler(width, "pre_classifier")
    heads = bert_heads(config, shape, lm, first=[dense]) | {"Model": ()}
    return encoder(
        config, shape, embedding=bert_embedding(config, shape, n_types=0),
        layers=[layer] * shape.n_layers, head=task_head(config, heads, usual="MaskedLM"),
        max_positions=config.int("max_position_embeddings"),
    )  # fmt: skip
