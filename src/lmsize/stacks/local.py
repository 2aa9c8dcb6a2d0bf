"""A layer's sections as one tensor- and expert-parallel rank has them."""

from __future__ import annotations

from dataclasses import replace

from lmsize.layout.degrees import Layout
from lmsize.layout.shares import rank_shape
from lmsize.model.parts import AttentionCore, Embedding, Experts, Linear, Part
from lmsize.numbers import ceil_div
from lmsize.stacks.sections import Section


def local_section(section: Section, layout: Layout, *, whole_heads: bool = False) -> Section:
    """The rank's part of every linear, core (but `whole_heads`) and bank of experts."""
    if layout.is_undivided:
        return section
    return replace(
        section,
        linears=[local_linear(part, layout) for part in section.linears],
        outputs=[local_linear(part, layout) for part in section.outputs],
        gate=local_linear(section.gate, layout) if section.gate else None,
        core=local_core(section.core, layout) if section.core and not whole_heads else section.core,
        experts=local_experts(section.experts, layout) if section.experts else None,
        parts=[local_part(part, layout) for part in section.parts],
    )


def local_part(part: Part, layout: Layout) -> Part:
    """The rank's part of any part that is divided."""
    if isinstance(part, Linear):
        return local_linear(part, layout)
    if isinstance(part, AttentionCore):
        return local_core(part, layout)
    return local_experts(part, layout) if isinstance(part, Experts) else part


def local_linear(part: Linear, layout: Layout) -> Linear:
    """A column-parallel linear has part of the outputs, a row-parallel one of the inputs."""
    if part.split is None:
        return part
    if part.tied:
        return replace(part, n_out=ceil_div(part.n_out, layout.tp))
    parameter = next(iter(part.parameters()))
    n_out, n_in = rank_shape(parameter, tp=layout.tp)
    return replace(part, n_in=n_in, n_out=n_out)


def local_core(part: AttentionCore, layout: Layout) -> AttentionCore:
    """A share of the heads; key-value heads are repeated where there are fewer than ranks."""
    return replace(
        part, n_heads=ceil_div(part.n_heads, layout.tp),
        n_kv_heads=ceil_div(part.n_kv_heads, layout.tp),
    )  # fmt: skip


def local_experts(part: Experts, layout: Layout) -> Experts:
    """A share of the experts, or of each expert's inner width."""
    etp = layout.expert_tp
    *ups, down = part.matrices
    name, n_in, n_out = down
    matrices = (
        *((up, width, ceil_div(inner, etp)) for up, width, inner in ups),
        (name, ceil_div(n_in, etp), n_out),
    )
    return replace(part, n_experts=ceil_div(part.n_experts, layout.ep), matrices=matrices)


def local_embedding(part: Embedding, layout: Layout) -> Embedding:
    """A share of the vocabulary's rows."""
    if not part.is_vocabulary:
        return part
    return replace(part, n_rows=ceil_div(part.n_rows, layout.tp))
