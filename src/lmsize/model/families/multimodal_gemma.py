"""Gemma 3, 3n and 4 with their vision and audio towers."""

from __future__ import annotations

from lmsize.model.blocks import rms_norm
from lmsize.model.config import Config
from lmsize.model.family import family
from lmsize.model.mixture_blocks import int_list
from lmsize.model.multimodal_blocks import section_of, wrapped
from lmsize.model.parts import Conv, Embedding, Linear, Norm, Part, Plain
from lmsize.model.siglip_blocks import siglip
from lmsize.model.spec import Block, ModelSpec, Tower
from lmsize.model.vision_blocks import sides, stack, tower

# timm's mobilenetv5_300m_enc, the only vision tower that Gemma 3n comes with.
MOBILENET_V5 = 294_126_912


@family("gemma3")
def gemma3(config: Config) -> ModelSpec:
    """Gemma 3: SigLIP and one projection."""
    return wrapped(config, _gemma3_towers, text_type="gemma3_text")


def _gemma3_towers(config: Config, text: ModelSpec) -> tuple[Tower, ...]:
    vision = section_of(config, "vision_config", "siglip_vision_model")
    width = siglip_width(vision)
    projector = (
        Linear("multi_modal_projector.mm_input_projection", width, text.width, adaptable=False),
        rms_norm("multi_modal_projector.mm_soft_emb_norm", width),
    )
    return (siglip(vision, projector),)


def siglip_width(vision: Config) -> int:
    """The width of a SigLIP tower."""
    return vision.int("hidden_size", 768)


@family("gemma4")
def gemma4(config: Config) -> ModelSpec:
    """Gemma 4: vision and audio towers, each if the config has it."""
    return wrapped(config, _gemma4_towers, text_type="gemma4_text")


def _gemma4_towers(config: Config, text: ModelSpec) -> tuple[Tower, ...]:
    towers = []
    if config.has("vision_config"):
        towers.append(_gemma4_vision(section_of(config, "vision_config", "gemma4_vision"), text))
    if config.has("audio_config"):
        towers.append(_gemma4_audio(section_of(config, "audio_config", "gemma4_audio"), text))
    return tuple(towers)


def _gemma4_vision(config: Config, text: ModelSpec) -> Tower:
    width, n_layers, n_heads, ffn = (
        config.int(f"{key}")
        for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    )
    head_dim, n_kv_heads = config.int("head_dim"), config.int("num_key_value_heads")
    patch = config.int("patch_size")
    attn = attention_of(width, n_heads, n_kv_heads, head_dim)
    norms = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm")
    parts: tuple[Part, ...] = (
        *attn, *(Norm(f"self_attn.{n}_norm", head_dim) for n in "qk"),
        *(Linear(f"mlp.{n}_proj.linear", width, ffn) for n in ("gate", "up")),
        Linear("mlp.down_proj.linear", ffn, width),
        *(rms_norm(norm, width) for norm in (*norms, "post_feedforward_layernorm")),
    )  # fmt: skip
    table = (2, config.int("position_embedding_size"), width)
    return tower(
        "vision tower",
        (
            Linear("patch_embedder.input_proj", 3 * patch * patch, width),
            Plain("patch_embedder.position_embedding_table", table),
        ),
        [stack(Block("vision layer", parts), n_layers)],
        [Linear("embed_vision.embedding_projection", width, text.width)],
    )  # fmt: skip


def attention_of(width: int, n_heads: int, n_kv_heads: int, head_dim: int) -> tuple[Part, ...]:
    """The four projections of Gemma 4's clipped linears, each a module inside another."""
    return (
        Linear("self_attn.q_proj.linear", width, n_heads * head_dim),
        Linear("self_attn.k_proj.linear", width, n_kv_heads * head_dim),
        Linear("self_attn.v_proj.linear", width, n_kv_heads * head_dim),
        Linear("self_attn.o_proj.linear", n_heads * head_dim, width),
    )


