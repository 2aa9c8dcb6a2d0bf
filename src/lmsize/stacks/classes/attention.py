"""Attention that classes of transformers 5.23 write out for themselves, from projections to output.

Each function is one class's ``forward``: ``modeling_mpt.py``, ``modeling_bloom.py``, ``modeling_falcon.py``,
``modeling_gptj.py`` (and ``modeling_codegen.py``).
What a frame still names when it returns is held until then; what a block hands back beside the stream
lingers until the next block has run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lmsize.model.parts import AttentionCore
from lmsize.stacks.linears import applied
from lmsize.stacks.own import Own
from lmsize.stacks.sdpa import composed, fused_core, repeated
from lmsize.stacks.sections import Section
from lmsize.stacks.setting import QKV, Setting, Style
from lmsize.tape import ops
from lmsize.tape.program import Gradient, GradKind, Program, Tensor

FP32 = 4


def _core(section: Section) -> AttentionCore:
    assert section.core is not None
    return section.core


def mpt(
    program: Program, x: Tensor, section: Section, setting: Setting, style: Style
) -> Tensor:  # fmt: skip
    """ALiBi's slopes are fp32, so the scores become so; a mask of booleans fills them."""
    core = _core(section)
    del style
    fused = applied(program, x, section.linears[0], setting)
    q, k, v = ops.split(program, fused, _thirds(core, setting))
    scores = product(program, (q, k), setting, numel=n_scores(core, setting), name="scores")
    scores = ops.pointwise(program, scores, name="scaled scores")
    scores = ops.add(program, scores, Tensor("alibi", 0, FP32, kind="given"), name="with alibi")
    scores = ops.pointwise(program, scores, name="masked scores")
    probs = ops.cast(program, ops.softmax(program, scores, itemsize=FP32), v.itemsize)
    probs = ops.dropout(program, probs, setting.conduct.attention_dropout)
    out = product(program, (probs, v), setting, numel=q.numel, name="attention")
    made = applied(program, by_token(program, out, setting), section.outputs[0], setting)
    program.hold(fused, scores)
    _hand_back(program, probs)
    return made


def bloom(
    program: Program, x: Tensor, section: Section, setting: Setting, style: Style
) -> Tensor:  # fmt: skip
    """Scaled within the product that adds ALiBi; both sums are named until the residual is added."""
    core = _core(section)
    del style
    fused = applied(program, x, section.linears[0], setting)
    parts = [ops.narrow(program, fused, numel=n) for n in _thirds(core, setting)]
    q, k, v = (_reordered(program, part, setting) for part in parts)
    scores = ops.matmul(program, q, k, numel=n_scores(core, setting), name="scores")
    masked = ops.add(program, scores, mask(setting), name="masked scores")
    probs = ops.cast(program, ops.softmax(program, masked, itemsize=FP32), q.itemsize)
    probs = ops.dropout(program, probs, setting.conduct.attention_dropout)
    out = ops.matmul(program, probs, v, numel=q.numel, name="attention")
    made = applied(program, by_token(program, out, setting), section.outputs[0], setting)
    program.in_branch += [fused, q, k, v, scores, masked, made]
    _hand_back(program, probs)
    return made


def gptj(
    program: Program, x: Tensor, section: Section, setting: Setting, style: Style
) -> Tensor:  # fmt: skip
    """Positions turn a slice of each head; scores are taken in fp32, which autocast undoes."""
    core = _core(section)
    del style
    if len(section.linears) == 1:  # CodeGen
        fused = applied(program, x, section.linears[0], setting)
        q, k, v = ops.split(program, fused, _thirds(core, setting))
        names = [fused]
    else:
        q, k, v = (applied(program, x, linear, setting) for linear in section.linears)
        numel = math.prod(section.buffers[0].shape)
        table = Tensor("positions", numel, FP32)  # laid out anew by each layer
        program.record("positions", [], table)
        names = [q, k, v, table]
    key, query = (_turned(program, part, core, setting, names) for part in (k, q))
    raised = [ops.cast(program, part, FP32) for part in (query, key)]
    scores = product(program, raised, setting, numel=n_scores(core, setting), name="scores")
    scores = ops.pointwise(program, scores, name="scaled scores")
    scores = ops.add(program, scores, mask(setting), name="masked scores")
    probs = ops.cast(program, ops.softmax(program, scores, itemsize=FP32), v.itemsize)
    probs = ops.dropout(program, probs, setting.conduct.attention_dropout)
    out = product(program, (probs, v), setting, numel=q.numel, name="attention")
    program.hold(*raised)
    made = applied(program, by_token(program, out, setting), section.outputs[0], setting)
    program.hold(*names, key, query)
    _hand_back(program, probs)
    return made


def falcon(
    program: Program, x: Tensor, section: Section, setting: Setting, style: Style
) -> Tensor:  # fmt: skip
    """Keys and values are picked from the one projection by an index, which copies them."""
    core = _core(section)
    fused = applied(program, x, section.linears[0], setting)
    query, key, value = _picked(program, fused, core, setting)
    if setting.conduct.rotary:
        query, key = (style.rotary(program, part, setting) for part in (query, key))
    if setting.attention == "eager":
        out = _falcon_scores(program, (query, key, value), x.itemsize, core, setting)
    elif _is_multi_query(core, setting):
        out = composed(program, (query, key, value), core, setting, broadcasts=True)
    else:
        whole = replace(core, n_kv_heads=core.n_heads)
        out = fused_core(program, (query, key, value), whole, setting)
    made = applied(program, out, section.outputs[0], setting)
    program.hold(fused, query, key, value)
    return made


