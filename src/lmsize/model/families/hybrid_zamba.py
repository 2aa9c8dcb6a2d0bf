"""Zamba and Zamba-2: Mamba layers, and one or two transformer blocks that run again and again.

A hybrid layer is two runs: the shared transformer block (its weights counted where it first
runs) and what the layer has of its own: low-rank adapters of that block, a linear layer, Mamba.
"""

from __future__ import annotations

from collections.abc import Sequence

from lmsize.model.blocks import (
    attention,
    decoder_head,
    gated_mlp,
    lm_head,
    rms_norm,
    token_embedding,
)
from lmsize.model.config import Config
from lmsize.model.family import family
from lmsize.model.mixture_blocks import HEAD_CLASSES, nullable_int
from lmsize.model.parts import Conv, Linear, Part, Plain
from lmsize.model.spec import Block, ModelSpec, Run, Tower
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
    return _model(config, kinds, mixer, [Block("shared transformer", shared)], ())


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
    )  # fmt: skip
    usual = [LINEAR, *([LINEAR] * 5 + [HYBRID]) * 7, *[LINEAR] * 4, HYBRID, *[LINEAR] * 3, HYBRID]
    kinds = _kinds(config, n_layers, [*usual, LINEAR, LINEAR])
    n_blocks = min(config.int("num_mem_blocks"), max(kinds.count(HYBRID), 1))
    blocks = [Block(f"shared transformer {i + 1}", shared) for i in range(n_blocks)]
    return _model(config, kinds, mixer, blocks, _adapters(config, width, ffn))


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


def _adapters(config: Config, width: int, ffn: int) -> tuple[Part, ...]:
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
    config: Config, kinds: Sequence[str], mixer: tuple[Part, ...], shared: Sequence[Block],
    adapters: tuple[Part, ...],
) -> ModelSpec:  # fmt: skip
    width, n_layers, n_heads, vocab = _core(config)
    if config.task not in HEAD_CLASSES:
        config.assume(
            "unknown-architecture", f"class {config.architecture!r}: counted as the causal model"
        )
    own = (rms_norm("input_layernorm", width), *mixer)
    plain = Block("mamba layer", own)
    hybrid = Block("hybrid layer", (*adapters, Linear("linear", width, width), *own))
    lm = lm_head(width=width, vocab=vocab, tied=config.flag("tie_word_embeddings"))
    runs = (
        Run(token_embedding(config, vocab=vocab, width=width, name="embed_tokens")),
        *_layer_runs(kinds, plain, hybrid, shared),
        Run(decoder_head(
            config, width=width, lm=[lm], final=[rms_norm("final_layernorm", width)]
        )),
    )  # fmt: skip
    return ModelSpec(
        name="", model_type=config.model_type, architecture=config.architecture, width=width,
        n_layers=n_layers, n_heads=n_heads, vocab_size=vocab,
        max_positions=config.optional_int("max_position_embeddings"), learned_positions=False,
        towers=(Tower("decoder", runs),),
    )  # fmt: skip


def _layer_runs(
    kinds: Sequence[str], plain: Block, hybrid: Block, shared: Sequence[Block]
) -> tuple[Run, ...]:
    """Runs of plain layers; for a hybrid one, a shared block in its turn and then its own."""
    runs: list[Run] = []
    n_hybrid = 0
    for kind in kinds:
        if kind == HYBRID:
            first = n_hybrid < len(shared)
            runs += [Run(shared[n_hybrid % len(shared)], 1, int(first)), Run(hybrid)]
            n_hybrid += 1
        elif runs and runs[-1].block is plain:
            runs[-1] = Run(plain, runs[-1].n_layers + 1, runs[-1].n_layers + 1)
        else:
            runs.append(Run(plain))
    return tuple(runs)
