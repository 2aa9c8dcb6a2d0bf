"""XLM and FlauBERT, which share a layer, and XLNet."""

from __future__ import annotations

from lmsize.model.blocks import attention, layer_norm, lm_head, mlp, token_embedding
from lmsize.model.config import Config
from lmsize.model.encoder_blocks import Shape, encoder, read_shape
from lmsize.model.family import family
from lmsize.model.head_blocks import (
    answer_head,
    beam_answer_head,
    label_head,
    lm_tasks,
    sequence_summary,
    task_head,
)
from lmsize.model.parameter import Split
from lmsize.model.parts import AttentionCore, Embedding, Linear, Part, Plain
from lmsize.model.spec import Block, ModelSpec


@family("xlm", "flaubert")
def xlm(config: Config) -> ModelSpec:
    """Post-norm layers with learned positions and, for some, a table of languages."""
    shape = read_shape(config, keys=("emb_dim", "n_layers", "n_heads", "vocab_size"), ffn=4)
    width, labels = shape.width, config.n_labels
    layer = Block("layer", (
        *attention(
            width=width, n_heads=shape.n_heads, n_kv_heads=shape.n_heads,
            head_dim=shape.head_dim, prefix="attentions",
            names=("q_lin", "k_lin", "v_lin", "out_lin"), qkv_bias=True, out_bias=True,
            causal=config.flag("causal"),
        ),
        layer_norm("layer_norm1", width),
        *mlp(width=width, ffn=shape.ffn, up="ffns.lin1", down="ffns.lin2"),
        layer_norm("layer_norm2", width),
    ))  # fmt: skip
    positions, n_languages = config.int("max_position_embeddings"), config.int("n_langs")
    extra: list[Part] = [Embedding("position_embeddings", positions, width)]
    if n_languages > 1 and config.flag("use_lang_emb", True):
        extra.append(Embedding("lang_embeddings", n_languages, width))
    extra.append(layer_norm("layer_norm_emb", width))
    tied = config.flag("tie_word_embeddings", True)
    lm = lm_head(width=width, vocab=shape.vocab, tied=tied, bias=True, name="pred_layer.proj")
    summary = sequence_summary(config, width, labels)
    heads = {
        **lm_tasks([lm]),
        "Model": (),
        "SequenceClassification": summary,
        "TokenClassification": (label_head(width, labels, per_token=1.0),),
        "MultipleChoice": (*summary, Linear("logits_proj", labels, 1, True, per_token=0.0)),
        "QuestionAnsweringSimple": answer_head(width, labels),
        "QuestionAnswering": beam_answer_head(width, "qa_outputs."),
    }
    return encoder(
        config, shape,
        embedding=token_embedding(
            config, vocab=shape.vocab, width=width, name="embeddings", extra=extra
        ),
        layers=[layer] * shape.n_layers, head=task_head(config, heads, usual="LMHead"),
        max_positions=positions,
    )  # fmt: skip


def _xlnet_layer(config: Config, shape: Shape) -> Block:
    """Relative attention whose matrices are raw parameters, so adapters do not find them.

    `r` multiplies relative positions, of which there are twice as many as tokens.
    """
    width, heads, head_dim, inside = shape.width, shape.n_heads, shape.head_dim, "rel_attn"

    def matrix(name: str, *, split: Split = "column", per_token: float = 1.0) -> Linear:
        return Linear(
            f"{inside}.{name}", width, width, split=split, n_units=heads, adaptable=False,
            per_token=per_token,
        )  # fmt: skip

    biases = (
        Plain(f"{inside}.{name}", (heads, head_dim))
        for name in ("r_r_bias", "r_s_bias", "r_w_bias")
    )
    causal = config.text("attn_type", "bi") == "uni"
    return Block("layer", (
        matrix("q"), matrix("k"), matrix("v"), matrix("r", per_token=2.0), *biases,
        Plain(f"{inside}.seg_embed", (2, heads, head_dim)),
        AttentionCore(heads, heads, head_dim, head_dim, causal=causal),
        matrix("o", split="row"),
        layer_norm(f"{inside}.layer_norm", width),
        *mlp(width=width, ffn=shape.ffn, up="ff.layer_1", down="ff.layer_2"),
        layer_norm("ff.layer_norm", width),
    ))  # fmt: skip


def _xlnet_heads(config: Config, shape: Shape) -> dict[str, tuple[Part, ...]]:
    width, labels = shape.width, config.n_labels
    tied = config.flag("tie_word_embeddings", True)
    summary = sequence_summary(config, width, labels)

    def logits(n: int) -> Linear:
        # Not under one of the names that adapters leave alone, so it is adaptable.
        return Linear("logits_proj", width, n, True, per_token=0.0)

    return {
        **lm_tasks([lm_head(width=width, vocab=shape.vocab, tied=tied, bias=True, name="lm_loss")]),
        "Model": (),
        "SequenceClassification": (*summary, logits(labels)),
        "MultipleChoice": (*summary, logits(1)),
        "TokenClassification": (label_head(width, labels, per_token=1.0),),
        "QuestionAnsweringSimple": answer_head(width, labels),
        "QuestionAnswering": beam_answer_head(width),
    }


@family("xlnet")
def xlnet(config: Config) -> ModelSpec:
    """Two-stream relative attention; its scores against positions are not counted."""
    shape = read_shape(config, keys=("d_model", "n_layer", "n_head", "vocab_size"), ffn="d_inner")
    embedding = token_embedding(
        config, vocab=shape.vocab, width=shape.width, name="word_embedding",
        extra=[Plain("mask_emb", (1, 1, shape.width))],
    )  # fmt: skip
    return encoder(
        config, shape, embedding=embedding,
        layers=[_xlnet_layer(config, shape)] * shape.n_layers,
        head=task_head(config, _xlnet_heads(config, shape), usual="LMHead"),
        max_positions=None, learned_positions=False,
    )  # fmt: skip
