"""A layer's parts in the order in which they run: norms, attention, MLP."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from lmsize.model.parts import (
    AttentionCore,
    Buffer,
    Conv,
    Embedding,
    Experts,
    Linear,
    Norm,
    Part,
    Plain,
    Scan,
)
from lmsize.model.spec import Block

Kind = Literal["attention", "mlp", "experts", "scan"]
SCANS = ("mamba", "mamba2", "delta")  # recurrences that have a program
KIMIS = tuple(
    frozenset(("q_proj", "k_proj", "v_proj", "b_proj", *gates)) for gates in (
        ("forget_gate.f_a_proj", "forget_gate.f_b_proj", "g_a_proj", "g_b_proj"),
        ("forget_gate.f_proj", "g_proj"),
    )
)  # fmt: skip
GATES = ("self_attn.gate_proj", "self_attn.g_proj")  # of attention's output
OLMOS = frozenset(("q_proj", "k_proj", "v_proj", "a_proj", "b_proj", "g_proj"))
INNER_NORMS = (
    "q_norm", "k_norm", "q_layernorm", "k_layernorm", "query_layernorm", "key_layernorm",
    "q_a_layernorm", "kv_a_layernorm", "q_a_norm", "kv_a_norm",
    "v_norm", "qk_norm",
)  # fmt: skip


@dataclass(slots=True)
class Section:
    """One branch of a residual layer.

    Attributes:
        before: the norm of its input; `after` that of its output.
        norms: of queries, keys and latents.
        index: of a lightning indexer, which picks what attention sees.
        positions: projections of a table of positions, which no token passes through.
        gate: whose projection opens what attention gives.
        table: of relative positions, where the layer makes its bias of them.
        buffers: tables that its module keeps.
        parts: all of it, in the order in which the module lists them.
    """

    kind: Kind
    before: Norm | None = None
    after: Norm | None = None
    linears: list[Linear] = field(default_factory=list)
    outputs: list[Linear] = field(default_factory=list)
    core: AttentionCore | None = None
    experts: Experts | None = None
    router: Linear | None = None
    scan: Scan | None = None
    convs: list[Conv] = field(default_factory=list)
    norms: list[Norm] = field(default_factory=list)
    positions: list[Linear] = field(default_factory=list)
    index: list[Part] = field(default_factory=list)
    table: Embedding | None = None
    gate: Linear | None = None
    buffers: list[Buffer] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)


def is_inner_norm(part: Part, owner: Section | None = None) -> bool:
    """Whether it is a norm of queries, keys or latents, or of the recurrence's own module."""
    if not isinstance(part, Norm):
        return False
    if owner is not None and owner.scan is not None and owner.linears:
        return _module(part.name) == _module(owner.linears[0].name)
    return part.name.rsplit(".", 1)[-1] in INNER_NORMS


def sections(block: Block) -> list[Section]:
    """The branches of a layer.

    A layer that begins with a norm, or does not end with one, has its norms before its branches;
    others after them. Where it has norms on both sides, the one that follows a branch is the
    branch's own.
    """
    groups = _groups(block)
    pre = bool(groups) and (isinstance(groups[0], Norm) or not isinstance(groups[-1], Norm))
    found: list[Section] = []
    waiting: list[Norm] = []
    n_norms = sum(isinstance(g, Norm) for g in groups)
    both = pre and n_norms == 2 * (len(groups) - n_norms)
    for group in groups:
        if isinstance(group, Section):
            if pre and waiting:
                group.before = waiting.pop()
            found.append(group)
        elif found and (not pre or both) and found[-1].after is None:
            found[-1].after = group
        else:
            waiting.append(group)
    if pre and waiting and found and found[-1].after is None:
        found[-1].after = waiting.pop()  # a norm that nothing comes after
    for section in found:
        _take_router(section)
    return found


def _take_router(section: Section) -> None:
    """The linear with an output for each expert is their router."""
    if section.experts is not None:
        n_experts = section.experts.n_experts
        section.router = next((p for p in section.linears if p.n_out == n_experts), None)
        section.linears = [part for part in section.linears if part is not section.router]


def _groups(block: Block) -> list[Norm | Section]:
    """Norms and branches in order; a branch ends with its last linear or with the next norm."""
    groups: list[Norm | Section] = []
    for part in block.parts:
        last = groups[-1] if groups else None
        open_ = last if isinstance(last, Section) else None
        if open_ is not None and _is_aside(part, open_):
            continue
        if is_inner_norm(part, open_):
            holders = (g for g in reversed(groups) if isinstance(g, Section) and (g.core or g.scan))
            owner = next(holders, open_)
            if owner is not None and isinstance(part, Norm):
                owner.norms.append(part)
                owner.parts.append(part)
        elif isinstance(part, Norm):
            groups.append(part)
        elif not isinstance(part, Plain | Buffer) and not _is_empty(part):
            if open_ is None or _is_complete(open_, part):
                open_ = Section("mlp")
                groups.append(open_)
            _extend(open_, part)
    return groups


def _is_aside(part: Part, section: Section) -> bool:
    """Take what stands beside a branch: an indexer's parts, the gate of attention, tables."""
    if indexer := getattr(part, "indexer", ""):
        if indexer == "lightning":  # others save nothing, and what they make is soon gone
            section.index.append(part)
    elif section.core and isinstance(part, Linear) and part.name in GATES:
        section.gate = part
    elif isinstance(part, Buffer):
        section.buffers.append(part)
    else:
        return False
    return True


def _is_empty(part: Part) -> bool:
    """A class builds the matrices of no shared experts, too."""
    return isinstance(part, Linear) and not part.n_in * part.n_out


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _is_complete(section: Section, part: Part) -> bool:
    if (section.core is None and section.scan is None) or not section.outputs:
        return False
    return isinstance(part, Linear | Experts)


def _extend(section: Section, part: Part) -> None:
    section.parts.append(part)
    if isinstance(part, AttentionCore):
        section.kind, section.core = "attention", part
    elif isinstance(part, Experts):
        section.kind, section.experts = "experts", part
    elif isinstance(part, Scan):
        section.kind, section.scan = "scan", part
    elif isinstance(part, Conv):
        section.convs.append(part)
    elif isinstance(part, Embedding):
        section.table = part
    elif isinstance(part, Linear) and not part.per_token:
        section.positions.append(part)
    elif isinstance(part, Linear):
        after = section.core is not None or section.scan is not None
        (section.outputs if after else section.linears).append(part)


def recurrence(section: Section) -> str:
    """Whose program a scan has; empty if none: delta rules differ by what makes their decays."""
    names = [part.name for part in section.linears]
    kind = section.scan.kind if section.scan else ""
    if kind == "delta" and {name.removeprefix("self_attn.") for name in names} in KIMIS:
        return "kda"
    if kind == "delta" and {name.rpartition(".")[2] for name in names} >= OLMOS:
        return kind
    return kind if kind in SCANS and any(".in_proj" in name for name in names) else ""


def is_plain(section: Section) -> bool:
    """Attention with projections for queries, keys and values; MLPs of two or three matrices."""
    if section.scan:
        return bool(recurrence(section))
    if section.convs:
        return False
    if section.experts:
        others = [p for p in section.linears if p.n_out != 1]
        return len(others) in (0, 2, 3) and len(section.experts.matrices) == 2
    if section.core is None:
        return len(section.linears) in (2, 3)
    latent = any(".kv_b" in part.name for part in section.linears)
    n_linears = (3, 4) if latent else (1, 3)
    return (
        len(section.linears) in n_linears
        and len(section.outputs) == 1
        and (len(section.linears) == 3 or not section.core.cross)
    )
