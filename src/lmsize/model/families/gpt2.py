"""GPT-2: learned positions, fused attention, a tied head."""

from __future__ import annotations

from lmsize.model.blocks import (
    decoder,
    decoder_head,
    fused_attention,
    layer_norm,
    lm_head,
    mlp,
    token_embedding,
)
from lmsize.model.config import Config
from lmsize.model.family import family
from lmsize.model.parts import Embedding
from lmsize.model.spec import Block, ModelSpec


@family("gpt2")
def gpt2(config: Config) -> ModelSpec:
    """Pre-norm decoder with LayerNorm, biases everywhere and a two-matrix MLP."""
    width, n_layers, n_heads, vocab = config.require("n_embd", "n_layer", "n_head", "vocab_size")
    positions = config.int("n_positions")
    parts = (
        layer_norm("ln_1", width),
        *fused_attention(
            width=width, n_heads=n_heads, n_kv_heads=n_heads, head_dim=width // n_heads,
            qkv="attn.c_attn", out="attn.c_proj", qkv_bias=True, out_bias=True,
        ),
        layer_norm("ln_2", width),
        *mlp(width=width, ffn=config.optional_int("n_inner") or 4 * width,
             up="mlp.c_fc", down="mlp.c_proj"),
    )  # fmt: skip
    lm = lm_head(width=width, vocab=vocab, tied=config.flag("tie_word_embeddings", True))
    wpe = Embedding("wpe", positions, width)
    return decoder(
        config, width=width, n_layers=n_layers, n_heads=n_heads, vocab=vocab,
        embedding=token_embedding(config, vocab=vocab, width=width, name="wte", extra=[wpe]),
        layers=[Block("layer", parts)] * n_layers,
        head=decoder_head(config, width=width, lm=[lm], final=[layer_norm("ln_f", width)]),
        max_positions=positions, learned_positions=True,
    )  # fmt: skip
