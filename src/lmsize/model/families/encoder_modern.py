"""ModernBERT: an encoder with windows, gated MLPs and few biases."""

from __future__ import annotations

from lmsize.model.blocks import fused_attention, layer_norm, lm_head, token_embedding
from lmsize.model.config import Config
from lmsize.model.encoder_blocks import Shape, encoder, read_shape
from lmsize.model.family import family
from lmsize.model.head_blocks import label_head, lm_tasks, task_head
from lmsize.model.parts import Linear, Part
from lmsize.model.spec import Block, ModelSpec

KINDS = ("full_attention", "sliding_attention")


def modernbert_layers(config: Config, shape: Shape) -> list[Block]:
    """ModernBERT's layers: two in three with a window, the first without its first norm."""
    every = config.int("global_attn_every_n_layers", 3)
    kinds = config.per_layer("layer_types", shape.n_layers, KINDS) or [
        KINDS[bool(i % every)] for i in range(shape.n_layers)
    ]
    window = 2 * (config.int("local_attention") // 2) + 1  # itself, and half on either side
    bias = config.flag("attention_bias")
    norms, mlp_bias = config.flag("norm_bias"), config.flag("mlp_bias")
    layers = []
    for i, kind in enumerate(kinds):
        first = (layer_norm("attn_norm", shape.width, bias=norms),) if i else ()
        parts = (
            *first,
            *fused_attention(
                width=shape.width, n_heads=shape.n_heads, n_kv_heads=shape.n_heads,
                head_dim=shape.head_dim, qkv="attn.Wqkv", out="attn.Wo", qkv_bias=bias,
                out_bias=bias, window=window if kind == KINDS[1] else None, causal=False,
            ),
            layer_norm("mlp_norm", shape.width, bias=norms),
            Linear("mlp.Wi", shape.width, 2 * shape.ffn, mlp_bias, "column"),
            Linear("mlp.Wo", shape.ffn, shape.width, mlp_bias, "row"),
        )  # fmt: skip
        layers.append(Block("layer", parts))
    return layers


def modernbert_embedding(config: Config, shape: Shape) -> Block:
    norm = layer_norm("embeddings.norm", shape.width, bias=config.flag("norm_bias"))
    return token_embedding(
        config, vocab=shape.vocab, width=shape.width, name="embeddings.tok_embeddings",
        extra=[norm],
    )  # fmt: skip


def modernbert_transform(config: Config, width: int, prefix: str = "head") -> tuple[Part, ...]:
    """Dense layer and norm before every head of ModernBERT."""
    return (
        Linear(f"{prefix}.dense", width, width, config.flag("classifier_bias")),
        layer_norm(f"{prefix}.norm", width, bias=config.flag("norm_bias")),
    )


@family("modernbert")
def modernbert(config: Config) -> ModelSpec:
    """Pre-norm encoder with windows, a gated MLP and few biases."""
    shape = read_shape(config)
    width, labels = shape.width, config.n_labels
    before = modernbert_transform(config, width)
    lm = lm_head(
        width=width, vocab=shape.vocab, tied=config.flag("tie_word_embeddings", True),
        bias=config.flag("decoder_bias"), name="decoder",
    )  # fmt: skip
    heads = {
        **lm_tasks((*before, lm)),
        "Model": (),
        "SequenceClassification": (*before, label_head(width, labels)),
        "TokenClassification": (*before, label_head(width, labels, per_token=1.0)),
        "QuestionAnswering": (*before, label_head(width, labels, per_token=1.0)),
        "MultipleChoice": (*before, label_head(width, 1)),
    }
    final = layer_norm("final_norm", width, bias=config.flag("norm_bias"))
    return encoder(
        config, shape, embedding=modernbert_embedding(config, shape),
        layers=modernbert_layers(config, shape),
        head=task_head(config, heads, usual="MaskedLM", final=[final]),
        max_positions=config.int("max_position_embeddings"), learned_positions=False,
    )  # fmt: skip
