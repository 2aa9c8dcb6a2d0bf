"""Models known from papers only: Gopher, Chinchilla, PaLM, LaMDA. No class builds them.

Counts are those of the published closed forms.
"""

from __future__ import annotations

from collections.abc import Iterable

from lmsize.model.blocks import decoder, gated_mlp, lm_head, mlp, rms_norm, token_embedding
from lmsize.model.config import Config
from lmsize.model.dense_blocks import divided_head
from lmsize.model.family import family
from lmsize.model.mixture_blocks import Shape, grouped_query
from lmsize.model.parts import Linear, Norm, Part
from lmsize.model.spec import Block, ModelSpec

LAMDA_VOCABULARY = 32_000  # SentencePiece tokens, from the paper


@family("_gopher", "_chinchilla")
def gopher(config: Config) -> ModelSpec:
    """GPT-2 with RMSNorm and relative positions as in Transformer-XL: one more matrix a layer,
    which projects the positions. No biases; the closed form leaves the norms' scales out.
    """
    shape = _shape(config)
    width, out = shape.width, shape.n_heads * shape.head_dim
    relative = Linear(
        "self_attn.r_proj", width, out, False, "column", shape.n_heads, adaptable=False
    )
    feed_forward = mlp(
        width=width, ffn=config.int("intermediate_size"), up="mlp.up_proj", down="mlp.down_proj",
        bias=False,
    )  # fmt: skip
    parts = (
        _bare_norm("input_layernorm", width), *grouped_query(shape), relative,
        _bare_norm("post_attention_layernorm", width), *feed_forward,
    )  # fmt: skip
    return _model(config, shape, parts, _bare_norm("norm", width))


@family("_palm")
def palm(config: Config) -> ModelSpec:
    """Attention with one key-value head and SwiGLU side by side after one norm; no biases."""
    shape = _shape(config)
    ffn = config.int("intermediate_size")
    norm = rms_norm("input_layernorm", shape.width)
    parts = (norm, *grouped_query(shape), *gated_mlp(width=shape.width, ffn=ffn))
    return _model(config, shape, parts, rms_norm("norm", shape.width))


@family("_lamda")
def lamda(config: Config) -> ModelSpec:
    """Gated-GELU MLP, T5's relative positions (a few thousand numbers, left out with the norms).

    The paper's 137 billion leave out the embedding.
    """
    shape = _shape(config, vocabulary=LAMDA_VOCABULARY)
    width = shape.width
    parts = (
        _bare_norm("input_layernorm", width), *grouped_query(shape),
        _bare_norm("post_attention_layernorm", width),
        *gated_mlp(width=width, ffn=config.int("intermediate_size")),
    )  # fmt: skip
    return _model(config, shape, parts, _bare_norm("norm", width))


def _bare_norm(name: str, width: int) -> Norm:
    return Norm(name, width, weight=False)


def _shape(config: Config, vocabulary: int | None = None) -> Shape:
    width, n_layers, n_heads = config.require(
        "hidden_size", "num_hidden_layers", "num_attention_heads"
    )
    if vocabulary is None or config.has("vocab_size"):
        (vocabulary,) = config.require("vocab_size")
    else:
        config.assume("vocabulary", f"vocab_size = {vocabulary}, from the paper")
    kv_heads = config.optional_int("num_key_value_heads", least=1) or n_heads
    head_dim = config.optional_int("head_dim", least=1) or divided_head(config, width, n_heads)
    return Shape(width, n_layers, n_heads, vocabulary, kv_heads, head_dim)


def _model(config: Config, shape: Shape, parts: Iterable[Part], norm: Norm) -> ModelSpec:
    width, vocab = shape.width, shape.vocab
    lm = lm_head(width=width, vocab=vocab, tied=config.flag("tie_word_embeddings", True))
    return decoder(
        config, width=width, n_layers=shape.n_layers, n_heads=shape.n_heads, vocab=vocab,
        embedding=token_embedding(config, vocab=vocab, width=width, name="embed_tokens"),
        layers=[Block("layer", tuple(parts))] * shape.n_layers,
        head=Block("head", (norm, lm), "head"),
        max_positions=config.optional_int("max_position_embeddings"),
    )  # fmt: skip
