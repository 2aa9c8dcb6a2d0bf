"""BERT and the encoders that keep its layer and change what surrounds it."""

from __future__ import annotations

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
    unused,
)
from lmsize.model.family import family
from lmsize.model.head_blocks import BERT_LM, lm_tasks, lm_transform, pooler, task_head, task_of
from lmsize.model.parts import Embedding, Linear, Part, Plain
from lmsize.model.spec import ModelSpec


def bert_lm(config: Config, shape: Shape) -> tuple[Part, ...]:
    """BERT's language-model head."""
    tied = config.flag("tie_word_embeddings", True)
    return lm_transform(BERT_LM, width=shape.width, vocab=shape.vocab, tied=tied)


def sentence_pair_heads(
    config: Config, shape: Shape, lm: tuple[Part, ...]
) -> dict[str, tuple[Part, ...]]:
    """BERT's heads, with those of its pre-training: whether one sentence follows another."""
    next_sentence = Linear("cls.seq_relationship", shape.width, 2, True, per_token=0.0)
    pooled = pooler(shape.width)
    return {
        **bert_heads(config, shape, lm),
        "PreTraining": (pooled, *lm, next_sentence),
        "NextSentencePrediction": (pooled, next_sentence),
    }


@family("bert", "ernie")
def bert(config: Config) -> ModelSpec:
    """Post-norm encoder with learned positions; ERNIE adds a table of tasks."""
    shape = read_shape(config)
    extra: tuple[Part, ...] = ()
    if config.model_type == "ernie" and config.flag("use_task_id"):
        n_tasks = config.int("task_type_vocab_size")
        extra = (Embedding("embeddings.task_type_embeddings", n_tasks, shape.width),)
    heads = sentence_pair_heads(config, shape, bert_lm(config, shape))
    return encoder(
        config, shape, embedding=bert_embedding(config, shape, extra=extra),
        layers=[bert_layer(shape, flags=decoder_flags(config))] * shape.n_layers,
        head=task_head(config, heads, usual="MaskedLM"),
        max_positions=config.int("max_position_embeddings"),
    )  # fmt: skip


@family("megatron-bert")
def megatron_bert(config: Config) -> ModelSpec:
    """BERT with its norms moved before attention and feed-forward, and one at the end."""
    shape = read_shape(config)
    layer = bert_layer(
        shape, flags=decoder_flags(config), norms=("attention.ln", "ln"), norms_first=True
    )
    heads = sentence_pair_heads(config, shape, bert_lm(config, shape))
    final = layer_norm("encoder.ln", shape.width)
    return encoder(
        config, shape, embedding=bert_embedding(config, shape, norm=False),
        layers=[layer] * shape.n_layers,
        head=task_head(config, heads, usual="MaskedLM", final=[final]),
        max_positions=config.int("max_position_embeddings"),
    )  # fmt: skip


@family("bert-generation")
def bert_generation(config: Config) -> ModelSpec:
    """BERT as half of an encoder-decoder: no types, no pooler, a bare projection."""
    shape = read_shape(config)
    tied = config.flag("tie_word_embeddings", True)
    lm: list[Part] = [
        lm_head(width=shape.width, vocab=shape.vocab, tied=tied, bias=True, name="lm_head.decoder")
    ]
    if not tied:
        lm.append(Plain("lm_head.bias", (shape.vocab,)))
    heads = {**lm_tasks(lm), "Model": ()}
    return encoder(
        config, shape, embedding=bert_embedding(config, shape, n_types=0),
        layers=[bert_layer(shape, flags=decoder_flags(config))] * shape.n_layers,
        head=task_head(config, heads, usual="LMHead"),
        max_positions=config.int("max_position_embeddings"),
    )  # fmt: skip


def _beside_words(config: Config) -> tuple[list[Embedding], list[Embedding]]:
    """RoCBERT's tables of shapes and sounds: those that are put beside words, and those left out."""
    kinds = (("shape", "shape_embed"), ("pronunciation", "pronunciation_embed"))
    made: tuple[list[Embedding], list[Embedding]] = ([], [])
    for kind, name in kinds:
        rows, width = config.int(f"{kind}_vocab_size"), config.int(f"{kind}_embed_dim")
        is_read = config.flag("concat_input", True) and config.flag(f"enable_{kind}", True)
        made[not is_read].append(Embedding(f"embeddings.{name}", rows, width))
    return made


