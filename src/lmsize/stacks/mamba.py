"""Mamba: a short convolution and a selective scan, as transformers writes them in plain torch.

Without ``mamba_ssm`` and ``causal_conv1d`` the scan is a loop over the tokens, each of which keeps a
state. Decays and inputs are made for all tokens at once, in fp32.
"""

from __future__ import annotations

from typing import Any

from lmsize.model.parts import Conv, Linear, Part, Scan
from lmsize.stacks.linears import applied
from lmsize.stacks.sections import Section
from lmsize.stacks.setting import Setting, Style, normed, parameter
from lmsize.tape import kernels, ops
from lmsize.tape.program import Gradient, Program, Tensor

FP32 = 4


def mamba(program: Program, x: Tensor, section: Section, setting: Setting, style: Style) -> Tensor:
    """From the normed stream to what the mixer adds to it."""
    scan = section.scan
    assert scan is not None
    t, inner, state = setting.n_tokens, scan.n_heads, scan.k_dim
    both = applied(program, x, named(section, "in_proj"), setting)
    decay = log_decay(program, inner * state, setting)
    u, gate = ops.split(program, both, (t * inner, t * inner))
    u = convolved(program, u, section.convs[0], setting)
    projected = _projected(program, u, section, scan, setting)
    rank = named(section, "dt_proj").n_in
    step, b, c = ops.split(program, projected, (t * rank, t * state, t * state))
    step, b, c = _normed(program, (step, b, c), section, setting, style)
    step, unbiased = _steps(program, step, named(section, "dt_proj"), setting)
    out = _scanned(program, u, (decay, step, b, c), scan, setting)
    skip = parameter(program, "D", inner, setting)
    kept = ops.cast(program, skip, FP32)
    summed = ops.add(program, out, ops.mul(program, u, kept, small=kept, name="skip"))
    opened = ops.pointwise(program, gate, name="silu", saves="input")
    gated = ops.mul(program, summed, opened, name="gated")
    cast = ops.cast(program, gated, x.itemsize)
    made = applied(program, ops.copy(program, cast), named(section, "out_proj"), setting)
    program.hold(unbiased, gated, cast, projected)
    return made


def named(section: Section, leaf: str) -> Linear:
    """The linear of that name."""
    every = (*section.linears, *section.outputs)
    return next(part for part in every if leaf_of(part) == leaf)


def leaf_of(part: Part) -> str:
    """The last name on a part's path."""
    return getattr(part, "name", "").rpartition(".")[2]


def log_decay(program: Program, numel: Any, setting: Setting) -> Tensor:
    """``-exp(A_log.float())``."""
    raised = ops.cast(program, parameter(program, "A_log", numel, setting), FP32)
    grown = ops.pointwise(program, raised, name="exp", saves="output")
    return ops.pointwise(program, grown, name="negative")


def convolved(program: Program, x: Tensor, conv: Conv, setting: Setting) -> Tensor:
    """A causal convolution by padding both ends, its SiLU; a slice of it goes on."""
    n_channels = conv.n_out
    weight = parameter(program, conv.name, n_channels * conv.kernel, setting)
    bias = parameter(program, f"{conv.name}.bias", n_channels, setting) if conv.bias else None
    lower = ops.lowered(program, ops.cast(program, x, weight.itemsize))
    padded = setting.micro_batch * (setting.seq_len + conv.kernel - 1) * n_channels
    made = kernels.convolution(
        program, lower, ops.lowered(program, weight), numel=padded, name=conv.name,
        bias=None if bias is None else ops.lowered(program, bias),
    )  # fmt: skip
    seen = ops.narrow(program, made, numel=setting.n_tokens * n_channels)
    out = ops.pointwise(program, seen, name="silu", saves="input")
    return ops.cast(program, out, x.itemsize)


def _projected(
    program: Program, u: Tensor, section: Section, scan: Scan, setting: Setting
) -> Tensor:
    """Time steps, B and C of every token, from channels laid out last."""
    del scan
    return applied(program, ops.copy(program, u), named(section, "x_proj"), setting)