def _is_multi_query(core: AttentionCore, setting: Setting) -> bool:
    """The first Falcons leave the one head of keys to products and kernels to repeat."""
    return core.n_kv_heads != core.n_heads and not setting.conduct.repeats_keys


def _picked(program: Program, fused: Tensor, core: AttentionCore, setting: Setting) -> QKV:
    """Queries, keys and values of a projection that lays them out group by group."""
    width, few = setting.n_tokens * core.head_dim, core.n_kv_heads
    query = ops.narrow(program, fused, numel=width * core.n_heads)
    pair = [ops.narrow(program, fused, numel=width * few) for _ in range(2)]
    if not setting.conduct.repeats_keys and few == core.n_heads:
        return query, pair[0], pair[1]
    key, value = (ops.copy(program, part) for part in pair)
    if few == core.n_heads or _is_multi_query(core, setting):
        return query, key, value
    if few > 1:  # the groups' heads are put in a row
        query = ops.copy(program, query)
    key, value = repeated(program, key, value, core)
    return query, key, value


def _falcon_scores(
    program: Program, qkv: QKV, itemsize: float, core: AttentionCore, setting: Setting
) -> Tensor:
    """Divided in place; the softmax is taken in the type of the layer's normed input."""
    q, k, v = qkv
    if core.n_kv_heads != core.n_heads and _is_multi_query(core, setting):
        k, v = repeated(program, k, v, core)
    scores = product(program, (q, k), setting, numel=n_scores(core, setting), name="scores")
    names: list[Tensor] = []
    if not setting.conduct.rotary:
        alibi = Tensor("alibi", 0, setting.weight_itemsize, kind="given")
        names = [scores, ops.cast(program, scores, FP32)]
        scores = ops.add(program, names[1], alibi)
        names.append(scores)
    scaled = Tensor(scores.name, scores.numel, scores.itemsize)
    scaled.base = scores.base
    program.record("scaled in place", [scores], scaled, gradients=[Gradient(scores)])
    masked = ops.add(program, scaled, mask(setting), name="masked scores")
    probs = ops.softmax(program, masked, itemsize=itemsize)
    if not setting.conduct.rotary:
        probs = ops.dropout(program, probs, setting.conduct.attention_dropout)
    program.hold(scaled)
    out = product(program, (probs, v), setting, numel=q.numel, name="attention")
    program.hold(*names)
    _hand_back(program, probs)
    return by_token(program, out, setting)


def _turned(
    program: Program, x: Tensor, core: AttentionCore, setting: Setting, names: list[Tensor]
) -> Tensor:
    """``x * cos + rotate_every_two(x) * sin`` of a slice, by tables that each call lays out anew."""
    n_turned = x.numel * setting.conduct.rotary_frac // 1
    rotary_dim = core.head_dim * setting.conduct.rotary_frac // 1
    numel = setting.seq_len * rotary_dim
    sines, cosines = (Tensor(name, numel, x.itemsize) for name in ("sines", "cosines"))
    program.record("rotary tables", [], sines, side=[cosines])
    part = ops.narrow(program, x, numel=n_turned)
    rest = ops.narrow(program, x, numel=x.numel - n_turned)
    straight = ops.mul(program, part, cosines)
    first, second = (ops.narrow(program, part, numel=n_turned // 2) for _ in range(2))
    stacked = ops.cat(program, [ops.pointwise(program, second, name="negative"), first])
    turned = ops.add(program, straight, ops.mul(program, stacked, sines))
    names.append(turned)
    return ops.cat(program, [turned, rest])


def _hand_back(program: Program, probs: Tensor) -> None:
    """Attention returns them beside its output, and so does the layer."""
    program.named.append(probs)
    program.lingering.append(probs)


def n_scores(core: AttentionCore, setting: Setting) -> Any:
    """One for every head and pair of tokens of a sequence."""
    return setting.n_tokens * core.n_heads * setting.seq_len


def mask(setting: Setting) -> Tensor:
    """What is added to scores, in the type of the embeddings that it was made for."""
    return Tensor("mask", 0, setting.weight_itemsize, kind="given")


def _thirds(core: AttentionCore, setting: Setting) -> list[Any]:
    width = setting.n_tokens * core.n_heads * core.head_dim
    return [width, width, width]


def product(
    program: Program, read: Sequence[Tensor], setting: Setting, *, numel: Any, name: str
) -> Tensor:
    """``torch.matmul`` over heads: autocast lowers what it reads, and has it until the product is made.

    What lies token by token is put head by head; one sequence lies so already, and so do scores.
    """
    lowered = [ops.lowered(program, x) for x in read]
    first = lowered[0] if name == "attention" else _reordered(program, lowered[0], setting)
    made = ops.matmul(
        program, first, _reordered(program, lowered[1], setting), numel=numel, name=name
    )
    program.hold(*lowered)
    return made


def _reordered(program: Program, x: Tensor, setting: Setting) -> Tensor:
    """A tensor that lies token by token, put head by head."""
    return x if setting.micro_batch == 1 else ops.copy(program, x)


def by_token(program: Program, x: Tensor, setting: Setting) -> Tensor:
    """Heads put together token by token: a copy, whose gradient is copied back for several sequences."""
    made = Tensor(x.name, x.numel, x.itemsize)
    kind: GradKind = "same" if setting.micro_batch == 1 else "new"
    return program.record("copy", [x], made, gradients=[Gradient(x, kind)])


OWN: Mapping[str, Own] = {
    name: Own(branches={"attention": attention})
    for name, attention in (
        ("bloom", bloom), ("codegen", gptj), ("falcon", falcon), ("gptj", gptj), ("mpt", mpt),
    )
}  # fmt: skip
