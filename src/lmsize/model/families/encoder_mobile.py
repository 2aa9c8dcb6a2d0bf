"""Encoders made for phones: MobileBERT's bottlenecks, SqueezeBERT's grouped convolutions."""

from __future__ import annotations

from lmsize.model.blocks import layer_norm, lm_head, token_embedding
from lmsize.model.config import Config
from lmsize.model.encoder_blocks import Shape, bert_embedding, bert_heads, encoder, read_shape
from lmsize.model.families.encoder_bert import bert_lm, sentence_pair_heads
from lmsize.model.family import family
from lmsize.model.head_blocks import BERT_LM, pooler, task_head, without
from lmsize.model.parts import AttentionCore, Conv, Embedding, Linear, Part, Plain
from lmsize.model.spec import Block, ModelSpec

MOST_NETWORKS = 1000  # in one layer; they are listed one by one


def _dense_norm(name: str, n_in: int, n_out: int) -> tuple[Part, ...]:
    return (Linear(f"{name}.dense", n_in, n_out, True), layer_norm(f"{name}.LayerNorm", n_out))


def _mobile_layer(config: Config, shape: Shape) -> Block:
    """Attention and several MLPs at the bottleneck's width, projections into and out of it."""
    width, ffn, heads = shape.width, shape.ffn, shape.n_heads
    squeezed = config.flag("use_bottleneck")
    inner = config.int("intra_bottleneck_size") if squeezed else width
    if inner % heads:
        raise config.error("num_attention_heads", heads, f"a divisor of the width {inner}")
    v_in = inner if config.flag("use_bottleneck_attention") else width
    inside, head_dim = "attention.self", inner // heads
    parts: list[Part] = []
    if squeezed:
        parts += _dense_norm("bottleneck.input", width, inner)
        if config.flag("key_query_shared_bottleneck"):
            parts += _dense_norm("bottleneck.attention", width, inner)
    parts += [
        Linear(f"{inside}.query", inner, inner, True, "column", heads),
        Linear(f"{inside}.key", inner, inner, True, "column", heads),
        Linear(f"{inside}.value", v_in, inner, True, "column", heads),
        AttentionCore(heads, heads, head_dim, head_dim, causal=False),
        *_dense_norm("attention.output", inner, inner),
    ]
    n_networks = config.int("num_feedforward_networks")
    if n_networks > MOST_NETWORKS:
        raise config.error("num_feedforward_networks", n_networks, f"at most {MOST_NETWORKS}")
    for i in range(n_networks - 1):
        parts.append(Linear(f"ffn.{i}.intermediate.dense", inner, ffn, True, "column"))
        parts += _dense_norm(f"ffn.{i}.output", ffn, inner)
    parts.append(Linear("intermediate.dense", inner, ffn, True, "column"))
    parts += _dense_norm("output", ffn, inner)
    if squeezed:
        parts += _dense_norm("output.bottleneck", inner, width)
    return Block("layer", tuple(parts))


def _mobile_embedding(config: Config, shape: Shape, narrow: int) -> Block:
    """Narrow tokens, joined with their neighbours and projected to the layers' width."""
    width = shape.width
    joined = 3 * narrow if config.flag("trigram_input") else narrow
    tables = (
        ("position", config.int("max_position_embeddings")),
        ("token_type", config.int("type_vocab_size")),
    )
    extra: list[Part] = [
        Embedding(f"embeddings.{name}_embeddings", n_rows, width) for name, n_rows in tables
    ]
    extra.append(Linear("embeddings.embedding_transformation", joined, width, True))
    extra.append(layer_norm("embeddings.LayerNorm", width))
    return token_embedding(
        config, vocab=shape.vocab, width=narrow, name="embeddings.word_embeddings", extra=extra
    )


def _mobile_lm(config: Config, shape: Shape, narrow: int) -> tuple[Part, ...]:
    """The token table, made as wide as the layers by a second matrix beside it."""
    width, vocab, tied = shape.width, shape.vocab, config.flag("tie_word_embeddings", True)
    if narrow > width:
        raise config.error("embedding_size", narrow, f"at most the width {width}")
    return (
        Linear(BERT_LM.dense, width, width, True),
        layer_norm(BERT_LM.norm, width),
        Linear("cls.predictions.dense", vocab, width - narrow),
        lm_head(width=narrow, vocab=vocab, tied=tied, bias=True, name=BERT_LM.decoder),
        *(() if tied else (Plain(BERT_LM.bias, (vocab,)),)),
    )


@family("mobilebert")
def mobilebert(config: Config) -> ModelSpec:
    """BERT, thin and deep."""
    width, n_layers, n_heads, vocab = config.require(
        "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"
    )
    shape = Shape(width, n_layers, n_heads, vocab, config.int("intermediate_size"))
    narrow = config.int("embedding_size")
    heads = sentence_pair_heads(config, shape, _mobile_lm(config, shape, narrow))
    if not config.flag("classifier_activation", True):
        heads = without(heads, pooler(width))
    return encoder(
        config, shape, embedding=_mobile_embedding(config, shape, narrow),
        layers=[_mobile_layer(config, shape)] * n_layers,
        head=task_head(config, heads, usual="MaskedLM"),
        max_positions=config.int("max_position_embeddings"),
    )  # fmt: skip


@family("squeezebert")
def squeezebert(config: Config) -> ModelSpec:
    """BERT whose matrices are convolutions of width one in groups."""
    shape = read_shape(config)
    width, heads, ffn = shape.width, shape.n_heads, shape.ffn
    if config.int("embedding_size", width) != width:
        raise config.error("embedding_size", config.int("embedding_size"), f"the width {width}")

    def conv(name: str, key: str, n_in: int, n_out: int) -> Linear | Conv:
        n_groups = config.int(key)
        if n_groups == 1:  # a matrix, if not one that adapters look for
            return Linear(name, n_in, n_out, True, adaptable=False)
        if n_in % n_groups or n_out % n_groups:
            raise config.error(key, n_groups, f"a divisor of {n_in} and {n_out}")
        return Conv(name, n_in, n_out, 1, n_groups)

    layer = Block("layer", (
        conv("attention.query", "q_groups", width, width),
        conv("attention.key", "k_groups", width, width),
        conv("attention.value", "v_groups", width, width),
        AttentionCore(heads, heads, shape.head_dim, shape.head_dim, causal=False),
        conv("post_attention.conv1d", "post_attention_groups", width, width),
        layer_norm("post_attention.layernorm", width),
        conv("intermediate.conv1d", "intermediate_groups", width, ffn),
        conv("output.conv1d", "output_groups", ffn, width),
        layer_norm("output.layernorm", width),
    ))  # fmt: skip
    heads_by_task = bert_heads(config, shape, bert_lm(config, shape), first=())
    return encoder(
        config, shape, embedding=bert_embedding(config, shape), layers=[layer] * shape.n_layers,
        head=task_head(config, heads_by_task, usual="MaskedLM", final=[pooler(width)]),
        max_positions=config.int("max_position_embeddings"),
    )  # fmt: skip