def _normed(
    program: Program, parts: tuple[Tensor, ...], section: Section, setting: Setting, style: Style
) -> tuple[Tensor, ...]:
    """The norms of Jamba and, without parameters, of Falcon-Mamba."""
    t, norms = setting.n_tokens, section.norms
    if setting.conduct.model_type == "falcon_mamba":
        return tuple(_weightless(program, part, t) for part in parts)
    found = zip(parts, norms, strict=True) if len(norms) == len(parts) else ()
    return tuple(normed(program, part, n, setting, style, n_rows=t) for part, n in found) or parts


def _weightless(program: Program, x: Tensor, n_rows: Any) -> Tensor:
    raised = ops.cast(program, x, FP32)
    square = ops.power(program, raised, name="square")
    spread = ops.pointwise(program, ops.mean(program, square, numel=n_rows), name="plus epsilon")
    root = ops.pointwise(program, spread, name="rsqrt", saves="output")
    return ops.cast(program, ops.mul(program, raised, root, small=root), x.itemsize)


def _steps(
    program: Program, step: Tensor, linear: Linear, setting: Setting
) -> tuple[Tensor, Tensor]:
    """``softplus(weight @ step + bias)``; and what it is before the bias."""
    weight = parameter(program, linear.name, linear.n_in * linear.n_out, setting)
    made = ops.matmul(program, weight, step, numel=setting.n_tokens * linear.n_out, name="step")
    unbiased = ops.copy(program, made)
    bias = ops.cast(program, parameter(program, "dt_bias", linear.n_out, setting), FP32)
    small = ops.cast(program, bias, unbiased.itemsize)
    biased = ops.pointwise(program, unbiased, name="biased")
    program.hold(bias, small)
    raised = ops.raised(program, biased)
    return ops.pointwise(program, raised, name="softplus", saves="input"), unbiased


def _scanned(
    program: Program, u: Tensor, parts: tuple[Tensor, ...], scan: Scan, setting: Setting
) -> Tensor:
    """The loop over tokens, after what is computed for all of them."""
    decay, step, b, c = parts
    t, whole = setting.n_tokens, setting.n_tokens * scan.n_heads * scan.k_dim
    exponent = ops.mul(program, decay, step, numel=whole, small=(decay, step))
    decays = ops.pointwise(program, exponent, name="exp", saves="output")
    del exponent
    raised_b = ops.cast(program, b, FP32)
    written = ops.mul(program, step, raised_b, numel=whole, small=(step, raised_b))
    raised_u = ops.cast(program, u, FP32)
    inputs = ops.mul(program, written, raised_u, small=raised_u, name="inputs")
    out = _loop(program, (decays, inputs, c), scan, setting, itemsize=u.itemsize)
    program.hold(inputs, decays, written)
    del t
    return out


def _loop(
    program: Program, reads: tuple[Tensor, ...], scan: Scan, setting: Setting, *, itemsize: float
) -> Tensor:
    """``h = a * h + x; y = h @ c`` token by token: autograd keeps every state, and its cast.

    The gradient of a token's slice is a tensor of zeros as large as the whole: while the loop is
    undone there are those of decays and inputs, and a third.
    """
    decays, inputs, c = reads
    one = setting.micro_batch * scan.n_heads * scan.k_dim
    is_cast = itemsize < FP32
    n_states = setting.seq_len - 1 if is_cast else setting.seq_len
    states = Tensor("states", one * n_states, FP32)
    first, last = Tensor("zeros", one, itemsize), Tensor("last state", one, FP32)
    casts = Tensor("states cast", one * setting.seq_len if is_cast else 0, itemsize)
    made = Tensor("scanned", setting.n_tokens * scan.n_heads, itemsize)
    pieces = Tensor("outputs", made.numel, itemsize)
    side = [states, first, casts, pieces, *([last] if is_cast else [])]
    freed = last.n_bytes if is_cast else 0
    kernels.scan(
        program, [decays, inputs, c], made, saves=[decays, c, states, first, casts], side=side,
        gradients=[
            Gradient(c), Gradient(inputs),
            Gradient(decays, scratch_bytes=decays.n_bytes - freed),
        ],
        forward_bytes=last.n_bytes,
    )  # fmt: skip
    program.hold(pieces, last)
    return made
