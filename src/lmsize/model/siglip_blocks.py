"""SigLIP, Pixtral and CLIP: the vision towers that several wrappers come with."""

from __future__ import annotations

from collections.abc import Iterable

from lmsize.model.config import Config
from lmsize.model.parts import Embedding, Norm, Part, Plain
from lmsize.model.spec import Tower
from lmsize.model.vision_blocks import (
    QKVO,
    attention_pooler,
    n_patches,
    patch_conv,
    stack,
    tower,
    vision_layer,
    vision_shape,
)


def siglip(config: Config, projector: Iterable[Part]) -> Tower:
    """SigLIP's encoder, with its pooling head unless the config leaves it out."""
    shape = vision_shape(config, usual=(768, 12, 12, 3072))
    width = shape.width
    embedding = (
        patch_conv(config, width, "embeddings.patch_embedding", bias=True, patch=16),
        Embedding("embeddings.position_embedding", n_patches(config, 224, 16), width),
    )
    layer = vision_layer(shape, norms=("layer_norm1", "layer_norm2"))
    head = attention_pooler(shape) if config.flag("vision_use_head", True) else ()
    after = (Norm("post_layernorm", width, True), *head, *projector)
    return tower("vision tower", embedding, [stack(layer, shape.n_layers)], after)


def clip(config: Config, projector: Iterable[Part]) -> Tower:
    """CLIP's encoder: a class embedding, norms before and after."""
    shape = vision_shape(config, usual=(768, 12, 12, 3072))
    width = shape.width
    embedding = (
        Plain("embeddings.class_embedding", (width,)),
        patch_conv(config, width, "embeddings.patch_embedding", bias=False, patch=32),
        Embedding("embeddings.position_embedding", n_patches(config, 224, 32) + 1, width),
        Norm("pre_layrnorm", width, True),
    )
    layer = vision_layer(shape, norms=("layer_norm1", "layer_norm2"))
    after = (Norm("post_layernorm", width, True), *projector)
    return tower("vision tower", embedding, [stack(layer, shape.n_layers)], after)


def pixtral(config: Config, projector: Iterable[Part]) -> Tower:
    """Pixtral's encoder: RMSNorm, gated MLPs, rotary positions, no biases."""
    shape = vision_shape(config, usual=(1024, 24, 16, 4096))
    embedding = (
        patch_conv(config, shape.width, "patch_conv", bias=False, patch=16),
        Norm("ln_pre", shape.width),
    )
    layer = vision_layer(
        shape, norms=("attention_norm", "ffn_norm"), norm_bias=False, attn="attention",
        names=QKVO, attn_bias=False, mlp_bias=False,
        mlp_names=("feed_forward.gate_proj", "feed_forward.up_proj", "feed_forward.down_proj"),
    )  # fmt: skip
    return tower("vision tower", embedding, [stack(layer, shape.n_layers)], projector)


TOWERS = {"siglip_vision_model": siglip, "clip_vision_model": clip, "pixtral": pixtral}
WIDTHS = {"siglip_vision_model": 768, "clip_vision_model": 768, "pixtral": 1024}
