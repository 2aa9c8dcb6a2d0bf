"""Hunyuan V4: hyper-connections, latent attention with an indexer, a sink of each head and a gate.

transformers 5.23, ``modeling_hy_v4.py``. Streams are joined and mixed in fp32, autocast or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lmsize.model.spec import Block
from lmsize.stacks.classes.hyper import collapsed, ending, opened, root_of_squares, spread, tables
from lmsize.stacks.experts import mixture
from lmsize.stacks.latent import latent_qkv
from lmsize.stacks.local import local_section
from lmsize.stacks.mlp import dense_mlp
from lmsize.stacks.named import Modules
from lmsize.stacks.own import Own
from lmsize.stacks.sections import Section, sections
from lmsize.stacks.setting import Setting, Style, normed
from lmsize.tape import ops
from lmsize.tape.program import Op, Program, Tensor

FP32, BOOL = 4, 1


def layer(program: Program, stream: Tensor, block: Block, setting: Setting, style: Style) -> Tensor:
    """Attention and MLP, each reading all streams as one and adding to each."""
    modules = Modules.of(program, block, setting, style)
    mixers = ("attn_hc", "ffn_hc")
    apart = (*mixers, "self_attn.gate_proj")
    usual = tuple(p for p in block.parts if not getattr(p, "name", "").startswith(apart))
    branches = [local_section(s, setting.layout) for s in sections(replace(block, parts=usual))]
    for name, branch in zip(mixers, branches, strict=True):
        after, x = _joined(modules, name, stream)
        assert branch.before is not None
        x = normed(program, x, branch.before, setting, style)
        out = _branch(modules, x, branch)
        wide = spread(program, after, ops.cast(program, out, FP32), setting)
        total = ops.add(program, wide, ops.cast(program, stream, FP32))
        made = ops.cast(program, total, stream.itemsize)
        program.hold(stream, after, out)
        stream = made
    return stream


def _joined(modules: Modules, name: str, stream: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of what a branch adds, and its input."""
    program, n = modules.program, modules.setting.conduct.n_streams
    t = modules.setting.n_stream_tokens
    autocast, program.autocast = program.autocast, None
    raised = ops.cast(program, stream, FP32)
    mixed = modules.raised_linear(f"{name}.fn", raised)
    root = root_of_squares(program, raised, n_rows=t)
    mixed = ops.mul(program, mixed, root, small=root)
    base, scale = modules.plain(f"{name}.base"), modules.plain(f"{name}.scale")
    before, after = ops.split(program, mixed, (t * n, t * n))
    weights = ops.pointwise(program, opened(program, before, scale, base), name="plus epsilon")
    after = ops.pointwise(program, opened(program, after, scale, base), name="times magnitude")
    after = ops.pointwise(program, after, name="plus epsilon")
    x = collapsed(program, weights, stream, modules.setting)
    program.autocast = autocast
    program.hold(raised, mixed)
    return after, x


def _branch(modules: Modules, x: Tensor, branch: Section) -> Tensor:
    program, setting, style = modules.program, modules.setting, modules.style
    if branch.kind == "attention":
        return _attention(modules, x, branch)
    if branch.kind == "experts":
        return mixture(program, x, branch, setting, style)
    return dense_mlp(program, x, branch.linears, setting, style)


def _attention(modules: Modules, x: Tensor, section: Section) -> Tensor:
    """The gate is projected first; layers that do not pick for themselves mask all the same."""
    program, setting, style = modules.program, modules.setting, modules.style
    core = section.core
    assert core is not None
    gate = modules.linear("self_attn.gate_proj", x)
    q, k, v = latent_qkv(program, x, section, core, setting=setting, style=style)
    if not section.index:
        pairs = setting.n_tokens * setting.seq_len
        mask = Tensor("sparse mask", pairs, setting.weight_itemsize)
        unpicked = Tensor("unpicked", pairs, BOOL)
        program.ops.append(Op("sparse mask", (), (mask, unpicked)))
        program.in_branch += [mask, unpicked]
    out = style.core(program, (q, k, v), core, setting)
    out = ops.mul(
        program, out, ops.pointwise(program, gate, name="sigmoid", saves="output"), name="gated"
    )
    program.hold(q, k, v, gate, *program.in_branch)
    program.in_branch.clear()
    return modules.linear("o_proj", out)


OWN: Mapping[str, Own] = {"hy_v4": Own(layer=layer, tables=tables, ending=ending)}
