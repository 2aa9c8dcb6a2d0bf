"""Step-3.5-Flash and Step-3.7, which adds a vision tower."""

from __future__ import annotations

from lmsize.model.blocks import gated_mlp
from lmsize.model.config import Config
from lmsize.model.family import family
from lmsize.model.mixture_blocks import (
    Shape,
    built,
    grouped_query,
    mixture_decoder,
    nullable_int,
    pre_norm_layer,
    read_shape,
    shared_mlp,
    sparse_mlp,
)
from lmsize.model.multimodal_blocks import section_of, wrapped
from lmsize.model.parts import Conv, Embedding, Linear, Norm, Part, Plain
from lmsize.model.spec import Block, ModelSpec, Tower
from lmsize.model.vision_blocks import (
    VisionShape,
    n_patches,
    patch_conv,
    stack,
    tower,
    vision_layer,
)

SLIDING = "sliding_attention"


@family("step3p5")
def step(config: Config) -> ModelSpec:
    """Full and sliding attention with a gate a head; experts after the first three layers."""
    shape = read_shape(config)
    kinds = _listed(config, "layer_types", shape.n_layers, ("full_attention", SLIDING))
    kinds = kinds or ["full_attention"] * shape.n_layers
    sparse = _sparse(config, shape.n_layers)
    bias, width = config.flag("mlp_bias"), shape.width

    def layer(kind: tuple[str, bool]) -> Block:
        ffn: tuple[Part, ...] = gated_mlp(
            width=width, ffn=config.int("intermediate_size"), bias=bias
        )
        if kind[1]:
            shared = shared_mlp(width, config.int("share_expert_dim"), bias=bias)
            ffn = (*sparse_mlp(config, width, n_key="n_routed_experts"), *shared)
        return pre_norm_layer(width, _attention(config, shape, kind[0]), ffn, sparse=kind[1])

    return mixture_decoder(config, shape, built(zip(kinds, sparse, strict=True), layer))


def _attention(config: Config, shape: Shape, kind: str) -> tuple[Part, ...]:
    """Sliding layers may have more query heads."""
    bias, heads, window = config.flag("attention_bias"), shape.n_heads, None
    if kind == SLIDING:
        heads, window = (
            _sliding_heads(config, heads),
            nullable_int(config, "sliding_window") or None,
        )
    gate = heads if config.given("gating") in (None, True, "per-head") else heads * shape.head_dim
    return (
        *grouped_query(
            shape, qkv_bias=bias, out_bias=bias, window=window, qk_norm=True, n_heads=heads
        ),
        Linear("self_attn.g_proj", shape.width, gate, split="column"),
    )


def _sliding_heads(config: Config, n_heads: int) -> int:
    if config.has("num_sliding_attention_heads"):
        return config.int("num_sliding_attention_heads")
    other = config.section("attention_other_setting")
    return other.int("num_attention_heads", n_heads) if other is not None else n_heads


def _listed(config: Config, key: str, n_layers: int, kinds: tuple[str, ...]) -> list[str] | None:
    """A list with a word a layer, without those of the layers that predict further tokens."""
    listed = config.sequence(key)
    n_further = nullable_int(config, "num_nextn_predict_layers") or 0
    if listed is not None and len(listed) == n_layers + n_further:
        config = config.replacing({key: listed[:n_layers]})
    return config.per_layer(key, n_layers, kinds)


def _sparse(config: Config, n_layers: int) -> list[bool]:
    kinds = _listed(config, "mlp_layer_types", n_layers, ("dense", "sparse"))
    if kinds is not None:
        return [kind == "sparse" for kind in kinds]
    given = config.given("moe_layers_enum")
    if given is None:
        return [i >= 3 for i in range(n_layers)]
    items = given.split(",") if isinstance(given, str) else given
    try:
        numbers = {int(item) for item in items if str(item).strip()}
    except (TypeError, ValueError):
        raise config.error("moe_layers_enum", given, "layer numbers") from None
    return [i in numbers for i in range(n_layers)]


@family("step3p7")
def step3p7(config: Config) -> ModelSpec:
    """Step-3.7: a tower that ends in two strided convolutions."""
    return wrapped(config, _towers, text_type="step3p5", forced=True)


def _towers(config: Config, text: ModelSpec) -> tuple[Tower, ...]:
    vision = section_of(config, "vision_config", "step3p5_vision")
    older = {"width": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads"}
    vision = vision.replacing({new: vision.raw[o] for o, new in older.items() if vision.has(o)})
    width, n_heads = vision.int("hidden_size"), vision.int("num_attention_heads")
    ffn = int(width * vision.number("mlp_ratio"))
    if ffn < 1 or n_heads > width:
        raise vision.error("mlp_ratio", vision.given("mlp_ratio"), "a ratio that leaves an MLP")
    shape = VisionShape(width, vision.int("num_hidden_layers"), n_heads, ffn)
    embedding = (
        patch_conv(vision, width, "embeddings.patch_embedding", bias=False),
        Embedding("embeddings.position_embedding", n_patches(vision), width),
        Norm("pre_layernorm", width, True),
    )
    scales = (Plain("lambda_1", (width,)), Plain("lambda_2", (width,)))
    layer = vision_layer(shape, norms=("layernorm_before", "layernorm_after"), extra=scales)
    after = (
        Conv("downsampler1", width, 2 * width, 9),
        Conv("downsampler2", 2 * width, 4 * width, 9),
        Linear("multi_modal_projector", 4 * width, text.width, config.flag("projector_bias")),
    )
    return (tower("vision tower", embedding, [stack(layer, shape.n_layers)], after),)
