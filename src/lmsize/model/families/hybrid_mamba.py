"""Mamba layers among attention layers: Jamba, Bamba, Falcon-H1, Granite-4."""

from __future__ import annotations

from collections.abc import Iterable

from lmsize.model.blocks import gated_mlp, rms_norm
from lmsize.model.config import Config
from lmsize.model.family import family
from lmsize.model.mixture_blocks import (
    Shape,
    built,
    grouped_query,
    int_list,
    mixture_decoder,
    nullable_int,
    read_shape,
    sparse_mlp,
)
from lmsize.model.parts import Linear, Part
from lmsize.model.spec import Block, ModelSpec
from lmsize.model.state_space_blocks import (
    FULL,
    LINEAR,
    inner_width,
    mamba2_mixer,
    mamba_mixer,
    mixer_kinds,
    step_rank,
)


@family("jamba")
def jamba(config: Config) -> ModelSpec:
    """Jamba: Mamba, every eighth layer attention, every second MLP a mixture of experts."""
    shape = read_shape(config)
    mixers = {
        "attention": grouped_query(shape),
        "mamba": mamba_mixer(
            width=shape.width, inner=inner_width(config, "mamba_expand", shape.width),
            state=config.int("mamba_d_state"), kernel=config.int("mamba_d_conv"),
            rank=(rank := step_rank(config, "mamba_dt_rank", shape.width)),
            bias=config.flag("mamba_proj_bias"), conv_bias=config.flag("mamba_conv_bias"),
            prefix="mamba",
        ),
    }  # fmt: skip
    state = config.int("mamba_d_state")
    norms = (("dt_layernorm", rank), ("b_layernorm", state), ("c_layernorm", state))
    mixers["mamba"] += tuple(rms_norm(f"mamba.{name}", size) for name, size in norms)
    attends = _periodic(config, "attn_layer", shape.n_layers)
    sparse = _periodic(config, "expert_layer", shape.n_layers)
    if config.int("num_experts") == 1:
        sparse = [False] * shape.n_layers
    kinds = zip(("attention" if a else "mamba" for a in attends), sparse, strict=True)
    ffn = config.int("intermediate_size")

    def layer(kind: tuple[str, bool]) -> Block:
        experts = kind[1] and sparse_mlp(
            config, shape.width, ffn_key="intermediate_size", gate="router", prefix="feed_forward"
        )
        dense = gated_mlp(width=shape.width, ffn=ffn, prefix="feed_forward")
        return _layer(shape, mixers[kind[0]], experts or dense, kind[0], sparse=kind[1])

    return _decoder(config, shape, built(kinds, layer))


def _periodic(config: Config, key: str, n_layers: int) -> list[bool]:
    period, offset = config.int(f"{key}_period"), config.int(f"{key}_offset", least=0)
    return [i % period == offset for i in range(n_layers)]


def _layer(
    shape: Shape, mixer: Iterable[Part], ffn: Iterable[Part], kind: str, *, sparse: bool = False,
    second_norm: str = "pre_ff_layernorm",
) -> Block:  # fmt: skip
    norms = rms_norm("input_layernorm", shape.width), rms_norm(second_norm, shape.width)
    name = f"{kind} moe layer" if sparse else f"{kind} layer"
    return Block(name, (norms[0], *mixer, norms[1], *ffn))


def _decoder(config: Config, shape: Shape, layers: Iterable[Block]) -> ModelSpec:
    norm = rms_norm("final_layernorm", shape.width)
    return mixture_decoder(config, shape, layers, norm=norm)


def _mamba2(config: Config, width: int, *, inner: int | None = None) -> tuple[Part, ...]:
    """Mamba-2 by the ``mamba_*`` keys, with a gated norm as the class has it."""
    inner = inner or inner_width(config, "mamba_expand", width)
    n_heads = config.int("mamba_n_heads")
    if inner % n_heads:
        raise config.error("mamba_n_heads", n_heads, f"a divisor of the inner width, {inner}")
    return mamba2_mixer(
        width=width, inner=inner, n_heads=n_heads, n_groups=config.int("mamba_n_groups"),
        state=config.int("mamba_d_state"), kernel=config.int("mamba_d_conv"),
        bias=config.flag("mamba_proj_bias"), conv_bias=config.flag("mamba_conv_bias"),
        prefix="mamba", out_bias=_falcon_out_bias(config),
        norm=config.model_type != "falcon_h1" or config.flag("mamba_rms_norm"),
        chunk=config.optional_int("mamba_chunk_size") or 256,
    )  # fmt: skip


def _falcon_out_bias(config: Config) -> bool | None:
    return config.flag("projectors_bias") if config.model_type == "falcon_h1" else None


def _biased_attention(config: Config, shape: Shape) -> tuple[Part, ...]:
    bias = config.flag("attention_bias")
    return grouped_query(shape, qkv_bias=bias, out_bias=bias)


def _biased_mlp(config: Config, shape: Shape) -> tuple[Part, ...]:
    return gated_mlp(
        width=shape.width, ffn=config.int("intermediate_size"), bias=config.flag("mlp_bias"),
        prefix="feed_forward",
    )  # fmt: skip


@family("bamba")
def bamba(config: Config) -> ModelSpec:
    """Bamba: Mamba-2, with attention in the layers that the config lists."""
    shape = read_shape(config)
    listed = set(int_list(config, "attn_layer_indices") or ())
    ffn = _biased_mlp(config, shape)
    mixers = {True: _biased_attention(config, shape), False: _mamba2(config, shape.width)}
    names = {True: "attention", False: "mamba"}
    attends = [i in listed for i in range(shape.n_layers)]
    return _decoder(
        config, shape, built(attends, lambda a: _layer(shape, mixers[a], ffn, names[a]))
    )


@family("falcon_h1")
def falcon_h1(config: Config) -> ModelSpec:
    """Falcon-H1: Mamba-2 and attention side by side in every layer."""
    shape = read_shape(config)
    inner = nullable_int(config, "mamba_d_ssm")
    mixers = (*_mamba2(config, shape.width, inner=inner), *_biased_attention(config, shape))
    layer = _layer(shape, mixers, _biased_mlp(config, shape), "hybrid")
    return _decoder(config, shape, [layer] * shape.n_layers)


@family("granitemoehybrid")
def granite_hybrid(config: Config) -> ModelSpec:
    """Granite-4: Mamba-2 or attention, a shared MLP and, unless it has none, routed experts."""
    shape = read_shape(config)
    kinds = mixer_kinds(config, shape.n_layers, (LINEAR, FULL), [LINEAR] * shape.n_layers)
    width, shared = shape.width, config.int("shared_intermediate_size")
    ffn: tuple[Part, ...] = (
        Linear("shared_mlp.input_linear", width, 2 * shared, split="column"),
        Linear("shared_mlp.output_linear", shared, width, split="row"),
    )
    n_experts = config.int("num_local_experts", least=0)
    if n_experts:
        ffn += sparse_mlp(
            config, width, n_key="num_local_experts", ffn_key="intermediate_size", gate="router",
            prefix="block_sparse_moe",
        )  # fmt: skip

    def layer(kind: str) -> Block:
        is_linear = kind == LINEAR
        mixer = _mamba2(config, width) if is_linear else _biased_attention(config, shape)
        return _layer(
            shape, mixer, ffn, "mamba" if is_linear else "attention", sparse=bool(n_experts),
            second_norm="post_attention_layernorm",
        )  # fmt: skip

    return mixture_decoder(config, shape, built(kinds, layer))
