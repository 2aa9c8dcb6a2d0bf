"""Zamba and Zamba-2: Mamba layers, and one or two transformer blocks that run again and again.

A hybrid layer is one shared transformer block and what the layer has of its own: low-rank
adapters of that block, a linear layer and Mamba. transformers builds the block anew for every
hybrid layer and ties its weights to the first one's (unless the head is untied: then nothing is
shared), so each has modules that peft adapts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lmsize.model.blocks import attention, gated_mlp, rms_norm
from lmsize.model.config import Config
from lmsize.model.family import family
from lmsize.model.mixture_blocks import Shape, mixture_decoder, nullable_int
from lmsize.model.parts import Conv, Linear, Norm, Part, Plain
from lmsize.model.spec import Block, ModelSpec
from lmsize.model.state_space_blocks import (
    LINEAR,
    inner_width,
    mamba2_mixer,
    mixer_kinds,
    selective_scan,
    step_rank,
)

HYBRID = "hybrid"


@family("zamba")
def zamba(config: Config) -> ModelSpec:
    """Zamba: Mamba of several heads; one shared block reads the layer's input and the embedding."""
    width, n_layers, n_heads, _ = _core(config)
    attended = config.optional_int("attention_hidden_size") or 2 * width
    head_dim = config.optional_int("attention_head_dim") or 2 * width // n_heads
    shared = (
        rms_norm("input_layernorm", attended),
        *_attention(config, width, attended, head_dim),
        rms_norm("pre_ff_layernorm", width),
        *gated_mlp(width=width, ffn=config.int("intermediate_size"), prefix="feed_forward"),
    )
    period, offset = config.int("attn_layer_period"), config.int("attn_layer_offset", least=0)
    later = [HYBRID if i % period == offset else LINEAR for i in range(max(n_layers - 3, 0))]
    kinds = _kinds(config, n_layers, [LINEAR, LINEAR, HYBRID, *later])
    mixer = _zamba_mixer(config, width)
    return _model(config, kinds, mixer, shared)