def _gemma4_audio(config: Config, text: ModelSpec) -> Tower:
    width, n_heads = config.int("hidden_size"), config.int("num_attention_heads")
    inner = n_heads * (width // n_heads)
    out = config.int("output_proj_dims")
    attn: tuple[Part, ...] = (
        *(Linear(f"self_attn.{n}_proj.linear", width, inner) for n in "qkv"),
        Linear("self_attn.post.linear", width, width),
        Linear("self_attn.relative_k_proj", width, inner),
        Plain("self_attn.per_dim_scale", (width // n_heads,)),
        *(rms_norm(f"norm_{n}", width) for n in ("pre_attn", "post_attn", "out")),
    )
    layer = Block("audio layer", (
        *attn, *_conformer(width, config.int("conv_kernel_size"), ".linear"),
        *_feed_forward("feed_forward1", width, ".linear"),
        *_feed_forward("feed_forward2", width, ".linear"),
    ))  # fmt: skip
    first, second = _two_channels(config, "subsampling_conv_channels")
    embedding = _subsampling(first, second, (9, 9), (first // 4) * second, width)
    after = (
        Linear("output_proj", width, out, True),
        Linear("embed_audio.embedding_projection", out, text.width),
    )
    return tower("audio tower", embedding, [stack(layer, config.int("num_hidden_layers"))], after)


def _two_channels(config: Config, key: str) -> tuple[int, int]:
    channels = int_list(config, key) or [128, 32]
    if len(channels) != 2 or not all(channels):
        raise config.error(key, channels, "a list of two whole numbers")
    return channels[0], channels[1]


def _subsampling(
    first: int, second: int, kernels: tuple[int, int], flat: int, width: int
) -> tuple[Part, ...]:
    """Two strided convolutions over the spectrogram, and a projection."""
    pre = "subsample_conv_projection"
    return (
        Conv(f"{pre}.conv_0.conv", 1, first, kernels[0], bias=False),
        Norm(f"{pre}.conv_0.norm", first),
        Conv(f"{pre}.conv_1.conv", first, second, kernels[1], bias=False),
        Norm(f"{pre}.conv_1.norm", second),
        Linear(f"{pre}.input_proj_linear", flat, width),
    )


def _conformer(width: int, kernel: int, inside: str = "") -> tuple[Part, ...]:
    """The conformer's gated depthwise convolution."""
    return (
        rms_norm("lconv1d.pre_layer_norm", width),
        Linear(f"lconv1d.linear_start{inside}", width, 2 * width),
        Conv("lconv1d.depthwise_conv1d", width, width, kernel, width, bias=False),
        rms_norm("lconv1d.conv_norm", width),
        Linear(f"lconv1d.linear_end{inside}", width, width),
    )


def _feed_forward(prefix: str, width: int, inside: str = "") -> tuple[Part, ...]:
    return (
        rms_norm(f"{prefix}.pre_layer_norm", width),
        Linear(f"{prefix}.ffw_layer_1{inside}", width, 4 * width),
        Linear(f"{prefix}.ffw_layer_2{inside}", 4 * width, width),
        rms_norm(f"{prefix}.post_layer_norm", width),
    )


@family("gemma4_unified")
def gemma4_unified(config: Config) -> ModelSpec:
    """Gemma 4 without towers: patches and sound go in through one projection each."""
    return wrapped(config, _unified_towers, text_type="gemma4_unified_text")


def _unified_towers(config: Config, text: ModelSpec) -> tuple[Tower, ...]:
    towers = []
    if config.has("vision_config"):
        vision = section_of(config, "vision_config", "gemma4_unified_vision")
        side = vision.int("patch_size") * vision.int("pooling_kernel_size")
        width, out = vision.int("mm_embed_dim"), vision.int("output_proj_dims")
        parts = (
            Norm("embed_vision.patch_ln1", 3 * side * side, True),
            Linear("embed_vision.patch_dense", 3 * side * side, width, True),
            Norm("embed_vision.patch_ln2", width, True),
            Plain("embed_vision.pos_embedding", (vision.int("mm_posemb_size"), 2, width)),
            Norm("embed_vision.pos_norm", width, True),
        )
        after = Linear("embed_vision.multimodal_embedder.embedding_projection", out, text.width)
        towers.append(tower("vision tower", parts, [], [after]))
    if config.has("audio_config"):
        audio = section_of(config, "audio_config", "gemma4_unified_audio")
        width = audio.int("audio_embed_dim")
        after = Linear("embed_audio.embedding_projection", width, text.width)
        towers.append(tower("audio tower", (), [], [after]))
    return tuple(towers)


@family("gemma3n")
def gemma3n(config: Config) -> ModelSpec:
    """Gemma 3n: MobileNet-V5, a conformer, and a small vocabulary for each."""
    return wrapped(config, _gemma3n_towers, text_type="gemma3n_text")


def _gemma3n_towers(config: Config, text: ModelSpec) -> tuple[Tower, ...]:
    vision = section_of(config, "vision_config", "gemma3n_vision")
    audio = section_of(config, "audio_config", "gemma3n_audio")
    name = vision.text("architecture")
    config.assume(
        "vision-tower", f"the vision tower {name} is counted as timm's mobilenetv5_300m_enc, which has {MOBILENET_V5:,} parameters",
    )  # fmt: skip
    return (
        tower(
            "vision tower", [Plain("timm_model", (MOBILENET_V5,))], [],
            _soft_embedder("embed_vision", vision, text),
        ),
        _gemma3n_audio(audio, text),
    )  # fmt: skip


def _soft_embedder(name: str, config: Config, text: ModelSpec) -> tuple[Part, ...]:
    width = config.int("hidden_size")
    return (
        Embedding(f"{name}.embedding", config.int("vocab_size"), width),
        rms_norm(f"{name}.hard_embedding_norm", width),
        rms_norm(f"{name}.soft_embedding_norm", width),
        Linear(f"{name}.embedding_projection", width, text.width),
    )


def _gemma3n_audio(config: Config, text: ModelSpec) -> Tower:
    width, n_heads = config.int("hidden_size"), config.int("conf_num_attention_heads")
    inner = n_heads * (width // n_heads)
    layer = Block("audio layer", (
        *_feed_forward("ffw_layer_start", width), *_feed_forward("ffw_layer_end", width),
        *_conformer(width, config.int("conf_conv_kernel_size")),
        *(Linear(f"attention.attn.{n}_proj", width, inner) for n in "qkv"),
        Linear("attention.attn.relative_position_embedding.pos_proj", width, inner),
        Plain("attention.attn.per_dim_scale", (width // n_heads,)),
        Linear("attention.post", width, width),
        *(rms_norm(n, width) for n in ("attention.pre_attn_norm", "attention.post_norm", "norm")),
    ))  # fmt: skip
    first, second = _two_channels(config, "sscp_conv_channel_size")
    kernels, strides = (_pairs(config, f"sscp_conv_{key}_size") for key in ("kernel", "stride"))
    features = config.int("input_feat_size")
    for (_, wide), (_, stride) in zip(kernels, strides, strict=True):
        features = (features + 2 - wide) // stride + 1
    embedding = _subsampling(
        first, second, (kernels[0][0] * kernels[0][1], kernels[1][0] * kernels[1][1]),
        max(features, 1) * second, width,
    )  # fmt: skip
    return tower(
        "audio tower", embedding, [stack(layer, config.int("conf_num_hidden_layers"))],
        _soft_embedder("embed_audio", config, text),
    )  # fmt: skip


def _pairs(config: Config, key: str) -> list[tuple[int, int]]:
    """Two pairs of whole numbers, of time and frequency."""
    listed = config.sequence(key) or []
    pairs = [
        sides(config.replacing({"pair": list(p) if isinstance(p, tuple) else p}), "pair")
        for p in listed
    ]
    if len(pairs) != 2:
        raise config.error(key, listed, "two pairs of whole numbers")
    return pairs
