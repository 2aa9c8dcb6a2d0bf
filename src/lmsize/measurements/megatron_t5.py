"""Megatron's T5 (``T5Model`` of its core): BERT's layers in two towers, with learned positions."""

from __future__ import annotations

from collections.abc import Mapping

from lmsize.measurements.architecture import Columns
from lmsize.measurements.cells import count
from lmsize.measurements.unmodelled import UnmodelledError
from lmsize.measurements.words import read
from lmsize.model.blocks import attention, layer_norm, lm_head, mlp
from lmsize.model.conduct import Conduct
from lmsize.model.parts import Embedding, Part
from lmsize.model.spec import Block, ModelSpec, Run, Tower, stacked
from lmsize.numbers import ceil_div

CASED_VOCABULARY = 28996 + 2  # of BERT's cased WordPiece, which its tests use, and marks of ends


def is_megatron_t5(said: Columns, extra: Mapping[str, str]) -> bool:
    """Whether launch arguments describe a T5 of Megatron's own."""
    return "decoder_seq_length" in extra and read("family", said.label).meaning == "t5"


def t5_model(said: Columns, extra: Mapping[str, str]) -> ModelSpec:
    """The model of a row's columns and launch arguments.

    Raises:
        UnmodelledError: the width, depth or heads are not stated.
    """
    if said.hidden is None or said.layers is None or said.heads is None:
        raise UnmodelledError("architecture: width, layers and heads are not all stated")
    width, positions = said.hidden, said.positions or 512
    multiple = 128 * said.tp
    stated = said.vocab or CASED_VOCABULARY + (count(extra, "vocab_extra_ids") or 0)
    vocab = int(ceil_div(stated, multiple) * multiple)
    table: tuple[Part, ...] = (
        Embedding("word_embeddings", vocab, width, is_vocabulary=True),
        Embedding("position_embeddings", positions, width),
    )
    encoder = (Run(Block("embedding", table, "embedding")), *stacked(_layers(said, count(extra, "encoder_num_layers"), cross=False)),
               Run(Block("final norm", (layer_norm("final_layernorm", width),), "head")))  # fmt: skip
    head = lm_head(width=width, vocab=vocab, tied=True, bias=True, name="output_layer")
    decoder = (Run(Block("embedding", table, "embedding"), 1, 0), *stacked(_layers(said, count(extra, "decoder_num_layers"), cross=True)),
               Run(Block("head", (layer_norm("final_layernorm", width), head), "head")))  # fmt: skip
    return ModelSpec(
        name=said.label or "row", model_type="megatron", architecture="T5Model", width=width,
        n_layers=said.layers, n_heads=said.heads, vocab_size=vocab, max_positions=positions,
        learned_positions=True,
        towers=(Tower("encoder", encoder), Tower("decoder", decoder, "labels")),
        conduct=Conduct(model_type="megatron", activation="gelu", rotary=False),
    )  # fmt: skip


def _layers(said: Columns, n_stated: int | None, *, cross: bool) -> list[Block]:
    """Attention, to the encoder as well in the decoder, and an MLP, a norm before each."""
    width, heads = said.hidden or 1, said.heads or 1
    channels = said.head_dim or width // heads

    def attended(name: str, *, across: bool) -> tuple[Part, ...]:
        return attention(
            width=width, n_heads=heads, n_kv_heads=heads, head_dim=channels, prefix=name,
            qkv_bias=True, out_bias=True, causal=cross and not across, cross=across,
        )  # fmt: skip

    crossing = (
        (layer_norm("pre_cross_attn_layernorm", width), *attended("cross_attention", across=True))
        if cross
        else ()
    )
    ffn = said.ffn or 4 * width
    parts = (
        layer_norm("input_layernorm", width), *attended("self_attention", across=False), *crossing,
        layer_norm("pre_mlp_layernorm", width),
        *mlp(width=width, ffn=ffn, up="mlp.linear_fc1", down="mlp.linear_fc2"),
    )  # fmt: skip
    return [Block("layer", parts)] * (n_stated or said.layers or 1)
