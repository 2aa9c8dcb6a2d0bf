"""ModernBERT as a causal decoder (Ettin)."""

from __future__ import annotations

from dataclasses import replace

from lmsize.model.blocks import attention, decoder, layer_norm, lm_head, token_embedding
from lmsize.model.config import Config
from lmsize.model.dense_blocks import Windows, dense_shape
from lmsize.model.family import family
from lmsize.model.head_blocks import label_head, task_head
from lmsize.model.mixture_blocks import Shape, built, is_null, kinds_by_layer
from lmsize.model.parts import Linear, Norm, Part
from lmsize.model.spec import Block, ModelSpec

KINDS = ("full_attention", "sliding_attention")


@family("modernbert-decoder")
def modernbert_decoder(config: Config) -> ModelSpec:
    """Pre-norm with LayerNorm and a gated MLP in one matrix; all but every third layer slide."""
    shape = dense_shape(config, derived=True)
    shape = replace(shape, n_kv_heads=shape.n_heads)
    width, vocab, norm_bias = shape.width, shape.vocab, config.flag("norm_bias")
    layers = built(
        ((window, i > 0) for i, window in enumerate(_windows(config, shape.n_layers))),
        lambda kind: Block("layer", _layer(config, shape, *kind)),
    )
    return decoder(
        config, width=width, n_layers=shape.n_layers, n_heads=shape.n_heads, vocab=vocab,
        embedding=token_embedding(
            config, vocab=vocab, width=width, name="embeddings.tok_embeddings",
            extra=[layer_norm("embeddings.norm", width, bias=norm_bias)],
        ),
        layers=layers, head=_head(config, width, vocab),
        max_positions=config.optional_int("max_position_embeddings"),
    )  # fmt: skip


def _windows(config: Config, n_layers: int) -> Windows:
    """Half of ``local_attention``, as in the encoder, though here it lies all before a token."""
    kinds = kinds_by_layer(
        config, "layer_types", n_layers, KINDS,
        lambda i: KINDS[i % config.int("global_attn_every_n_layers", 3) != 0],
    )  # fmt: skip
    reach = 0 if is_null(config, "local_attention") else config.int("local_attention", least=0)
    window = reach // 2 or None
    return [window if kind == "sliding_attention" else None for kind in kinds]


def _layer(config: Config, shape: Shape, window: int | None, has_norm: bool) -> tuple[Part, ...]:
    """The first layer has no norm of its own: the embedding's serves."""
    width, ffn = shape.width, config.int("intermediate_size")
    bias, norm_bias = config.flag("attention_bias"), config.flag("norm_bias")
    mlp_bias = config.flag("mlp_bias")
    *projections, _ = attention(
        width=width, n_heads=shape.n_heads, n_kv_heads=shape.n_heads, head_dim=shape.head_dim,
        prefix="attn", qkv_bias=bias, window=window,
    )  # fmt: skip
    first: tuple[Norm, ...] = (Norm("attn_norm", width, norm_bias),) if has_norm else ()
    return (
        *first, *projections,
        Linear("attn.Wo", width, width, bias, "row", shape.n_heads),
        Norm("mlp_norm", width, norm_bias),
        Linear("mlp.Wi", width, 2 * ffn, mlp_bias, "column", ffn),
        Linear("mlp.Wo", ffn, width, mlp_bias, "row"),
    )  # fmt: skip


def _head(config: Config, width: int, vocab: int) -> Block:
    """Both classes put a dense layer and a norm before their last projection."""
    norm_bias, bias = config.flag("norm_bias"), config.flag("classifier_bias")
    tied = config.flag("tie_word_embeddings")
    decoder_bias = config.flag("decoder_bias")

    def dense(prefix: str) -> tuple[Part, ...]:
        return (
            Linear(f"{prefix}.dense", width, width, bias),
            Norm(f"{prefix}.norm", width, norm_bias),
        )

    lm = lm_head(width=width, vocab=vocab, tied=tied, bias=decoder_bias, name="decoder")
    heads = {
        "Model": (),
        "CausalLM": (*dense("lm_head"), lm),
        "SequenceClassification": (
            *dense("head"), label_head(width, config.n_labels, bias=bias, per_token=1.0),
        ),
    }  # fmt: skip
    final = [Norm("final_norm", width, norm_bias)]
    return task_head(config, heads, usual="CausalLM", final=final)