@family("zamba2")
def zamba2(config: Config) -> ModelSpec:
    """Zamba-2: Mamba-2; the shared blocks take turns and have adapters for every layer."""
    width, n_layers, n_heads, _ = _core(config)
    if config.int("n_mamba_heads") > (inner := inner_width(config, "mamba_expand", width)):
        raise config.error("n_mamba_heads", config.int("n_mamba_heads"), f"at most {inner}")
    bias, ffn = (
        config.flag("add_bias_linear"),
        config.optional_int("intermediate_size") or 4 * width,
    )
    shared = (
        rms_norm("input_layernorm", 2 * width),
        *_attention(config, width, 2 * width, 2 * width // n_heads),
        rms_norm("pre_ff_layernorm", width),
        Linear("feed_forward.gate_up_proj", width, 2 * ffn, bias, "column"),
        Linear("feed_forward.down_proj", ffn, width, bias, "row"),
    )
    mixer = mamba2_mixer(
        width=width, inner=inner, n_heads=config.int("n_mamba_heads"),
        n_groups=config.int("mamba_ngroups"), state=config.int("mamba_d_state"),
        kernel=config.int("mamba_d_conv"), bias=bias, conv_bias=True, prefix="mamba",
        chunk=config.optional_int("chunk_size") or 256,
    )  # fmt: skip
    usual = [LINEAR, *([LINEAR] * 5 + [HYBRID]) * 7, *[LINEAR] * 4, HYBRID, *[LINEAR] * 3, HYBRID]
    kinds = _kinds(config, n_layers, [*usual, LINEAR, LINEAR])
    return _model(
        config, kinds, mixer, shared, n_blocks=config.int("num_mem_blocks"),
        adapters=_adapters(config, width, ffn),
    )  # fmt: skip


def _core(config: Config) -> tuple[int, ...]:
    core = config.require("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    if core[2] > 2 * core[0]:
        raise config.error("num_attention_heads", core[2], f"at most twice the width, {core[0]}")
    return core


def _kinds(config: Config, n_layers: int, default: list[str]) -> list[str]:
    if len(default) != n_layers and not config.has("layers_block_type"):
        raise config.error(
            "layers_block_type",
            None,
            f"a list for these {n_layers} layers (the usual has {len(default)})",
        )
    return mixer_kinds(config, n_layers, (LINEAR, HYBRID), default, "layers_block_type")


def _attention(config: Config, width: int, attended: int, head_dim: int) -> tuple[Part, ...]:
    n_heads = config.int("num_attention_heads")
    *parts, out = attention(
        width=attended, n_heads=n_heads, head_dim=head_dim,
        n_kv_heads=nullable_int(config, "num_key_value_heads") or n_heads,
    )  # fmt: skip
    assert isinstance(out, Linear)
    return (*parts, Linear(out.name, out.n_in, width, False, "row", n_heads))


def _zamba_mixer(config: Config, width: int) -> tuple[Part, ...]:
    """Mamba whose heads have their own small projections, kept as raw parameters."""
    inner, n_heads = inner_width(config, "mamba_expand", width), config.int("n_mamba_heads")
    if inner % n_heads:
        raise config.error("n_mamba_heads", n_heads, f"a divisor of the inner width, {inner}")
    state, kernel = config.int("mamba_d_state"), config.int("mamba_d_conv")
    rank, head = step_rank(config, "mamba_dt_rank", width), inner // n_heads
    bias = config.flag("mamba_proj_bias")
    return (
        Linear("mamba.in_proj", width, 2 * inner, bias, "column", inner),
        Conv("mamba.conv1d", inner, inner, kernel, inner, config.flag("mamba_conv_bias")),
        Linear("mamba.x_proj", head, rank + 2 * state, adaptable=False, n_modules=n_heads),
        Linear("mamba.dt_proj", rank, head, True, adaptable=False, n_modules=n_heads),
        selective_scan(inner, state, kernel),
        Plain("mamba.A_log", (n_heads, head, state)),
        Plain("mamba.D", (n_heads, head)),
        Linear("mamba.out_proj", inner, width, bias, "row"),
    )


def _adapters(config: Config, width: int, ffn: int) -> tuple[Linear, ...]:
    rank = config.int("adapter_rank")
    wholes = [("feed_forward.gate_up_proj", width, 2 * ffn)]
    if config.flag("use_shared_attention_adapter"):
        wholes += [(f"self_attn.linear_{n}", 2 * width, 2 * width) for n in "qkv"]
    return tuple(
        part
        for name, n_in, n_out in wholes
        for part in (
            Linear(f"{name}_adapter.0", n_in, rank),
            Linear(f"{name}_adapter.1", rank, n_out),
        )
    )


def _model(
    config: Config, kinds: Sequence[str], mixer: tuple[Part, ...], shared: tuple[Part, ...], *,
    n_blocks: int = 1, adapters: tuple[Linear, ...] = (),
) -> ModelSpec:  # fmt: skip
    """Layers in order; the `n_blocks` shared blocks take turns in the hybrid ones."""
    width, n_layers, n_heads, vocab = _core(config)
    can_share = config.flag("tie_word_embeddings")
    own = (rms_norm("input_layernorm", width), *mixer)
    plain, n_hybrid = Block("mamba layer", own), kinds.count(HYBRID)
    hybrids: list[Block] = []
    # Adapters of the other layers that a shared block runs in are there too, but at rest.
    for i in range(n_hybrid):
        again = can_share and i >= n_blocks
        n_same = len(range(i % n_blocks, n_hybrid, n_blocks))
        parts = (
            *(_tied(shared) if again else shared), *adapters,
            *(replace(a, tied=can_share, per_token=0.0, n_modules=n_same - 1)
              for a in adapters if n_same > 1),
            Linear("linear", width, width), *own,
        )  # fmt: skip
        hybrids.append(Block("hybrid layer, again" if again else "hybrid layer", parts))
    turns = iter(hybrids)
    return mixture_decoder(
        config, Shape(width, n_layers, n_heads, vocab, n_heads, width // n_heads),
        [next(turns) if kind == HYBRID else plain for kind in kinds],
        norm=rms_norm("final_layernorm", width),
    )  # fmt: skip


def _tied(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """The same work with weights that an earlier layer holds."""
    tied: list[Part] = []
    for part in parts:
        if isinstance(part, Linear):
            tied.append(replace(part, tied=True, bias=False))
        else:
            tied.append(replace(part, weight=False) if isinstance(part, Norm) else part)
    return tuple(tied)
