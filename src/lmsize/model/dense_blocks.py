"""What dense decoders share beyond the common blocks: even heads, windows, layer shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from lmsize.model.blocks import rms_norm
from lmsize.model.config import Config
from lmsize.model.mixture_blocks import (
    Shape,
    built,
    is_null,
    mixture_decoder,
    nullable_int,
    read_shape,
    sliding_layers,
)
from lmsize.model.parts import Linear, Part
from lmsize.model.spec import Block, ModelSpec

Windows = Sequence[int | None]
LayerOf = Callable[[int | None], Iterable[Part]]


def dense_shape(config: Config, *, even: bool = False, derived: bool = False) -> Shape:
    """Width, depth, heads and vocabulary of a dense decoder.

    Args:
        even: the class refuses a width that its heads do not divide (others round down).
        derived: the class ignores ``head_dim`` and always divides the width by the heads.
    """
    shape = read_shape(config)
    stated = nullable_int(config, "head_dim") is not None and not derived
    if even and not stated and shape.width % shape.n_heads:
        expected = f"a number of heads that divides the width, {shape.width}"
        raise config.error("num_attention_heads", shape.n_heads, expected)
    if shape.n_heads % shape.n_kv_heads:
        config.assume(
            "uneven-heads",
            f"{shape.n_kv_heads} key-value heads do not divide {shape.n_heads} query heads: "
            "counted as stated, though it cannot run",
        )
    if not derived:
        return shape
    return Shape(
        shape.width, shape.n_layers, shape.n_heads, shape.vocab, shape.n_kv_heads,
        divided_head(config, shape.width, shape.n_heads),
    )  # fmt: skip


def divided_head(config: Config, width: int, n_heads: int) -> int:
    """The width divided by the heads, of which there must not be more than features."""
    if n_heads > width:
        raise config.error("num_attention_heads", n_heads, f"at most the width, {width}")
    return width // n_heads


def one_window(config: Config, n_layers: int) -> Windows:
    """One ``sliding_window`` for all layers; null means none, whatever the class default is."""
    return sliding_layers(config, n_layers, lambda _: True)


def repeating_windows(config: Config, n_layers: int, fallback: int) -> Windows:
    """All layers slide but the last of each ``sliding_window_pattern``."""
    return sliding_layers(
        config, n_layers, lambda i: (i + 1) % config.int("sliding_window_pattern", fallback) != 0
    )


def dense_decoder(
    config: Config, shape: Shape, layer: LayerOf, *, windows: Windows = (),
    norm: Part | None = None, lm_bias: bool = False, embedding: str = "embed_tokens",
    extra: Iterable[Part] = (),
) -> ModelSpec:  # fmt: skip
    """A decoder whose layers differ in their window at most.

    Args:
        layer: the parts of a layer with the given window.
        norm: the final norm, if not an RMSNorm called ``norm``.
        extra: what stands between the token table and the first layer.
    """
    kinds = windows or [None] * shape.n_layers
    blocks = built(kinds, lambda window: Block("layer", tuple(layer(window))))
    return mixture_decoder(
        config, shape, blocks, norm=norm, lm_bias=lm_bias, embedding=embedding, extra=extra
    )


def pre_norm(width: int, attn: Iterable[Part], mlp: Iterable[Part]) -> tuple[Part, ...]:
    """RMSNorm, attention, RMSNorm, MLP, each with its residual."""
    return (
        rms_norm("input_layernorm", width), *attn,
        rms_norm("post_attention_layernorm", width), *mlp,
    )  # fmt: skip


def post_norm(width: int, attn: Iterable[Part], mlp: Iterable[Part]) -> tuple[Part, ...]:
    """The norms stand after attention and MLP, before the residual is added."""
    return (
        *attn, rms_norm("post_attention_layernorm", width),
        *mlp, rms_norm("post_feedforward_layernorm", width),
    )  # fmt: skip


def fused_gate_mlp(width: int, ffn: int, prefix: str = "mlp") -> tuple[Part, ...]:
    """SwiGLU whose gate and up projections are one matrix."""
    return (
        Linear(f"{prefix}.gate_up_proj", width, 2 * ffn, split="column", n_units=ffn),
        Linear(f"{prefix}.down_proj", ffn, width, split="row"),
    )


def key_or_derived(config: Config, key: str, derived: int) -> int:
    """A width that the file or class gives; null means the derived one."""
    return derived if is_null(config, key) else config.int(key, derived)
