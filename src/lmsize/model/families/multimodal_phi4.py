"""Phi-4 multimodal: Phi-3's decoder, and encoders of images and speech that a text leaves idle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from lmsize.model.blocks import layer_norm
from lmsize.model.config import Config
from lmsize.model.families.dense_fused import phi3
from lmsize.model.family import family
from lmsize.model.multimodal_blocks import section_of
from lmsize.model.parts import AttentionCore, Conv, Embedding, Linear, Part, Plain
from lmsize.model.siglip_blocks import siglip
from lmsize.model.spec import Block, ModelSpec, Tower
from lmsize.model.vision_blocks import stack, tower


@family("phi4_multimodal")
def phi4_multimodal(config: Config) -> ModelSpec:
    """The decoder after both encoders."""
    text = phi3(config)
    towers = (_vision(config, text.width), _audio(config, text.width))
    return replace(text, towers=(*towers, *text.towers))


def _vision(config: Config, width: int) -> Tower:
    """SigLIP, projected in two steps; markers of where a picture's parts end."""
    vision = section_of(config, "vision_config", "phi4_multimodal_vision")
    own = vision.int("hidden_size")
    return siglip(vision, (
        Linear("img_projection_up", own, width, True), Linear("img_projection_down", width, width, True),
        Plain("global_img_feature_extensor", (1, 1, own)),
        Plain("sub_img_feature_extensor", (1, 1, 1, own)),
    ))  # fmt: skip


def _audio(config: Config, width: int) -> Tower:
    """A conformer over a spectrum that convolutions have thinned out, projected alone or with images."""
    audio = section_of(config, "audio_config", "phi4_multimodal_audio")
    own, n_heads = audio.int("hidden_size"), audio.int("num_attention_heads")
    n_buckets = audio.int("bias_max_distance") * (1 if audio.flag("bias_symmetric") else 2)
    embedding = (*_thinned(audio, own), Embedding("bias_values", n_buckets, n_heads))
    n_in = own * audio.int("downsample_rate")
    projections = [
        Linear(f"{step}_proj_for_{what}", n_in if step == "up" else width, width, True)
        for what in ("speech", "vision_speech") for step in ("up", "down")
    ]  # fmt: skip
    layer = Block("audio layer", tuple(_conformer(audio, own, n_heads)))
    return tower("audio tower", embedding, [stack(layer, audio.int("num_blocks"))], projections)


def _thinned(audio: Config, own: int) -> Iterator[Part]:
    """Convolutions of stride 2 over time and frequency, all but the first of them separable."""
    n_channels, size = audio.int("nemo_conv_channels"), audio.int("input_size")
    n_steps = audio.int("time_reduction").bit_length() - 1
    for at in range(n_steps):
        yield Plain(f"embed.conv.{3 * at}.weight", (n_channels, 1, 3, 3))
        yield Plain(f"embed.conv.{3 * at}.bias", (n_channels,))
        if at:
            yield Conv(f"embed.conv.{3 * at + 1}", n_channels, n_channels, 1)
        size = (size + 1) // 2
    yield Linear("embed.out", n_channels * size, own, True)


def _conformer(audio: Config, own: int, n_heads: int) -> Iterator[Part]:
    """Half an MLP before attention and a convolution, half after."""
    yield from _mlp("feed_forward_in", audio, own)
    for name in ("q", "k", "v"):
        yield Linear(f"self_attn.{name}_proj", own, own, True, "column", n_heads)
    yield AttentionCore(n_heads, n_heads, own // n_heads, own // n_heads, causal=False)
    yield Linear("self_attn.o_proj", own, own, True, "row", n_heads)
    n_out, inner = audio.int("ext_pw_out_channel"), own * audio.int("depthwise_multiplier")
    yield layer_norm("conv.layer_norm", own)
    yield Conv("conv.glu.ext_pw_conv_1d", own, 2 * n_out, 1)
    yield Plain("conv.glu.b1", (1, n_out, 1))
    yield Plain("conv.glu.b2", (1, n_out, 1))
    yield Conv("conv.dw_sep_conv_1d.dw_conv", own, inner, audio.int("kernel_size"), own)
    yield Conv(
        "conv.dw_sep_conv_1d.pw_conv", inner, audio.int("depthwise_separable_out_channel"), 1
    )
    yield Conv("conv.ext_pw_conv_1d", own, n_out, 1)
    yield from _mlp("feed_forward_out", audio, own)
    yield layer_norm("layer_norm_att", own)
    yield layer_norm("layer_norm", own)


def _mlp(name: str, audio: Config, own: int) -> Iterator[Part]:
    ffn = audio.int("intermediate_size")
    yield layer_norm(f"{name}.layer_norm", own)
    yield Linear(f"{name}.gate_up_proj", own, 2 * ffn, True)
    yield Linear(f"{name}.down_proj", ffn, own, True)
