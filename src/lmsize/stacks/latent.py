"""Latent attention (DeepSeek): queries, keys and values unfolded from compressed tokens."""

from __future__ import annotations

from dataclasses import replace

from lmsize.model.parts import AttentionCore, Linear, Norm
from lmsize.stacks.indexed import picked
from lmsize.stacks.linears import applied
from lmsize.stacks.sections import Section
from lmsize.stacks.setting import QKV, Setting, Style, normed
from lmsize.tape import ops
from lmsize.tape.program import Program, Tensor


def is_latent(section: Section) -> bool:
    """Whether keys and values come from one compressed latent."""
    return any(_leaf(part).startswith("kv_b") for part in section.linears)


def is_compressing(part: Linear) -> bool:
    """Whether it makes a latent, of queries or of keys and values."""
    return _leaf(part).startswith(("q_a", "kv_a"))


def latent_qkv(
    program: Program, x: Tensor, section: Section, core: AttentionCore, *, setting: Setting,
    style: Style,
) -> QKV:  # fmt: skip
    """Queries, keys and values, their rotary parts turned."""
    t = setting.n_tokens
    down, unfold = _linear(section, "kv_a"), _linear(section, "kv_b")
    norm = _norm(section, "kv_a")
    n_latent = unfold.n_in
    n_turned = down.n_out - n_latent
    n_plain = core.head_dim - n_turned
    # A norm that runs again is not saved; what it hands on is, as it is.
    entry = setting.of_shared if setting.runs_again("layernorm") else setting
    q, bottleneck = _queries(program, x, section, setting, style, entry=entry)
    plain, turned = ops.split(program, q, (t * core.n_heads * n_plain, t * core.n_heads * n_turned))
    compressed = applied(program, x, down, entry)
    rows = setting.n_stream_tokens  # latents are shared over the sequence as the stream is
    latent, shared = ops.split(program, compressed, (rows * n_latent, rows * n_turned))
    if norm is not None:
        latent = normed(program, latent, norm, setting, style, n_rows=rows)
    if setting.sequence_shards > 1:
        shared = ops.copy(program, shared, numel=t * n_turned, name="gathered")
    turning = replace(setting, head_dim=n_turned)
    turned, shared = style.rotary(program, turned, turning), style.rotary(program, shared, turning)
    q = ops.cat(program, [plain, turned], name="query")
    both = applied(program, latent, unfold, setting)
    k_plain, v = ops.split(
        program, both, (t * core.n_heads * n_plain, t * core.n_heads * core.v_head_dim)
    )
    repeated = ops.expanded(program, shared, numel=t * core.n_heads * n_turned)
    k = ops.cat(program, [k_plain, repeated], name="key")
    if style.copies_values:
        v = ops.copy(program, v, name="values")
    if section.index:
        mask = picked(program, x, bottleneck, section.index, n_turned, setting=setting, style=style)
        program.in_branch.append(mask)
    program.hold(plain, turned, latent, shared, both)
    return q, k, v


def _queries(
    program: Program, x: Tensor, section: Section, setting: Setting, style: Style, *,
    entry: Setting,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """By one matrix, or two with a norm between, before which they are; `entry` is for the first."""
    bottleneck = x
    for part in section.linears:
        if _leaf(part).startswith("q"):
            is_second = _leaf(part).startswith("q_b")
            bottleneck = x if is_second else bottleneck
            x = applied(program, x, part, setting if is_second else entry)
            norm = _norm(section, "q_a")
            if _leaf(part).startswith("q_a") and norm is not None:
                x = normed(program, x, norm, setting, style, n_rows=setting.n_stream_tokens)
    return x, bottleneck


def _leaf(part: Linear | Norm) -> str:
    return part.name.rpartition(".")[2]


def _linear(section: Section, start: str) -> Linear:
    return next(part for part in section.linears if _leaf(part).startswith(start))


def _norm(section: Section, start: str) -> Norm | None:
    return next((part for part in section.norms if _leaf(part).startswith(start)), None)
