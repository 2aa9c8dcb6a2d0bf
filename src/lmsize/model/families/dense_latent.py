"""Dense decoders with multi-head latent attention: MiniCPM3, Youtu."""

from __future__ import annotations

from lmsize.model.blocks import gated_mlp
from lmsize.model.config import Config
from lmsize.model.dense_blocks import dense_decoder, dense_shape, key_or_derived, pre_norm
from lmsize.model.family import family
from lmsize.model.latent_blocks import Latent, latent_attention
from lmsize.model.mixture_blocks import is_null
from lmsize.model.spec import ModelSpec


@family("minicpm3", "youtu")
def latent_decoder(config: Config) -> ModelSpec:
    """Pre-norm decoder; in MiniCPM3 a value head is a share of the width unless stated."""
    is_minicpm = config.model_type == "minicpm3"
    shape = dense_shape(config, even=is_minicpm, derived=True)
    width = shape.width
    dims = Latent(
        n_heads=shape.n_heads,
        q_rank=None if is_null(config, "q_lora_rank") else config.int("q_lora_rank"),
        kv_rank=config.int("kv_lora_rank"),
        nope=config.int("qk_nope_head_dim"),
        rope=config.int("qk_rope_head_dim"),
        v=key_or_derived(config, "v_head_dim", shape.head_dim),
    )
    mlp_bias = is_minicpm and config.flag("mlp_bias")
    parts = pre_norm(
        width,
        latent_attention(width, dims, bias=config.flag("attention_bias")),
        gated_mlp(width=width, ffn=config.int("intermediate_size"), bias=mlp_bias),
    )
    return dense_decoder(config, shape, lambda _: parts)
