"""Llama 3.2 Vision: cross attention to a tiled image in some layers."""

from __future__ import annotations

from lmsize.model.blocks import attention, decoder, decoder_head, gated_mlp, lm_head, rms_norm
from lmsize.model.config import Config
from lmsize.model.family import family
from lmsize.model.mixture_blocks import (
    Shape,
    grouped_query,
    int_list,
    pre_norm_layer,
    qk_norms,
    read_shape,
)
from lmsize.model.multimodal_blocks import section_of, wrapped
from lmsize.model.parts import Embedding, Linear, Norm, Part, Plain
from lmsize.model.spec import Block, ModelSpec, Tower
from lmsize.model.vision_blocks import (
    QKVO,
    VisionShape,
    n_patches,
    patch_conv,
    stack,
    tower,
    vision_layer,
    vision_shape,
)

N_EXTRA_TOKENS = 8  # rows of the token table beyond the head's


@family("mllama_text_model")
def mllama_text(config: Config) -> ModelSpec:
    """Llama with layers that attend to the image instead of the text; the head is never tied."""
    shape = read_shape(config)
    listed = int_list(config, "cross_attention_layers")
    crossing = set([3, 8, 13, 18, 23, 28, 33, 38] if listed is None else listed)
    ffn = gated_mlp(width=shape.width, ffn=config.int("intermediate_size"))
    own = pre_norm_layer(shape.width, grouped_query(shape), ffn, sparse=False)
    cross = Block("cross-attention layer", _crossing(shape, ffn))
    table = Embedding("embed_tokens", shape.vocab + N_EXTRA_TOKENS, shape.width, is_vocabulary=True)
    lm = lm_head(width=shape.width, vocab=shape.vocab, tied=False)
    return decoder(
        config, width=shape.width, n_layers=shape.n_layers, n_heads=shape.n_heads,
        vocab=shape.vocab, embedding=Block("embedding", (table,), "embedding"),
        layers=[cross if i in crossing else own for i in range(shape.n_layers)],
        head=decoder_head(config, width=shape.width, lm=[lm], final=[rms_norm("norm", shape.width)]),
        max_positions=config.optional_int("max_position_embeddings"),
    )  # fmt: skip


def _crossing(shape: Shape, ffn: tuple[Part, ...]) -> tuple[Part, ...]:
    """Without an image there is nothing to attend to, and no cache of the text."""
    attn = attention(
        width=shape.width, n_heads=shape.n_heads, n_kv_heads=shape.n_kv_heads,
        head_dim=shape.head_dim, prefix="cross_attn", cross=True,
    )  # fmt: skip
    return (
        rms_norm("input_layernorm", shape.width), *attn,
        *qk_norms(shape.head_dim, shape.head_dim, "cross_attn"),
        Plain("cross_attn_attn_gate", (1,)),
        rms_norm("post_attention_layernorm", shape.width), *ffn,
        Plain("cross_attn_mlp_gate", (1,)),
    )  # fmt: skip


@family("mllama")
def mllama(config: Config) -> ModelSpec:
    """Llama 3.2 Vision."""
    return wrapped(config, _towers, text_type="mllama_text_model", tie="text")


def _towers(config: Config, text: ModelSpec) -> tuple[Tower, ...]:
    vision = section_of(config, "vision_config", "mllama_vision_model")
    keys = ("hidden_size", "num_hidden_layers", "attention_heads", "intermediate_size")
    shape = vision_shape(vision, keys)
    norms = ("input_layernorm", "post_attention_layernorm")
    gates = (Plain("gate_attn", (1,)), Plain("gate_ffn", (1,)))
    local, with_gates = (
        vision_layer(shape, norms=norms, names=QKVO, attn_bias=False, extra=extra)
        for extra in ((), gates)
    )
    after = (
        Norm("layernorm_post", shape.width, True),
        Linear("multi_modal_projector", vision.int("vision_output_dim"), text.width, True),
    )
    layers = [stack(local, shape.n_layers), stack(with_gates, vision.int("num_global_layers"))]
    return (tower("vision tower", _embedding(vision, shape), layers, after),)


def _embedding(vision: Config, shape: VisionShape) -> tuple[Part, ...]:
    width, tiles = shape.width, vision.int("max_num_tiles")
    ratios = vision.sequence("supported_aspect_ratios")
    n_ratios = (8 if ratios is None else len(ratios)) + 1
    patches = n_patches(vision) + 1
    tables: list[Part] = []
    for name in ("pre_tile_positional_embedding", "post_tile_positional_embedding"):
        tables += [
            Embedding(f"{name}.embedding", n_ratios, tiles * width),
            Plain(f"{name}.gate", (1,)),
        ]
    gated = "gated_positional_embedding"
    return (
        patch_conv(vision, width, "patch_embedding", bias=False),
        Plain("class_embedding", (width,)),
        Plain(f"{gated}.gate", (1,)),
        Plain(f"{gated}.embedding", (patches, width)),
        Embedding(f"{gated}.tile_embedding", n_ratios, tiles * patches * width),
        *tables,
        Norm("layernorm_pre", width, True),
    )
