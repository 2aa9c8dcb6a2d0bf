"""Builders of BERT and its relatives: embeddings, post-norm layers, heads, the whole encoder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from lmsize.model.blocks import attention, layer_norm, mlp, token_embedding
from lmsize.model.config import Config
from lmsize.model.head_blocks import (
    LM_TASKS,
    label_head,
    lm_tasks,
    pooler,
    task_of,
    token_heads,
)
from lmsize.model.parts import Embedding, Linear, Part
from lmsize.model.spec import Block, ModelSpec, Run, Tower, stacked

BERT_NAMES = ("self.query", "self.key", "self.value", "output.dense")
BERT_NORMS = ("attention.output.LayerNorm", "output.LayerNorm")


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes that every encoder has."""

    width: int
    n_layers: int
    n_heads: int
    vocab: int
    ffn: int

    @property
    def head_dim(self) -> int:
        return self.width // self.n_heads


def read_shape(
    config: Config, *, ffn: str | int = "intermediate_size",
    keys: tuple[str, str, str, str] = (
        "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size",
    ),
) -> Shape:  # fmt: skip
    """The sizes of a config, heads checked to divide the width.

    `ffn` is the key of the feed-forward width, or the multiple of the width that it is.
    """
    width, n_layers, n_heads, vocab = config.require(*keys)
    check_heads(config, keys[2], width, n_heads)
    return Shape(
        width, n_layers, n_heads, vocab, config.int(ffn) if isinstance(ffn, str) else ffn * width
    )


def check_heads(config: Config, key: str, width: int, n_heads: int) -> int:
    """The width of a head.

    Raises:
        ModelError: `n_heads` does not divide `width`.
    """
    if width % n_heads:
        raise config.error(key, n_heads, f"a divisor of the width {width}")
    return width // n_heads


def decoder_flags(config: Config) -> tuple[bool, bool]:
    """Whether the attention is causal, and whether each layer also attends to an encoder."""
    causal, cross = config.flag("is_decoder"), config.flag("add_cross_attention")
    if cross and not causal:
        raise config.error("add_cross_attention", cross, "false, unless is_decoder is true")
    return causal, cross


def bert_embedding(
    config: Config, shape: Shape, *, width: int | None = None, n_positions: int | None = None,
    n_types: int | None = None, norm: bool = True, extra: Iterable[Part] = (),
    before: Iterable[Part] = (),
) -> Block:  # fmt: skip
    """Tables of tokens, positions and types, and the norm of their sum.

    `n_positions` and `n_types` are rows of the tables, else the config's; 0 leaves a table out.
    `before` comes between the words and the positions, `extra` last.
    """
    size = width or shape.width
    positions = config.int("max_position_embeddings") if n_positions is None else n_positions
    types = config.int("type_vocab_size", least=0) if n_types is None else n_types
    parts: list[Part] = list(before)
    if positions:
        parts.append(Embedding("embeddings.position_embeddings", positions, size))
    if types:
        parts.append(Embedding("embeddings.token_type_embeddings", types, size))
    if norm:
        parts.append(layer_norm("embeddings.LayerNorm", size))
    return token_embedding(
        config, vocab=shape.vocab, width=size, name="embeddings.word_embeddings",
        extra=(*parts, *extra),
    )  # fmt: skip


def bert_attention(
    shape: Shape, *, prefix: str = "attention", bias: bool = True, causal: bool = False,
    cross: bool = False, window: int | None = None,
) -> tuple[Part, ...]:  # fmt: skip
    """Attention under BERT's module names."""
    return attention(
        width=shape.width, n_heads=shape.n_heads, n_kv_heads=shape.n_heads,
        head_dim=shape.head_dim, prefix=prefix, names=BERT_NAMES, qkv_bias=bias, out_bias=True,
        causal=causal, cross=cross, window=window,
    )  # fmt: skip


