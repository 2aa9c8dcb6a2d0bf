"""Qwen2-VL to Qwen3.5 with their vision towers, and the text models of the VL series."""

from __future__ import annotations

from lmsize.model.blocks import gated_mlp
from lmsize.model.config import Config
from lmsize.model.family import family
from lmsize.model.mixture_blocks import (
    built,
    grouped_query,
    int_list,
    mixture_decoder,
    pre_norm_layer,
    read_shape,
    sparse_mlp,
)
from lmsize.model.multimodal_blocks import section_of, wrapped
from lmsize.model.parts import Embedding, Linear, Norm, Part
from lmsize.model.spec import Block, ModelSpec, Tower
from lmsize.model.vision_blocks import (
    VisionShape,
    patch_conv,
    sides,
    stack,
    tower,
    vision_layer,
    vision_shape,
)

FUSED = ("qkv", "proj")


@family("qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text", "qwen3_vl_moe_text")
def qwen_vl_text(config: Config) -> ModelSpec:
    """Qwen 2 has biases on queries, keys and values; Qwen 3 a norm on each head instead."""
    shape = read_shape(config)
    is_v3 = config.model_type.startswith("qwen3")
    bias = is_v3 and config.flag("attention_bias")
    attn = grouped_query(shape, qkv_bias=bias or not is_v3, out_bias=bias, qk_norm=is_v3)
    sparse = [False] * shape.n_layers
    if config.model_type == "qwen3_vl_moe_text":
        dense = set(int_list(config, "mlp_only_layers") or ())
        step, any_at_all = config.int("decoder_sparse_step"), config.int("num_experts", least=0)
        sparse = [
            bool(any_at_all) and i not in dense and (i + 1) % step == 0
            for i in range(shape.n_layers)
        ]

    def layer(is_sparse: bool) -> Block:
        if is_sparse:
            return pre_norm_layer(shape.width, attn, sparse_mlp(config, shape.width))
        mlp = gated_mlp(width=shape.width, ffn=config.int("intermediate_size"))
        return pre_norm_layer(shape.width, attn, mlp, sparse=False)

    return mixture_decoder(config, shape, built(sparse, layer))


@family("qwen3_5", "qwen3_5_moe", "qwen3_vl", "qwen3_vl_moe")
def qwen3_vl(config: Config) -> ModelSpec:
    """A tower with learned positions and a merger of patches; Qwen3-VL merges at some layers too."""
    return wrapped(config, _qwen3_towers, text_type=f"{config.model_type}_text")


def _qwen3_towers(config: Config, _text: ModelSpec) -> tuple[Tower, ...]:
    vision = section_of(config, "vision_config", f"{config.model_type}_vision")
    shape = _shape(vision)
    merged, out = shape.width * vision.int("spatial_merge_size") ** 2, vision.int("out_hidden_size")
    after = _merger("merger", shape.width, merged, out)
    if config.model_type.startswith("qwen3_vl"):
        for i, _ in enumerate(int_list(vision, "deepstack_visual_indexes") or ()):
            after += _merger(f"deepstack_merger_list.{i}", merged, merged, out)
    embedding = (
        _patches(vision, shape.width, bias=True),
        Embedding("pos_embed", vision.int("num_position_embeddings"), shape.width),
    )
    layer = vision_layer(
        shape, norms=("norm1", "norm2"), attn="attn", names=FUSED,
        mlp_names=("mlp.linear_fc1", "mlp.linear_fc2"),
    )  # fmt: skip
    return (tower("vision tower", embedding, [stack(layer, shape.n_layers)], after),)


def _shape(vision: Config) -> VisionShape:
    return vision_shape(vision, ("hidden_size", "depth", "num_heads", "intermediate_size"))


def _patches(vision: Config, width: int, *, bias: bool) -> Part:
    frames, _ = sides(vision, "temporal_patch_size")
    return patch_conv(
        vision, width, "patch_embed.proj", bias=bias, channels=vision.int("in_channels"),
        frames=frames,
    )  # fmt: skip


def _merger(name: str, normed: int, merged: int, out: int) -> tuple[Part, ...]:
    return (
        Norm(f"{name}.norm", normed, True),
        Linear(f"{name}.linear_fc1", merged, merged, True),
        Linear(f"{name}.linear_fc2", merged, out, True),
    )


@family("qwen2_vl", "qwen2_5_vl")
def qwen2_vl(config: Config) -> ModelSpec:
    """A tower with rotary positions; released configs have the text model's keys at the top."""
    return wrapped(config, _qwen2_towers, text_type=f"{config.model_type}_text")


def _qwen2_towers(config: Config, _text: ModelSpec) -> tuple[Tower, ...]:
    is_v2 = config.model_type == "qwen2_vl"
    names: tuple[str, ...] = ("mlp.fc1", "mlp.fc2")
    vision = section_of(config, "vision_config", f"{config.model_type}_vision")
    if is_v2:
        width = vision.int("embed_dim")
        ffn = int(width * vision.number("mlp_ratio"))
        shape = VisionShape(width, vision.int("depth"), vision.int("num_heads"), ffn)
        out = vision.int("hidden_size")
    else:
        shape, out = _shape(vision), vision.int("out_hidden_size")
        names = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    merged = shape.width * vision.int("spatial_merge_size") ** 2
    layer = vision_layer(
        shape, norms=("norm1", "norm2"), norm_bias=is_v2, attn="attn", names=FUSED, mlp_names=names
    )
    after = (
        Norm("merger.ln_q", shape.width, is_v2),
        Linear("merger.mlp.0", merged, merged, True),
        Linear("merger.mlp.2", merged, out, True),
    )
    embedding = (_patches(vision, shape.width, bias=False),)
    return (tower("vision tower", embedding, [stack(layer, shape.n_layers)], after),)
