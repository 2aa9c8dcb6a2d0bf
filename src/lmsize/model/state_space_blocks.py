"""State-space and linear-attention mixers: their matrices, kernels, states and arithmetic.

The arithmetic of a recurrence is that of its recurrent form, one multiplication or addition or
exponential a FLOP, whatever the kernel that runs it (chunked or parallel scans do a little
more). What is done once per channel, not per number of state, is left out. Projections and
convolutions are parts of their own; a convolution's inputs are part of the state.
"""

from __future__ import annotations

import math

from lmsize.model.config import LARGEST, Config
from lmsize.model.mixture_blocks import kinds_by_layer
from lmsize.model.parts import Conv, Linear, Norm, Part, Plain, Scan

LINEAR, FULL = "linear_attention", "full_attention"
OLDER_KINDS = {"mamba": LINEAR, "attention": FULL}


# -- reading keys ----------------------------------------------------------------------------


def mixer_kinds(
    config: Config, n_layers: int, kinds: tuple[str, ...], default: list[str],
    key: str = "layer_types",
) -> list[str]:  # fmt: skip
    """The mixer of each layer as listed under `key`, in older words too; else `default`."""
    accepted = (*kinds, *(old for old, new in OLDER_KINDS.items() if new in kinds))
    listed = kinds_by_layer(config, key, n_layers, accepted, lambda i: default[i])
    return [OLDER_KINDS.get(kind, kind) for kind in listed]


def every_nth_full(config: Config, n_layers: int, interval: int) -> list[str]:
    """Linear attention, with full attention in every `interval`-th layer unless listed."""
    default = [FULL if (i + 1) % interval == 0 else LINEAR for i in range(n_layers)]
    return mixer_kinds(config, n_layers, (LINEAR, FULL), default)


def inner_width(config: Config, key: str, width: int) -> int:
    """The width inside a mixer: an expansion factor times the model's width."""
    inner = int(config.number(key) * width)
    if not 1 <= inner <= LARGEST:
        raise config.error(key, config.given(key), f"a factor that leaves 1 to {LARGEST} channels")
    return inner


def auto_int(config: Config, key: str, auto: int) -> int:
    """A whole number, or `auto` where the config says so or nothing."""
    if config.given(key) in (None, "auto"):
        return auto
    return config.int(key)


def step_rank(config: Config, key: str, width: int) -> int:
    """Rank of Mamba's time-step projection: a sixteenth of the width unless given."""
    return auto_int(config, key, math.ceil(width / 16))


# -- recurrences -----------------------------------------------------------------------------


def selective_scan(inner: int, state: int, kernel: int) -> Scan:
    """Mamba (Gu & Dao 2023): ``h = exp(D A) h + (D x) B; y = C h`` for every channel.

    7 FLOPs per number of state; a work-efficient parallel scan does 9.
    """
    return Scan(inner * (state + kernel), 7 * inner * state, "mamba", inner, state)


def state_space_dual(
    inner: int, state: int, channels: int, kernel: int, *, n_heads: int = 1, n_groups: int = 1,
    chunk: int = 256,
) -> Scan:  # fmt: skip
    """Mamba-2 (Dao & Gu 2024): as Mamba with one decay a head: 5 FLOPs per number of state."""
    return Scan(
        inner * state + channels * kernel, 5 * inner * state, "mamba2", n_heads, state,
        inner // n_heads, n_groups, chunk,
    )  # fmt: skip


def delta_rule(
    n_heads: int, k_dim: int, v_dim: int, channels: int, kernel: int, *, n_groups: int | None = None
) -> Scan:  # fmt: skip
    """Gated delta rule (Yang et al. 2024), also with a decay per channel (Kimi Linear 2025).

    ``S = a S; S = S + b (v - S k) k'; o = S q``: 7 FLOPs per number of state.
    """
    state = n_heads * k_dim * v_dim
    return Scan(
        state + channels * kernel, 7 * state, "delta", n_heads, k_dim, v_dim, n_groups or n_heads
    )


def decayed_outer_product(n_heads: int, k_dim: int, v_dim: int) -> Scan:
    """Lightning attention (Qin et al. 2024): ``S = a S + k v'; o = q S``: 5 FLOPs per number."""
    state = n_heads * k_dim * v_dim
    return Scan(state, 5 * state, "lightning", n_heads, k_dim, v_dim, chunk=256)


# -- mixers ----------------------------------------------------------------------------------


def mamba_mixer(
    *, width: int, inner: int, state: int, rank: int, kernel: int, bias: bool, conv_bias: bool,
    prefix: str = "mixer",
) -> tuple[Part, ...]:  # fmt: skip
    """Mamba: convolution and selective scan over `inner` channels of `state` numbers each."""
    return (
        Linear(f"{prefix}.in_proj", width, 2 * inner, bias, "column", inner),
        Conv(f"{prefix}.conv1d", inner, inner, kernel, inner, conv_bias),
        Linear(f"{prefix}.x_proj", inner, rank + 2 * state, split="row"),
        Linear(f"{prefix}.dt_proj", rank, inner, True, "column"),
        selective_scan(inner, state, kernel),
        Plain(f"{prefix}.A_log", (inner, state)),
        Plain(f"{prefix}.D", (inner,)),
        Linear(f"{prefix}.out_proj", inner, width, bias, "row"),
    )


def mamba2_mixer(
    *, width: int, inner: int, n_heads: int, n_groups: int, state: int, kernel: int, bias: bool,
    conv_bias: bool, prefix: str = "mixer", out_bias: bool | None = None, norm: bool = True,
    chunk: int = 256,
) -> tuple[Part, ...]:  # fmt: skip
    """Mamba-2: one projection gives gate, values, B, C and time steps; scalar decays a head.

    Args:
        n_groups: heads share B and C within a group.
        norm: whether a gated RMSNorm precedes the output projection.
    """
    channels = inner + 2 * n_groups * state
    return (
        Linear(f"{prefix}.in_proj", width, inner + channels + n_heads, bias, "column", n_heads),
        Conv(f"{prefix}.conv1d", channels, channels, kernel, channels, conv_bias),
        state_space_dual(
            inner, state, channels, kernel, n_heads=n_heads, n_groups=n_groups, chunk=chunk
        ),
        Plain(f"{prefix}.dt_bias", (n_heads,)),
        Plain(f"{prefix}.A_log", (n_heads,)),
        Plain(f"{prefix}.D", (n_heads,)),
        *((Norm(f"{prefix}.norm", inner),) if norm else ()),
        Linear(
            f"{prefix}.out_proj",
            inner,
            width,
            bias if out_bias is None else out_bias,
            "row",
            n_heads,
        ),
    )


def conv_kernel(name: str, channels: int, kernel: int) -> Conv:
    """A short causal convolution of each channel by itself, without bias."""
    return Conv(name, channels, channels, kernel, channels, bias=False)
