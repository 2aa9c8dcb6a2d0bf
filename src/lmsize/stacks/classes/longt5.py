"""LongT5's encoder: tokens see their own block and both beside it, and perhaps a summary of all.

transformers 5.23, ``modeling_longt5.py``: ``LongT5LocalAttention``, ``LongT5TransientGlobalAttention``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmsize.model.parts import AttentionCore
from lmsize.numbers import ceil_div
from lmsize.stacks.attention import attention
from lmsize.stacks.linears import applied
from lmsize.stacks.own import Own
from lmsize.stacks.sections import Section
from lmsize.stacks.setting import Setting, Style
from lmsize.tape import ops
from lmsize.tape.program import Program, Tensor

FP32 = 4
LOCAL_RADIUS = 127  # of a config that does not say


def local(program: Program, x: Tensor, section: Section, setting: Setting, style: Style) -> Tensor:
    """Queries by blocks against three blocks of keys; decoders are as T5's."""
    core = section.core
    assert core is not None
    if core.cross or core.causal:
        return attention(program, x, section, setting, style)
    block = setting.conduct.number("local_radius", LOCAL_RADIUS) + 1
    n_blocks = setting.micro_batch * ceil_div(setting.seq_len, block)
    q, k, v = (applied(program, x, part, setting) for part in section.linears[:3])
    names = [q, k, v]
    if setting.seq_len % block:
        q, k, v = (
            _padded(program, y, n_blocks * block * core.n_heads * core.head_dim) for y in (q, k, v)
        )
    k, v = (_beside(program, y) for y in (k, v))
    query = ops.copy(program, q, numel=q.numel, name="query by head")
    key = ops.copy(program, k, numel=k.numel, name="key by head")
    n_scores = n_blocks * core.n_heads * block * 3 * block
    scores = ops.matmul(program, query, key, numel=n_scores, name="scores")
    scores = ops.in_place(program, scores, _bias(program, n_scores, core, setting), name="bias")
    probs = ops.cast(program, ops.softmax(program, scores, itemsize=FP32), scores.itemsize)
    probs = ops.dropout(program, probs, setting.conduct.attention_dropout)
    value = ops.copy(program, v, numel=v.numel, name="value by head")
    out = ops.matmul(program, probs, value, numel=q.numel, name="attention")
    laid = ops.copy(program, out, numel=out.numel)
    program.hold(*names, q, k, v, scores, probs)
    return applied(
        program, ops.narrow(program, laid, numel=names[0].numel), section.outputs[0], setting
    )


def _padded(program: Program, x: Tensor, numel: Any) -> Tensor:
    """To whole blocks."""
    return ops.copy(program, x, numel=numel, name="padded")


def _beside(program: Program, x: Tensor) -> Tensor:
    """Each block with both that lie beside it."""
    padded = ops.copy(program, x, numel=x.numel, name="padded by blocks")
    made = ops.copy(program, padded, numel=3 * x.numel, name="three blocks")
    program.hold(padded)
    return made


def _bias(program: Program, numel: Any, core: AttentionCore, setting: Setting) -> Tensor:
    """Of positions, with the mask of every block: the first layer's, which later ones read."""
    del core
    if setting.bias == "read":
        return program.given(
            "position bias", numel, setting.weight_itemsize, needs_grad=setting.trains_base,
            awaited=not setting.is_last,
        )  # fmt: skip
    made = Tensor("position bias", numel, setting.weight_itemsize, setting.trains_base)
    program.record("position bias", [], made)
    made.needs_grad = setting.trains_base
    if setting.bias == "made":
        program.hand_on(made)
    return made


OWN: Mapping[str, Own] = {"longt5": Own(branches={"attention": local})}
