"""Wrappers of one vision tower: Llama 4, Kimi-K2.5, Mistral 3, LLaVA, PaliGemma."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lmsize.model.config import Config
from lmsize.model.family import family
from lmsize.model.multimodal_blocks import section_of, wrapped
from lmsize.model.parts import Linear, Norm, Part, Plain
from lmsize.model.siglip_blocks import TOWERS, WIDTHS
from lmsize.model.spec import ModelSpec, Tower
from lmsize.model.vision_blocks import (
    QKVO,
    n_patches,
    patch_conv,
    sides,
    stack,
    tower,
    vision_layer,
    vision_shape,
)

# What a wrapper's class builds when its config has no vision section at all.
WHOLE = {
    "llava": {
        "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096,
        "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 336, "patch_size": 14,
    },
    "paligemma": {
        "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4096,
        "num_hidden_layers": 27, "num_attention_heads": 16, "image_size": 224, "patch_size": 14,
        "vision_use_head": False,
    },
    "mistral3": {
        "model_type": "pixtral", "hidden_size": 1024, "intermediate_size": 4096,
        "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 1540, "patch_size": 14,
    },
}  # fmt: skip


@family("llama4")
def llama4(config: Config) -> ModelSpec:
    """Llama 4: a tower whose patches are shuffled into fewer, wider ones."""
    return wrapped(config, _llama4_towers, text_type="llama4_text", tie="text")


def _llama4_towers(config: Config, text: ModelSpec) -> tuple[Tower, ...]:
    vision = section_of(config, "vision_config", "llama4_vision_model")
    shape = vision_shape(vision)
    tall, wide = sides(vision, "patch_size")
    width, pixels = shape.width, vision.int("num_channels") * tall * wide
    embedding = (
        Linear("patch_embedding.linear", pixels, width),
        Plain("class_embedding", (width,)),
        Plain("positional_embedding_vlm", (n_patches(vision) + 1, width)),
        Norm("layernorm_pre", width, True),
    )
    layer = vision_layer(shape, norms=("input_layernorm", "post_attention_layernorm"), names=QKVO)
    out = vision.int("projector_output_dim")
    after = (
        Norm("layernorm_post", width, True),
        Linear("vision_adapter.mlp.fc1", shape.ffn, vision.int("projector_input_dim")),
        Linear("vision_adapter.mlp.fc2", out, out),
        Linear("multi_modal_projector.linear_1", vision.int("vision_output_dim"), text.width),
    )
    return (tower("vision tower", embedding, [stack(layer, shape.n_layers)], after),)


@family("kimi_k25")
def kimi_k25(config: Config) -> ModelSpec:
    """Kimi-K2.5: MoonViT before a DeepSeek-V3; released configs spell the tower's keys otherwise."""
    return wrapped(config, _kimi_towers, text_type="deepseek_v3")


def _respelled(section: Config, spellings: Mapping[str, str]) -> Config:
    values: dict[str, Any] = {
        new: section.raw[old] for old, new in spellings.items() if section.has(old)
    }
    return section.replacing(values)


def _kimi_towers(config: Config, text: ModelSpec) -> tuple[Tower, ...]:
    vision = _respelled(
        section_of(config, "vision_config", "kimi_k25_vision"),
        {
            "vt_hidden_size": "hidden_size", "vt_intermediate_size": "intermediate_size",
            "vt_num_hidden_layers": "num_hidden_layers",
            "vt_num_attention_heads": "num_attention_heads",
            "init_pos_emb_height": "pos_emb_height", "init_pos_emb_width": "pos_emb_width",
        },
    )  # fmt: skip
    shape = vision_shape(vision)
    grid = (vision.int("pos_emb_height"), vision.int("pos_emb_width"), shape.width)
    embedding = (
        patch_conv(vision, shape.width, "patch_embed.proj", bias=True, channels=3),
        Plain("patch_embed.pos_emb.position_embeddings", grid),
    )
    layer = vision_layer(
        shape, norms=("norm1", "norm2"), attn="attn", names=("q_proj", "k_proj", "v_proj", "proj")
    )
    tall, wide = sides(vision, "merge_kernel_size", 2)
    merged = shape.width * tall * wide
    normed = vision.int("mm_hidden_size") if vision.has("mm_hidden_size") else None
    after = (
        Norm("final_layernorm", shape.width, True),
        Norm("mm_projector.pre_norm", normed or config.int("projection_hidden_size"), True),
        Linear("mm_projector.in_proj", merged, merged, True),
        Linear("mm_projector.out_proj", merged, text.width, True),
    )
    return (tower("vision tower", embedding, [stack(layer, shape.n_layers)], after),)


@family("mistral3", "llava")
def llava(config: Config) -> ModelSpec:
    """A known tower and a projector of two layers; Mistral 3 merges patches before it."""
    is_mistral = config.model_type == "mistral3"
    return wrapped(
        config, _llava_towers, text_type="mistral" if is_mistral else "llama",
        tie="whole" if is_mistral else "either",
    )  # fmt: skip


def _llava_towers(config: Config, text: ModelSpec) -> tuple[Tower, ...]:
    bias = config.flag("multimodal_projector_bias")

    def projector(width: int) -> tuple[Part, ...]:
        pre = "multi_modal_projector"
        merger: tuple[Part, ...] = ()
        if config.model_type == "mistral3":
            merged = width * config.int("spatial_merge_size") ** 2
            merger = (
                Norm(f"{pre}.norm", width),
                Linear(f"{pre}.patch_merger.merging_layer", merged, width),
            )
        layers = config.given("vision_feature_layer")
        n_features = len(layers) if isinstance(layers, list) else 1
        return (
            *merger,
            Linear(f"{pre}.linear_1", width * n_features, text.width, bias),
            Linear(f"{pre}.linear_2", text.width, text.width, bias),
        )

    return _known_tower(config, projector)


@family("paligemma")
def paligemma(config: Config) -> ModelSpec:
    """SigLIP and one linear projection before a Gemma."""
    return wrapped(config, _paligemma_towers, text_type="gemma")


def _paligemma_towers(config: Config, _text: ModelSpec) -> tuple[Tower, ...]:
    out = config.int("projection_dim")
    return _known_tower(
        config, lambda width: (Linear("multi_modal_projector.linear", width, out, True),)
    )


def _known_tower(config: Config, projector: Callable[[int], tuple[Part, ...]]) -> tuple[Tower, ...]:
    """The tower of the vision section by its type; of another type, none, and said so."""
    usual = WHOLE[config.model_type]
    whole = config if config.has("vision_config") else config.replacing({"vision_config": usual})
    section = whole.section("vision_config", str(usual["model_type"]))
    assert section is not None
    build = TOWERS.get(section.model_type)
    if build is None:
        config.assume(
            "vision-tower", f"the vision tower {section.model_type!r} is not known: not counted"
        )
        return ()
    width = section.int("hidden_size", WIDTHS[section.model_type])
    return (build(section, projector(width)),)
