"""Multimodal models around text decoders of this group: Qwen4-Exp, dots.3 Note."""

from __future__ import annotations

from dataclasses import replace

from lmsize.model.blocks import gated_mlp, layer_norm, mlp, rms_norm
from lmsize.model.config import DEEPEST, Config
from lmsize.model.families.latent_dots3 import dots3_note_text
from lmsize.model.families.moe_qwen4_exp import qwen4_exp_text
from lmsize.model.family import Reader, family
from lmsize.model.mixture_blocks import chosen, expert_bank, int_list, router
from lmsize.model.parts import AttentionCore, Conv, Embedding, Linear, Norm, Part
from lmsize.model.spec import Block, ModelSpec, Run, Tower, stacked


def wrapped(config: Config, text: Config, read: Reader, towers: tuple[Tower, ...]) -> ModelSpec:
    """The text decoder and the other towers, or the decoder alone for the causal class.

    The wrapper's own config says whether the head is tied, and the wrapper's class whether there
    is one.
    """
    if config.task == "CausalLM":
        inner, towers = text.replaced(architectures=[config.architecture]), ()
    else:
        kind = "TextModel" if config.task == "Model" else "ForCausalLM"
        tied = config.flag("tie_word_embeddings")
        inner = text.replaced(architectures=[kind], tie_word_embeddings=tied)
    spec = read(inner)
    return replace(
        spec,
        model_type=config.model_type,
        architecture=config.architecture,
        towers=(*towers, *spec.towers),
    )


def _tower(name: str, first: Block, layers: list[Block], last: Block) -> Tower:
    return Tower(name, (Run(first), *stacked(layers), Run(last)), "idle")


def _sections(config: Config, *keys: str) -> list[Config]:
    """The sub-configs; one that is absent has its class defaults throughout."""
    return [
        config.section(key) or config.replaced(**{key: {}}).section(key) or config for key in keys
    ]


def _patch(config: Config, key: str = "patch_size") -> int:
    """Pixels of a patch; a list gives both sides."""
    sides = int_list(config, key) if isinstance(config.given(key), list) else None
    if sides is None:
        return config.int(key) ** 2
    if len(sides) != 2 or min(sides) < 1:
        raise config.error(key, sides, "two positive whole numbers")
    return sides[0] * sides[1]


def _head_dim(config: Config, width: int, key: str) -> int:
    n_heads = config.int(key)
    if n_heads > width:
        raise config.error(key, n_heads, f"at most the width, {width}")
    return width // n_heads


# -- Qwen4-Exp -------------------------------------------------------------------------------


@family("qwen4_exp")
def qwen4_exp(config: Config) -> ModelSpec:
    """A vision transformer with learned positions in front of the text decoder."""
    text, vision = _sections(config, "text_config", "vision_config")
    return wrapped(config, text, qwen4_exp_text, (_qwen_vision(vision),))


def _qwen_vision(config: Config) -> Tower:
    width, ffn, n_heads = (
        config.int(key) for key in ("hidden_size", "intermediate_size", "num_heads")
    )
    head_dim = _head_dim(config, width, "num_heads")
    frames = config.given("temporal_patch_size")
    depth = frames[0] if isinstance(frames, list) and frames else config.int("temporal_patch_size")
    if not isinstance(depth, int) or isinstance(depth, bool) or not 1 <= depth <= 1024:
        raise config.error("temporal_patch_size", frames, "a whole number from 1 to 1024")
    kernel = depth * _patch(config)
    first = Block(
        "embedding",
        (
            Conv("patch_embed.proj", config.int("in_channels"), width, kernel),
            Embedding("pos_embed", config.int("num_position_embeddings"), width),
        ),
        "embedding",
    )
    layer = Block(
        "layer",
        (
            layer_norm("norm1", width),
            *_fused_attention(width, n_heads, head_dim, bias=True),
            layer_norm("norm2", width),
            *mlp(width=width, ffn=ffn, up="mlp.linear_fc1", down="mlp.linear_fc2"),
        ),
    )
    merged = width * config.int("spatial_merge_size") ** 2
    last = (
        layer_norm("merger.norm", width),
        Linear("merger.linear_fc1", merged, merged, True),
        Linear("merger.linear_fc2", merged, config.int("out_hidden_size"), True),
    )
    n_layers = config.int("depth")
    if n_layers > DEEPEST:
        raise config.error("depth", n_layers, f"at most {DEEPEST} layers")
    return _tower("vision", first, [layer] * n_layers, Block("merger", last))


def _fused_attention(width: int, n_heads: int, head_dim: int, *, bias: bool) -> tuple[Part, ...]:
    return (
        Linear("attn.qkv", width, 3 * width, bias, "column", n_heads),
        AttentionCore(n_heads, n_heads, head_dim, head_dim, causal=False, cache_width=0),
        Linear("attn.proj", width, width, bias, "row", n_heads),
    )


# -- dots.3 Note -----------------------------------------------------------------------------


@family("dots3_note")
def dots3_note(config: Config) -> ModelSpec:
    """Vision and audio towers, both with an adapter to the text's width."""
    vision, audio = _sections(config, "vision_config", "audio_config")
    text = config.section("text_config") or config.typed("dots3_note_text")
    towers = (_note_vision(vision), _note_audio(audio))
    return wrapped(config, text, dots3_note_text, towers)


