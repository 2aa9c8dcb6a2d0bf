"""Llama without its mask: EuroBERT, ESM C, Ultrabert."""

from __future__ import annotations

from collections.abc import Iterable

from lmsize.model.blocks import gated_mlp, layer_norm, lm_head, rms_norm, token_embedding
from lmsize.model.config import Config
from lmsize.model.encoder_blocks import Shape, encoder, read_shape, rotary_attention
from lmsize.model.family import family
from lmsize.model.head_blocks import (
    ROBERTA_LM,
    answer_head,
    dense_classifier,
    label_head,
    lm_tasks,
    pooler,
    task_head,
)
from lmsize.model.parts import Linear, Norm, Part
from lmsize.model.spec import Block, ModelSpec

KINDS = ("full_attention", "sliding_attention")


def _llama_like(
    config: Config, shape: Shape, heads: dict[str, tuple[Part, ...]], *,
    windows: Iterable[int | None] | None = None, norms: tuple[Norm, Norm, Norm] | None = None,
    extra: tuple[Part, ...] = (), kv: bool = True,
) -> ModelSpec:  # fmt: skip
    """A Llama without its mask.

    `windows` are those of each layer, None for full attention; `norms` stand before attention,
    before the MLP and after the last layer, if not RMSNorm; `kv` allows fewer kv heads.
    """
    width = shape.width
    names = ("input_layernorm", "post_attention_layernorm", "norm")
    before, middle, final = norms or (rms_norm(name, width) for name in names)
    n_kv = config.optional_int("num_key_value_heads", least=1) if kv else None
    gates = gated_mlp(width=width, ffn=shape.ffn, bias=config.flag("mlp_bias"))
    bias = config.flag("attention_bias")
    layers = [
        Block("layer", (
            before,
            *rotary_attention(config, shape, bias=bias, n_kv_heads=n_kv, window=window),
            *extra, middle, *gates,
        ))
        for window in windows or [None] * shape.n_layers
    ]  # fmt: skip
    embedding = token_embedding(config, vocab=shape.vocab, width=width, name="embed_tokens")
    return encoder(
        config, shape, embedding=embedding, layers=layers,
        head=task_head(config, heads, usual="MaskedLM", final=[final]),
        max_positions=config.int("max_position_embeddings"), learned_positions=False,
    )  # fmt: skip


@family("eurobert")
def eurobert(config: Config) -> ModelSpec:
    """Llama's layers, bidirectional."""
    shape = read_shape(config)
    width, labels = shape.width, config.n_labels
    lm = lm_head(
        width=width, vocab=shape.vocab, tied=config.flag("tie_word_embeddings"),
        bias=config.flag("mlp_bias"),
    )  # fmt: skip
    return _llama_like(config, shape, {
        **lm_tasks([lm]),
        "Model": (),
        "SequenceClassification": (pooler(width, "dense"), label_head(width, labels)),
        "TokenClassification": (label_head(width, labels, per_token=1.0),),
    })  # fmt: skip


@family("esmc")
def esmc(config: Config) -> ModelSpec:
    """Protein encoder: LayerNorms, also of all queries and all keys; an untied head."""
    shape = read_shape(config)
    width, labels = shape.width, config.n_labels
    lm = (
        Linear(ROBERTA_LM.dense, width, width, True),
        layer_norm(ROBERTA_LM.norm, width),
        lm_head(width=width, vocab=shape.vocab, tied=False, bias=True, name=ROBERTA_LM.decoder),
    )
    heads = {
        **lm_tasks(lm),
        "Model": (),
        "SequenceClassification": dense_classifier(width, labels),
        "TokenClassification": (label_head(width, labels, name="score", per_token=1.0),),
    }
    norms = (
        layer_norm("input_layernorm", width),
        layer_norm("post_attention_layernorm", width),
        layer_norm("norm", width, bias=False),
    )
    extra = tuple(layer_norm(f"self_attn.{x}_norm", width, bias=False) for x in "qk")
    return _llama_like(config, shape, heads, norms=norms, extra=extra, kv=False)


def ultrabert_windows(config: Config, n_layers: int) -> list[int | None]:
    """Keys that each layer's tokens see: half a window on either side, in two layers of three."""
    kinds = config.per_layer("layer_types", n_layers, KINDS)
    stated = config.sequence("attention_windows")
    window = config.int("sliding_window")
    if stated is not None:
        if len(stated) != n_layers:
            raise config.error("attention_windows", stated, f"{n_layers} windows")
        window = next((w for w in stated if isinstance(w, int) and w > 0), window)
        kinds = kinds or [KINDS[bool(w)] for w in stated]
    kinds = kinds or [KINDS[bool((i + 1) % 3)] for i in range(n_layers)]
    return [2 * window + 1 if kind == KINDS[1] else None for kind in kinds]


@family("ultrabert")
def ultrabert(config: Config) -> ModelSpec:
    """Llama's layers, bidirectional, with windows and a bottleneck in the head."""
    shape = read_shape(config)
    width, labels = shape.width, config.n_labels
    narrow = config.int("prediction_head_size")
    lm = lm_head(
        width=width, vocab=shape.vocab, tied=config.flag("tie_word_embeddings"),
        name="head.decoder",
    )  # fmt: skip
    heads = {
        **lm_tasks((
            Linear("head.linear1", width, narrow), Linear("head.linear2", narrow, width), lm,
        )),
        "Model": (),
        "SequenceClassification": (label_head(width, labels),),
        "TokenClassification": (label_head(width, labels, per_token=1.0),),
        "QuestionAnswering": answer_head(width),
    }  # fmt: skip
    windows = ultrabert_windows(config, shape.n_layers)
    return _llama_like(config, shape, heads, windows=windows)