@family("roc_bert")
def roc_bert(config: Config) -> ModelSpec:
    """BERT over Chinese characters, their pronunciation and their shape."""
    shape = read_shape(config)
    joined, left = _beside_words(config)
    before: list[Part] = list(joined)
    if config.flag("concat_input", True):
        wide = shape.width + sum(table.width for table in joined)
        before.append(Linear("embeddings.map_inputs_layer", wide, shape.width, True))
    lm = bert_lm(config, shape)
    heads = bert_heads(config, shape, lm)
    return encoder(
        config, shape, embedding=bert_embedding(config, shape, before=before),
        extra_towers=(unused(*left, name="beside words"),) if left else (),
        layers=[bert_layer(shape, flags=decoder_flags(config))] * shape.n_layers,
        head=task_head(
            config, heads | {"PreTraining": (pooler(shape.width), *lm)}, usual="MaskedLM"
        ),
        max_positions=config.int("max_position_embeddings"),
    )  # fmt: skip


@family("rembert")
def rembert(config: Config) -> ModelSpec:
    """BERT with a narrow input embedding and a wide output one, never tied."""
    shape = read_shape(config)
    narrow, wide = config.int("input_embedding_size"), config.int("output_embedding_size")
    widen = Linear("encoder.embedding_hidden_mapping_in", narrow, shape.width, True)
    lm: tuple[Part, ...] = (
        Linear("cls.predictions.dense", shape.width, wide, True),
        layer_norm("cls.predictions.LayerNorm", wide),
        lm_head(width=wide, vocab=shape.vocab, tied=False, bias=True, name=BERT_LM.decoder),
    )
    return encoder(
        config, shape, embedding=bert_embedding(config, shape, width=narrow, extra=[widen]),
        layers=[bert_layer(shape, flags=decoder_flags(config))] * shape.n_layers,
        head=task_head(config, bert_heads(config, shape, lm), usual="MaskedLM"),
        max_positions=config.int("max_position_embeddings"),
    )  # fmt: skip


@family("layoutlm")
def layoutlm(config: Config) -> ModelSpec:
    """BERT with tables of where a word stands on the page; the pooler is in every class."""
    shape = read_shape(config)
    n_places = config.int("max_2d_position_embeddings")
    places = [
        Embedding(f"embeddings.{axis}_position_embeddings", n_places, shape.width)
        for axis in ("x", "y", "h", "w")
    ]
    heads = bert_heads(config, shape, bert_lm(config, shape))
    is_pooled = pooler(shape.width) in heads.get(task_of(config), ())
    return encoder(
        config, shape, embedding=bert_embedding(config, shape, extra=places),
        layers=[bert_layer(shape)] * shape.n_layers,
        head=task_head(config, heads, usual="MaskedLM"),
        max_positions=config.int("max_position_embeddings"),
        extra_towers=() if is_pooled else (unused(pooler(shape.width)),),
    )  # fmt: skip


@family("tapas")
def tapas(config: Config) -> ModelSpec:
    """BERT over tables: seven kinds of token types, a head that picks cells."""
    shape = read_shape(config)
    sizes = config.sequence("type_vocab_sizes") or []
    if not all(isinstance(n, int) and not isinstance(n, bool) and 0 < n < 2**31 for n in sizes):
        raise config.error("type_vocab_sizes", sizes, "a list of positive whole numbers")
    types = [
        Embedding(f"embeddings.token_type_embeddings_{i}", n, shape.width)
        for i, n in enumerate(sizes)
    ]
    heads = bert_heads(config, shape, bert_lm(config, shape))
    cells: list[Part] = [pooler(shape.width)]
    cells += [Plain("output_weights", (shape.width,)), Plain("output_bias", ())]
    cells += [Plain("column_output_weights", (shape.width,)), Plain("column_output_bias", ())]
    n_operators = config.int("num_aggregation_labels", least=0)
    if n_operators:
        # Not under one of the names that adapters leave alone, so it is adaptable.
        cells.append(
            Linear("aggregation_classifier", shape.width, n_operators, True, per_token=0.0)
        )
    return encoder(
        config, shape, embedding=bert_embedding(config, shape, n_types=0, extra=types),
        layers=[bert_layer(shape, flags=decoder_flags(config))] * shape.n_layers,
        head=task_head(config, heads | {"QuestionAnswering": tuple(cells)}, usual="MaskedLM"),
        max_positions=config.int("max_position_embeddings"),
    )  # fmt: skip