def _note_vision(config: Config) -> Tower:
    """A vision transformer whose later layers have experts, more and more of them."""
    width = config.int("embed_dim", config.int("hidden_size"))
    key = "num_heads" if config.has("num_heads") else "num_attention_heads"
    n_heads, head_dim = config.int(key), _head_dim(config, width, key)
    biased = config.flag("use_bias", config.flag("attention_bias"))

    def layer(n_experts: int) -> Block:
        norms = (rms_norm("attn.q_norm", head_dim), rms_norm("attn.k_norm", head_dim))
        attn = (*_fused_attention(width, n_heads, head_dim, bias=biased), *norms)
        if n_experts:
            inner = _note_experts(config, width, n_experts)
        else:
            ffn = config.int("intermediate_size")
            inner = gated_mlp(width=width, ffn=ffn, bias=config.flag("mlp_bias"))
        return Block("layer", (rms_norm("norm1", width), *attn, rms_norm("norm2", width), *inner))

    patch = Conv("patch_embed.proj", config.int("num_channels"), width, _patch(config))
    first = Block("embedding", (patch, rms_norm("patch_embed.norm", width)), "embedding")
    context = config.int("adapter_in_dim")
    merged = context * config.int("adapter_merge_size") ** 2
    last = (
        layer_norm("merger.ln_q", context),
        Linear("merger.mlp.0", merged, merged, True),
        Linear("merger.mlp.2", merged, config.int("adapter_out_dim"), True),
        rms_norm("norm", width),
    )
    layers = [layer(n) for n in _note_pyramid(config)]
    return _tower("vision", first, layers, Block("merger", last))


def _note_experts(config: Config, width: int, n_experts: int) -> tuple[Part, ...]:
    top_k = chosen(config, "num_experts_per_tok", n_experts, 2)
    ffn = config.int("moe_intermediate_size")
    return router(width, n_experts, "mlp.gate"), expert_bank(width, ffn, n_experts, top_k)


def _note_pyramid(config: Config) -> list[int]:
    """Experts of each vision layer, 0 where it is dense."""
    n_layers, counts = config.int("num_hidden_layers"), config.sequence("pyramid_num_routed")
    kinds = config.per_layer("mlp_layer_types", n_layers, ("dense", "sparse"))
    if counts is None and kinds is None:
        counts = [*[-1] * 25, *range(4, 65, 4), 64]
    if counts is not None:
        if len(counts) != n_layers or not all(type(n) is int and n < 2**31 for n in counts):
            raise config.error("pyramid_num_routed", counts, f"{n_layers} whole numbers")
        return [max(n, 0) for n in counts]
    usual, own = config.int("num_local_experts"), config.section("per_layer_config")
    experts = []
    for i, kind in enumerate(kinds or []):
        layer = own.section(str(i)) if own else None
        n_experts = layer.int("num_local_experts", usual) if layer else usual
        experts.append(n_experts if kind == "sparse" else 0)
    return experts


def _note_audio(config: Config) -> Tower:
    """Three strided convolutions over the spectrogram, then a transformer."""
    older = config.section("whisper_config") or Config({}, "")

    def size(name: str, key: str) -> int:
        return older.int(name) if older.has(name) else config.int(key)

    width, ffn = size("d_model", "hidden_size"), size("encoder_ffn_dim", "intermediate_size")
    n_heads = size("encoder_attention_heads", "num_attention_heads")
    n_layers, biased = size("encoder_layers", "num_hidden_layers"), config.flag("attention_bias")
    narrow, mels = config.int("downsample_hidden_size"), size("num_mel_bins", "feature_size")
    convs = [Conv(f"conv_stem.convs.{i}", n, narrow, 9) for i, n in enumerate((1, narrow, narrow))]
    out = Linear("conv_stem.conv_out", narrow * ((mels + 7) // 8), width)
    if n_heads > width:
        raise config.error("num_attention_heads", n_heads, f"at most the width, {width}")
    head_dim, name = width // n_heads, "self_attn"
    inner = n_heads * head_dim
    parts = (
        Linear(f"{name}.q_proj", width, inner, biased, "column", n_heads),
        Linear(f"{name}.k_proj", width, width, False, "column", n_heads),
        Linear(f"{name}.v_proj", width, inner, biased, "column", n_heads),
        AttentionCore(n_heads, n_heads, head_dim, head_dim, causal=False, cache_width=0),
        Linear(f"{name}.o_proj", inner, width, biased, "row", n_heads),
        rms_norm("input_layernorm", width), rms_norm("post_attention_layernorm", width),
        Linear("mlp.gate_up_proj", width, 2 * ffn, True, "column"),
        Linear("mlp.down_proj", ffn, width, True, "row"),
    )  # fmt: skip
    first = Block("embedding", (*convs, out), "embedding")
    last = Block("adapter", (rms_norm("layer_norm", width), *_note_adapter(config)))
    return _tower("audio", first, [Block("layer", parts)] * n_layers, last)


def _note_adapter(config: Config) -> tuple[Part, ...]:
    read = config.int("whisper_adapter_in_dim", config.int("adapter_input_size"))
    wide = config.int("adapter_output_size", config.int("adapter_out_dim"))
    wide = config.int("whisper_adapter_out_dim", wide)
    return (
        Norm("adapter.norm", read, True),
        Linear("adapter.fc1", read, wide, True),
        Linear("adapter.fc2", wide, wide, True),
    )
