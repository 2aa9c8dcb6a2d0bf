"""Llama and the decoders that differ from it in a flag or two."""

from __future__ import annotations

from lmsize.model.blocks import (
    attention,
    decoder,
    decoder_head,
    gated_mlp,
    lm_head,
    rms_norm,
    token_embedding,
)
from lmsize.model.config import Config
from lmsize.model.family import family
from lmsize.model.parts import Part
from lmsize.model.spec import Block, ModelSpec


@family("llama", "mistral", "qwen2")
def llama(config: Config) -> ModelSpec:
    """Pre-norm decoder: RMSNorm, grouped-query attention with rope, SwiGLU."""
    width, n_layers, n_heads, vocab = config.require(
        "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"
    )
    head_dim = config.optional_int("head_dim") or width // n_heads
    biased = config.flag("attention_bias") or config.model_type == "qwen2"
    parts: tuple[Part, ...] = (
        rms_norm("input_layernorm", width),
        *attention(
            width=width, n_heads=n_heads, head_dim=head_dim,
            n_kv_heads=config.optional_int("num_key_value_heads") or n_heads,
            qkv_bias=biased, out_bias=config.flag("attention_bias"),
            window=_window(config),
        ),
        rms_norm("post_attention_layernorm", width),
        *gated_mlp(width=width, ffn=config.int("intermediate_size"), bias=config.flag("mlp_bias")),
    )  # fmt: skip
    lm = lm_head(width=width, vocab=vocab, tied=config.flag("tie_word_embeddings"))
    return decoder(
        config, width=width, n_layers=n_layers, n_heads=n_heads, vocab=vocab,
        embedding=token_embedding(config, vocab=vocab, width=width, name="embed_tokens"),
        layers=[Block("layer", parts)] * n_layers,
        head=decoder_head(config, width=width, lm=[lm], final=[rms_norm("norm", width)]),
        max_positions=config.optional_int("max_position_embeddings"),
    )  # fmt: skip


def _window(config: Config) -> int | None:
    if config.model_type == "qwen2" and not config.flag("use_sliding_window"):
        return None
    return config.optional_int("sliding_window") or None
