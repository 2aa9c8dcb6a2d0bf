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


def attention(
    program: Program, x: Tensor, section: Section, setting: Setting, style: Style
) -> Tensor:
    """From the normed stream to what attention adds to it."""
    core = section.core
    assert core is not None
    if own := style.attentions.get(setting.conduct.model_type):
        return own(program, x, section, setting, style)
    start, gate = len(program.ops), None
    if is_latent(section):
        q, k, v = latent_qkv(program, x, section, core, setting=setting, style=style)
    else:
        if style.fuses_matrices and not core.cross:
            section = replace(section, linears=[as_one(section.linears, setting)])
        made = style.qkv if style.qkv and not core.cross else _projected
        q, k, v = made(program, x, section, core, setting)
        q, gate = _gated_query(program, q, section, core, setting)
        q, k = _normed_heads(program, q, k, section, setting=setting, style=style)
        q, k = _positioned(program, q, k, core, setting=setting, style=style)
    projected = len(program.ops)
    if setting.conduct.n_relative and not core.cross:
        out = disentangled(program, (q, k, v), section, core, setting)
    else:
        if setting.bias:
            program.bias = position_bias(program, section, core, setting)
        out = style.core(program, (q, k, v), core, setting)
    program.hold(q, k, v)
    if is_latent(section) and style.recomputes_modules and setting.runs_again("mla_up_proj"):
        compressed = [part.name for part in section.linears if is_compressing(part)]
        program.recompute(start, stop=projected, outputs=True, spared=compressed)
    if gate is not None:
        opened = ops.pointwise(program, gate, name="sigmoid", saves="output")
        out = ops.mul(program, out, opened, name="gated")
        program.hold(gate)
    program.inner = out
    for linear in section.outputs:
        out = applied(program, out, linear, setting.of_shared)
    return out


def _positioned(
    program: Program, q: Tensor, k: Tensor, core: AttentionCore, *, setting: Setting, style: Style
) -> tuple[Tensor, Tensor]:
    if setting.conduct.model_type in habits.SCALES_QUERIES:
        q = ops.pointwise(program, q, name="scaled query")
    if setting.conduct.rotary and not core.cross:
        q, k = style.rotary(program, q, setting), style.rotary(program, k, setting)
    return q, k


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


def _normed_heads(
    program: Program, q: Tensor, k: Tensor, section: Section, *, setting: Setting, style: Style
) -> tuple[Tensor, Tensor]:
    core = section.core
    if core is None or len(section.norms) < 2:
        return q, k
    heads = (core.n_heads, core.n_kv_heads)
    widths = (core.n_heads * core.head_dim, core.n_kv_heads * core.head_dim)
    made = []
    for x, norm, n_heads, width in zip((q, k), section.norms[:2], heads, widths, strict=True):
        rows = setting.n_tokens * (1 if norm.width == width and width != core.head_dim else n_heads)
        made.append(normed(program, x, norm, setting, style, n_rows=rows))
    return made[0], made[1]
