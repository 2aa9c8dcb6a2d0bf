"""Vision and audio towers: transformer layers over patches, patch embeddings, pooling heads.

No text passes through them, so they count for parameters and memory, not for a text workload.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lmsize.model.blocks import attention, fused_attention, gated_mlp, mlp
from lmsize.model.config import LARGEST, Config
from lmsize.model.parts import Conv, Linear, Norm, Part, Plain
from lmsize.model.spec import Block, Run, Tower

QKV = ("q_proj", "k_proj", "v_proj", "out_proj")
QKVO = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True, slots=True)
class VisionShape:
    """Dimensions of the layers of a vision tower."""

    width: int
    n_layers: int
    n_heads: int
    ffn: int


def vision_shape(
    config: Config, keys: tuple[str, str, str, str] = (
        "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
    ), usual: tuple[int | None, int | None, int | None, int | None] = (None, None, None, None),
) -> VisionShape:  # fmt: skip
    """The usual keys, with `usual` where transformers' defaults are not at hand."""
    width, n_layers, n_heads, ffn = (
        config.int(key, fallback) for key, fallback in zip(keys, usual, strict=True)
    )
    if n_heads > width:
        raise config.error(keys[2], n_heads, f"at most the width, {width}")
    return VisionShape(width, n_layers, n_heads, ffn)


def sides(config: Config, key: str, usual: int | None = None) -> tuple[int, int]:
    """Height and width: one number for both, or a list of two."""
    value = config.given(key)
    if isinstance(config.defaults.get(key) if value is None else value, list):
        value = config.sequence(key)
    else:
        side = config.int(key, usual)
        return side, side
    if (
        not value
        or len(value) != 2
        or any(
            isinstance(v, bool) or not isinstance(v, int) or not 1 <= v <= LARGEST for v in value
        )
    ):
        raise config.error(key, value, "a whole number, or a list of two")
    return value[0], value[1]


def n_patches(config: Config, image: int | None = None, patch: int | None = None) -> int:
    """How many patches tile an image of ``image_size``."""
    (height, width), (tall, wide) = (
        sides(config, "image_size", image),
        sides(config, "patch_size", patch),
    )
    return (height // tall) * (width // wide)


def patch_conv(
    config: Config, width: int, name: str, *, bias: bool, channels: int | None = None,
    patch: int | None = None, frames: int = 1,
) -> Conv:  # fmt: skip
    """A convolution that turns each patch of pixels into one vector."""
    tall, wide = sides(config, "patch_size", patch)
    n_in = config.int("num_channels", 3) if channels is None else channels
    return Conv(name, n_in, width, tall * wide * frames, bias=bias)


def vision_layer(
    shape: VisionShape, *, norms: tuple[str, ...], norm_bias: bool = True, attn: str = "self_attn",
    names: tuple[str, ...] = QKV, attn_bias: bool = True,
    mlp_names: tuple[str, ...] = ("mlp.fc1", "mlp.fc2"), mlp_bias: bool = True,
    extra: Iterable[Part] = (), name: str = "vision layer",
) -> Block:  # fmt: skip
    """A bidirectional layer.

    Args:
        names: modules of the attention: four, or a fused one and the output.
        mlp_names: modules of the MLP: gate, up and down, or up and down.
    """
    width, heads, head_dim = shape.width, shape.n_heads, shape.width // shape.n_heads
    if len(names) == 2:
        attended = fused_attention(
            width=width, n_heads=heads, n_kv_heads=heads, head_dim=head_dim,
            qkv=f"{attn}.{names[0]}", out=f"{attn}.{names[1]}", qkv_bias=attn_bias,
            out_bias=attn_bias, causal=False,
        )  # fmt: skip
    else:
        query, key, value, out = names
        attended = attention(
            width=width, n_heads=heads, n_kv_heads=heads, head_dim=head_dim, prefix=attn,
            names=(query, key, value, out), qkv_bias=attn_bias, out_bias=attn_bias, causal=False,
        )  # fmt: skip
    return Block(name, (
        *(Norm(norm, width, norm_bias) for norm in norms), *attended,
        *_mlp(width, shape.ffn, mlp_names, mlp_bias), *extra,
    ))  # fmt: skip


def _mlp(width: int, ffn: int, names: tuple[str, ...], bias: bool) -> tuple[Part, ...]:
    if len(names) == 2:
        return mlp(width=width, ffn=ffn, up=names[0], down=names[1], bias=bias)
    prefix = names[0].rpartition(".")[0]
    gate, up, down = (name.rpartition(".")[2] for name in names)
    return gated_mlp(width=width, ffn=ffn, prefix=prefix, bias=bias, names=(gate, up, down))


def tower(
    name: str, embedding: Iterable[Part], layers: Iterable[Run], after: Iterable[Part]
) -> Tower:
    """What comes before, the layers, and what comes after them (norms, poolers, projectors)."""
    return Tower(
        name,
        (
            Run(Block(f"{name} embedding", tuple(embedding), "embedding")),
            *layers,
            Run(Block(f"{name} projector", tuple(after), "head")),
        ),
        stream="idle",
    )


def stack(block: Block, n_layers: int) -> Run:
    """Equal layers, each with its own weights."""
    return Run(block, n_layers, n_layers)


def attention_pooler(shape: VisionShape, prefix: str = "head") -> tuple[Part, ...]:
    """SigLIP's head: one learned query that attends to all patches, and an MLP.

    Its input projection is a raw parameter of torch's ``MultiheadAttention``.
    """
    width = shape.width
    return (
        Plain(f"{prefix}.probe", (1, 1, width)),
        Linear(f"{prefix}.attention.in_proj", width, 3 * width, True, adaptable=False),
        Linear(f"{prefix}.attention.out_proj", width, width, True),
        Norm(f"{prefix}.layernorm", width, True),
        *mlp(width=width, ffn=shape.ffn, up=f"{prefix}.mlp.fc1", down=f"{prefix}.mlp.fc2"),
    )
