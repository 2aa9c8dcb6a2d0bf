"""Gated delta nets, and the gated attention that goes with them."""

from __future__ import annotations

from dataclasses import dataclass

from lmsize.model.mixture_blocks import Shape, qk_norms
from lmsize.model.parts import AttentionCore, Linear, Norm, Part, Plain, Scan
from lmsize.model.state_space_blocks import conv_kernel, delta_rule


@dataclass(frozen=True, slots=True)
class DeltaNet:
    """Dimensions of a gated delta net; value heads in groups share a key head."""

    width: int
    n_k_heads: int
    n_v_heads: int
    k_dim: int
    v_dim: int
    kernel: int

    @property
    def keys(self) -> int:
        """Width of all keys."""
        return self.n_k_heads * self.k_dim

    @property
    def values(self) -> int:
        """Width of all values."""
        return self.n_v_heads * self.v_dim

    @property
    def channels(self) -> int:
        """Queries, keys and values: what the short convolution runs over."""
        return 2 * self.keys + self.values

    def scan(self) -> Scan:
        """The recurrence."""
        return delta_rule(
            self.n_v_heads, self.k_dim, self.v_dim, self.channels, self.kernel,
            n_groups=self.n_k_heads,
        )  # fmt: skip


def _in_projections(net: DeltaNet, prefix: str, sizes: dict[str, int]) -> tuple[Part, ...]:
    units = net.n_k_heads
    return tuple(Linear(f"{prefix}.{n}", net.width, size, False, "column", units)
                 for n, size in sizes.items())  # fmt: skip


def _out_projection(net: DeltaNet, name: str) -> Linear:
    return Linear(name, net.values, net.width, False, "row", net.n_v_heads)


def gated_delta_net(net: DeltaNet, *, fused: bool, prefix: str = "linear_attn") -> tuple[Part, ...]:
    """Qwen's layer: queries, keys, values, output gate and two scalars a head, in 2 or 4 matrices."""
    if fused:
        sizes = {
            "in_proj_qkvz": 2 * net.keys + 2 * net.values,
            "in_proj_ba": 2 * net.n_v_heads,
        }
    else:
        sizes = {"in_proj_qkv": net.channels, "in_proj_z": net.values}
        sizes |= {"in_proj_b": net.n_v_heads, "in_proj_a": net.n_v_heads}
    return (
        conv_kernel(f"{prefix}.conv1d", net.channels, net.kernel),
        *_in_projections(net, prefix, sizes),
        net.scan(),
        Plain(f"{prefix}.dt_bias", (net.n_v_heads,)),
        Plain(f"{prefix}.A_log", (net.n_v_heads,)),
        Norm(f"{prefix}.norm", net.v_dim),
        _out_projection(net, f"{prefix}.out_proj"),
    )


def olmo_delta(net: DeltaNet, prefix: str = "linear_attn") -> tuple[Part, ...]:
    """OLMo's layer: the same with a matrix for each."""
    sizes = {"q_proj": net.keys, "k_proj": net.keys, "v_proj": net.values, "g_proj": net.values}
    sizes |= {"a_proj": net.n_v_heads, "b_proj": net.n_v_heads}
    return (
        *_in_projections(net, prefix, sizes),
        conv_kernel(f"{prefix}.conv1d", net.channels, net.kernel),
        net.scan(),
        Plain(f"{prefix}.A_log", (net.n_v_heads,)),
        Plain(f"{prefix}.dt_bias", (net.n_v_heads,)),
        Norm(f"{prefix}.o_norm", net.v_dim),
        _out_projection(net, f"{prefix}.o_proj"),
    )


def kimi_delta(net: DeltaNet, *, low_rank: bool, prefix: str = "self_attn") -> tuple[Part, ...]:
    """Kimi delta attention: a decay for every channel of a key.

    Args:
        low_rank: whether decay and output gate come through a bottleneck of one head's width.
    """
    width, inner, head = net.width, net.values, net.k_dim
    sizes = dict.fromkeys(("q_proj", "k_proj", "v_proj"), inner) | {"b_proj": net.n_v_heads}
    if low_rank:
        gates: tuple[Part, ...] = tuple(
            part
            for name in ("forget_gate.f", "g")
            for part in (
                Linear(f"{prefix}.{name}_a_proj", width, head),
                Linear(f"{prefix}.{name}_b_proj", head, inner, False, "column", net.n_v_heads),
            )
        )
    else:
        gates = _in_projections(net, prefix, {"forget_gate.f_proj": inner, "g_proj": inner})
    return (
        *_in_projections(net, prefix, sizes),
        conv_kernel(f"{prefix}.conv1d", net.channels, net.kernel),
        *gates,
        net.scan(),
        Plain(f"{prefix}.forget_gate.A_log", (net.n_v_heads,)),
        Plain(f"{prefix}.forget_gate.dt_bias", (inner,)),
        Norm(f"{prefix}.o_norm", net.v_dim),
        _out_projection(net, f"{prefix}.o_proj"),
    )


def gated_query(shape: Shape, *, bias: bool, prefix: str = "self_attn") -> tuple[Part, ...]:
    """Grouped-query attention whose query projection also gives an output gate."""
    width, heads, kv_heads, head = shape.width, shape.n_heads, shape.n_kv_heads, shape.head_dim
    return (
        Linear(f"{prefix}.q_proj", width, 2 * heads * head, bias, "column", heads),
        Linear(f"{prefix}.k_proj", width, kv_heads * head, bias, "column", kv_heads),
        Linear(f"{prefix}.v_proj", width, kv_heads * head, bias, "column", kv_heads),
        *qk_norms(head, head, prefix),
        AttentionCore(heads, kv_heads, head, head),
        Linear(f"{prefix}.o_proj", heads * head, width, bias, "row", heads),
    )