def rotary_attention(
    config: Config, shape: Shape, *, bias: bool, n_kv_heads: int | None = None,
    window: int | None = None,
) -> tuple[Part, ...]:  # fmt: skip
    """Bidirectional attention with four projections, of the config's head width."""
    return attention(
        width=shape.width, n_heads=shape.n_heads, n_kv_heads=n_kv_heads or shape.n_heads,
        head_dim=config.optional_int("head_dim", least=1) or shape.head_dim,
        qkv_bias=bias, out_bias=bias, window=window, causal=False,
    )  # fmt: skip


def bert_layer(
    shape: Shape, *, flags: tuple[bool, bool] = (False, False),
    norms: tuple[str, str] = BERT_NORMS, bias: bool = True, window: int | None = None,
    norms_first: bool = False, extra: Iterable[Part] = (),
) -> Block:  # fmt: skip
    """Attention, feed-forward and two norms; as a decoder, cross attention between them.

    `flags` say causal and cross (:func:`decoder_flags`); `norms` name the norms of attention
    and feed-forward, which `norms_first` puts before them, not after; `bias` is that of query, key
    and value.
    """
    causal, cross = flags
    branches: list[tuple[tuple[Part, ...], str]] = [
        (bert_attention(shape, bias=bias, causal=causal, window=window), norms[0])
    ]
    if cross:
        across = bert_attention(shape, prefix="crossattention", bias=bias, causal=False, cross=True)
        branches.append((across, norms[0].replace("attention", "crossattention", 1)))
    feed_forward = mlp(
        width=shape.width, ffn=shape.ffn, up="intermediate.dense", down="output.dense"
    )
    branches.append((feed_forward, norms[1]))
    parts: list[Part] = []
    for branch, name in branches:
        norm = layer_norm(name, shape.width)
        parts += (norm, *branch) if norms_first else (*branch, norm)
    return Block("layer", (*parts, *extra))


def bert_heads(
    config: Config, shape: Shape, lm: Iterable[Part], *, first: Iterable[Part] | None = None
) -> dict[str, tuple[Part, ...]]:
    """BERT's heads by task.

    `lm` is the head of its language-model classes; `first` what precedes the classifier of
    sentences and choices and stays in the bare model: BERT's pooler, empty where there is none.
    """
    width, labels = shape.width, config.n_labels
    pooled = (pooler(width),) if first is None else tuple(first)
    return {
        **lm_tasks(lm),
        **token_heads(config, width),
        "Model": pooled,
        "SequenceClassification": (*pooled, label_head(width, labels)),
        "MultipleChoice": (*pooled, label_head(width, 1)),
    }


def unused(*parts: Part, name: str = "pooler") -> Tower:
    """What a class builds though its loss never reads it: no gradient reaches it."""
    return Tower(name, (Run(Block(name, parts, "head")),), "idle")


def _poolers(head: Block) -> tuple[Part, ...]:
    """What some language models build beside their head, for other tasks."""
    return tuple(p for p in head.parts if isinstance(p, Linear) and p.name.startswith("pooler"))


def encoder(
    config: Config, shape: Shape, *, embedding: Block, layers: Iterable[Block] | Run,
    head: Block, max_positions: int | None, learned_positions: bool = True,
    extra_towers: tuple[Tower, ...] = (),
) -> ModelSpec:  # fmt: skip
    """A model with one tower, an encoder, over the input tokens.

    `layers` come in order, or as one run where they share their weights.
    """
    middle = (layers,) if isinstance(layers, Run) else stacked(layers)
    poolers = _poolers(head) if task_of(config) in LM_TASKS else ()
    if poolers:
        head = replace(head, parts=tuple(p for p in head.parts if p not in poolers))
        extra_towers = (*extra_towers, unused(*poolers))
    tower = Tower("encoder", (Run(embedding), *middle, Run(head)))
    return ModelSpec(
        name="", model_type=config.model_type, architecture=config.architecture,
        width=shape.width, n_layers=shape.n_layers, n_heads=shape.n_heads,
        vocab_size=shape.vocab, max_positions=max_positions,
        learned_positions=learned_positions, towers=(*extra_towers, tower),
    )  # fmt: skip
