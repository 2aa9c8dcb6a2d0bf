"""Funnel Transformer: blocks of layers over ever shorter sequences."""

from __future__ import annotations

from lmsize.model.blocks import attention, layer_norm, lm_head, mlp, token_embedding
from lmsize.model.config import Config
from lmsize.model.encoder_blocks import Shape
from lmsize.model.family import family
from lmsize.model.head_blocks import (
    dense_classifier,
    discriminator_head,
    lm_tasks,
    task_head,
    task_of,
    token_heads,
)
from lmsize.model.parts import Linear, Part, Plain
from lmsize.model.spec import Block, ModelSpec, Run, Tower

ENCODER_ONLY = ("BaseModel", "SequenceClassification", "MultipleChoice")
MOST_BLOCKS = 1000


def _sizes(config: Config, key: str, n: int | None = None) -> list[int]:
    """A list of positive whole numbers, `n` of them."""
    values = config.sequence(key)
    good = values and all(
        isinstance(v, int) and not isinstance(v, bool) and 0 < v <= MOST_BLOCKS for v in values
    )
    if not values or not good or len(values) > MOST_BLOCKS or (n and len(values) != n):
        raise config.error(key, values, f"{n or 'a list of'} whole numbers from 1")
    return values


def _layer(shape: Shape, head_dim: int) -> Block:
    """Relative attention: scores of positions come from a matrix over them, not over tokens."""
    width, heads, inside = shape.width, shape.n_heads, "attention"
    names = ("q_head", "k_head", "v_head", "post_proj")
    query, *rest = attention(
        width=width, n_heads=heads, n_kv_heads=heads, head_dim=head_dim, prefix=inside,
        names=names, qkv_bias=True, out_bias=True, causal=False,
    )  # fmt: skip
    assert isinstance(query, Linear)
    biases = (
        Plain(f"{inside}.{name}", (heads, head_dim))
        for name in ("r_w_bias", "r_r_bias", "r_s_bias")
    )
    positions = Linear(
        f"{inside}.r_kernel", width, heads * head_dim, adaptable=False, per_token=0.0
    )
    return Block("layer", (
        Linear(query.name, width, heads * head_dim, split="column", n_units=heads),
        *rest, *biases, positions,
        Plain(f"{inside}.seg_embed", (2, heads, head_dim)),
        layer_norm(f"{inside}.layer_norm", width),
        *mlp(width=width, ffn=shape.ffn, up="ffn.linear_1", down="ffn.linear_2"),
        layer_norm("ffn.layer_norm", width),
    ))  # fmt: skip


def _heads(config: Config, shape: Shape) -> dict[str, tuple[Part, ...]]:
    width, names = shape.width, ("linear_hidden", "linear_out")
    tied = config.flag("tie_word_embeddings", True)
    return {
        **lm_tasks([lm_head(width=width, vocab=shape.vocab, tied=tied, bias=True)]),
        **token_heads(config, width),
        "Model": (),
        "BaseModel": (),
        "PreTraining": discriminator_head(width),
        "SequenceClassification": dense_classifier(width, config.n_labels, names=names),
        "MultipleChoice": dense_classifier(width, 1, names=names),
    }


@family("funnel")
def funnel(config: Config) -> ModelSpec:
    """Each block halves the sequence; a decoder of a few layers restores it.

    Work is counted as if no block shortened it: a bound.
    """
    width, n_heads, vocab = config.require("d_model", "n_head", "vocab_size")
    if not config.has("block_sizes"):
        raise config.error("block_sizes", None, "the number of layers of each block")
    sizes = _sizes(config, "block_sizes")
    repeats = [1] * len(sizes)
    if config.sequence("block_repeats") is not None:
        repeats = _sizes(config, "block_repeats", len(sizes))
    shape = Shape(width, sum(sizes), n_heads, vocab, config.int("d_inner"))
    layer = _layer(shape, config.int("d_head"))
    embedding = token_embedding(
        config, vocab=vocab, width=width, name="embeddings.word_embeddings",
        extra=[layer_norm("embeddings.layer_norm", width)],
    )  # fmt: skip
    runs = [Run(embedding)]
    runs += [Run(layer, size * n, size) for size, n in zip(sizes, repeats, strict=True)]
    n_decoder = config.int("num_decoder_layers", least=0)
    if task_of(config) not in ENCODER_ONLY and n_decoder:
        runs.append(Run(layer, n_decoder, n_decoder))
    runs.append(Run(task_head(config, _heads(config, shape), usual="MaskedLM")))
    return ModelSpec(
        name="", model_type=config.model_type, architecture=config.architecture, width=width,
        n_layers=shape.n_layers, n_heads=n_heads, vocab_size=vocab, max_positions=None,
        learned_positions=False, towers=(Tower("encoder", tuple(runs)),),
    )  # fmt: skip
