"""Attention layers: projections, norms of heads, rotary positions, the core, the output."""

from __future__ import annotations

from dataclasses import replace

from lmsize.model.parts import AttentionCore
from lmsize.stacks import habits
from lmsize.stacks.disentangled import disentangled
from lmsize.stacks.latent import is_compressing, is_latent, latent_qkv
from lmsize.stacks.linears import applied, as_one
from lmsize.stacks.positions import position_bias
from lmsize.stacks.sections import Section
from lmsize.stacks.setting import QKV, Setting, Style, normed
from lmsize.tape import ops
from lmsize.tape.program import Program, Tensor

FP32 = 4


def attention(
    program: Program, x: Tensor, section: Section, setting: Setting, style: Style
) -> Tensor:
    """From the normed stream to what attention adds to it."""
    core = section.core
    assert core is not None
    start, gate, before = len(program.ops), None, program.returned
    if is_latent(section):
        q, k, v = latent_qkv(program, x, section, core, setting=setting, style=style)
    else:
        if style.fuses_matrices and not core.cross:
            section = replace(section, linears=[as_one(section.linears, setting)])
        made = style.qkv if style.qkv and not core.cross else _projected
        q, k, v = made(program, x, section, core, setting)
        q, gate = _gated_query(program, q, section, core, setting)
        if section.gate is not None and setting.conduct.model_type not in habits.GATES_LAST:
            gate = applied(program, x, section.gate, setting)
        q, k, v = _turned(program, (q, k, v), section, setting=setting, style=style)
    projected = len(program.ops)
    if setting.conduct.n_relative and not core.cross:
        out = disentangled(program, (q, k, v), section, core, setting)
    else:
        if setting.bias:
            program.bias = position_bias(program, q, section, core, setting)
        out = style.core(program, (q, k, v), core, setting)
    program.hold(q, k, v)
    if is_latent(section) and style.recomputes_modules and setting.runs_again("mla_up_proj"):
        compressed = [part.name for part in section.linears if is_compressing(part)]
        program.recompute(start, stop=projected, outputs=True, spared=compressed)
    out = _opened(program, out, x, gate, section, setting=setting)
    program.inner = out
    for linear in section.outputs:
        out = applied(program, out, linear, setting.of_shared)
    if program.returned is not before:
        program.hold(*before)  # by an attention before, whose names these take now
    return out


def _opened(
    program: Program, out: Tensor, x: Tensor, gate: Tensor | None, section: Section, *,
    setting: Setting,
) -> Tensor:  # fmt: skip
    """Attention's output times a sigmoid of its gate, or of one projected only now a softplus, in fp32."""
    if section.gate is not None and setting.conduct.model_type in habits.GATES_LAST:
        raised = ops.cast(program, applied(program, x, section.gate, setting), FP32)
        soft = ops.pointwise(program, raised, name="softplus", saves="input")
        soft = ops.cast(program, soft, out.itemsize)
        is_by_head = section.core is not None and section.gate.n_out == section.core.n_heads
        made = ops.mul(program, out, soft, small=soft if is_by_head else (), name="gated")
        program.hold(soft)
        return made
    if gate is None:
        return out
    opened = ops.pointwise(program, gate, name="sigmoid", saves="output")
    made = ops.mul(program, out, opened, name="gated")
    program.hold(gate)
    return made


def _projected(
    program: Program, x: Tensor, section: Section, core: AttentionCore, setting: Setting
) -> QKV:
    t = setting.n_tokens
    sizes = [t * core.n_heads * core.head_dim, t * core.n_kv_heads * core.head_dim]
    sizes.append(t * core.n_kv_heads * core.v_head_dim)
    source = program.memory if core.cross and program.memory is not None else x
    made = [
        applied(program, x if at == 0 else source, linear, setting)
        for at, linear in enumerate(section.linears)
    ]
    if len(made) == 1:
        q, k, v = ops.split(program, made[0], sizes)
        return q, k, v
    q, k, v = made[:3]
    return ops.view(program, q), ops.view(program, k), ops.view(program, v)


def _gated_query(
    program: Program, q: Tensor, section: Section, core: AttentionCore, setting: Setting
) -> tuple[Tensor, Tensor | None]:
    """Where queries' projection is twice as wide, its other half is a gate of the output."""
    width = core.n_heads * core.head_dim
    if section.linears[0].n_out != 2 * width or len(section.linears) != 3:
        return q, None
    q, gate = ops.split(program, q, (setting.n_tokens * width, setting.n_tokens * width))
    return q, ops.copy(program, gate)


def _turned(program: Program, qkv: QKV, section: Section, *, setting: Setting, style: Style) -> QKV:
    """Queries and keys normed and turned by their positions, in the order of the class."""
    if setting.conduct.model_type in habits.SCALES_QUERIES:
        qkv = ops.pointwise(program, qkv[0], name="scaled query"), *qkv[1:]
    crosses = section.core is not None and section.core.cross
    is_bare = core_is_bare(section, setting)
    if not setting.conduct.rotary or crosses or is_bare:
        return _normed_heads(program, qkv, section, setting=setting, style=style)
    turns_first = setting.conduct.model_type in habits.TURNS_FIRST
    if turns_first:
        q, k, v = qkv
        qkv = style.rotary(program, q, setting), style.rotary(program, k, setting), v
    q, k, v = _normed_heads(program, qkv, section, setting=setting, style=style)
    if turns_first:
        return q, k, v
    return style.rotary(program, q, setting), style.rotary(program, k, setting), v


def core_is_bare(section: Section, setting: Setting) -> bool:
    """Whether positions turn only what sees a window, and it sees all."""
    only_windows = setting.conduct.model_type in habits.TURNS_WINDOWS
    return only_windows and section.core is not None and section.core.window is None


def _normed_heads(
    program: Program, qkv: QKV, section: Section, *, setting: Setting, style: Style
) -> QKV:
    """The norms of queries, keys and, where there is a third, values."""
    core = section.core
    if core is None or len(section.norms) < 2:
        return qkv
    made = list(qkv)
    heads = (core.n_heads, core.n_kv_heads, core.n_kv_heads)
    for at, norm in enumerate(section.norms[:3]):
        size = core.head_dim if at < 2 else core.v_head_dim
        is_whole = norm.width == heads[at] * size and norm.width != size
        rows = setting.n_tokens * (1 if is_whole else heads[at])
        made[at] = normed(program, made[at], norm, setting, style, n_rows=rows)
    return made[0], made[1], made[2]
