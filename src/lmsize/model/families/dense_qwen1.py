"""The first Qwen (2023), whose code ships with its checkpoints: names of GPT-2, layers of Llama."""

from __future__ import annotations

from lmsize.model.blocks import (
    decoder,
    fused_attention,
    gated_mlp,
    lm_head,
    rms_norm,
    token_embedding,
)
from lmsize.model.config import Config
from lmsize.model.dense_blocks import divided_head
from lmsize.model.family import family
from lmsize.model.spec import Block, ModelSpec


@family("qwen")
def qwen1(config: Config) -> ModelSpec:
    """Biases on queries, keys and values alone; ``intermediate_size`` is that of both branches.

    Not a class of transformers; the counts follow ``modeling_qwen.py`` of the checkpoints.
    """
    width, n_layers, n_heads, vocab, ffn = config.require(
        "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "intermediate_size"
    )
    head_dim = config.optional_int("kv_channels") or divided_head(config, width, n_heads)
    attn = fused_attention(
        width=width, n_heads=n_heads, n_kv_heads=n_heads, head_dim=head_dim,
        qkv="attn.c_attn", out="attn.c_proj", qkv_bias=True,
    )  # fmt: skip
    mlp = gated_mlp(width=width, ffn=ffn // 2, names=("w2", "w1", "c_proj"))
    layer = Block("layer", (rms_norm("ln_1", width), *attn, rms_norm("ln_2", width), *mlp))
    head = (rms_norm("ln_f", width), lm_head(width=width, vocab=vocab, tied=False))
    return decoder(
        config, width=width, n_layers=n_layers, n_heads=n_heads, vocab=vocab,
        embedding=token_embedding(config, vocab=vocab, width=width, name="wte"),
        layers=[layer] * n_layers, head=Block("head", head, "head"),
        max_positions=config.optional_int("max_position_embeddings"),
    )  # fmt: skip
