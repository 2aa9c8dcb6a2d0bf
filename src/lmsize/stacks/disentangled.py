"""DeBERTa's attention: content and relative positions attend to each other, each with scores of its own."""

from __future__ import annotations

from typing import Any

from lmsize.model.parts import AttentionCore, Linear
from lmsize.stacks.linears import applied
from lmsize.stacks.sections import Section
from lmsize.stacks.setting import QKV, Setting, parameter
from lmsize.tape import ops
from lmsize.tape.program import Program, Tensor


def disentangled(
    program: Program, qkv: QKV, section: Section, core: AttentionCore, setting: Setting
) -> Tensor:
    """Scores of content, of content to position and of position to content; weighted values."""
    q, k, v = (ops.copy(program, x) for x in qkv)
    n_scores = setting.n_tokens * core.n_heads * setting.seq_len
    divided = ops.pointwise(program, k, name="key over scale")
    scores = ops.matmul(program, q, divided, numel=n_scores, name="scores")
    bias = _bias(program, (q, k), section, core, setting)
    scores = ops.add(program, scores, bias)
    pairs = setting.n_tokens * setting.seq_len
    masked = ops.pointwise(program, scores, name="masked", n_masked=pairs)
    probs = ops.softmax(program, ops.raised(program, masked), itemsize=masked.itemsize)
    dropped = ops.dropout(program, probs, setting.conduct.attention_dropout)
    numel = setting.n_tokens * core.n_heads * core.v_head_dim
    out = ops.copy(program, ops.matmul(program, dropped, v, numel=numel, name="attention"))
    program.hold(q, k, v, masked, bias, probs, dropped)
    return out


def _bias(
    program: Program, content: tuple[Tensor, Tensor], section: Section, core: AttentionCore,
    setting: Setting,
) -> Tensor:  # fmt: skip
    """What relative positions add to the scores of every head."""
    width, n_rows = core.n_heads * core.head_dim, setting.conduct.n_relative
    table = Tensor(
        "relative positions", n_rows * width, content[0].itemsize, setting.trains_base, "shared"
    )
    dropped = ops.dropout(program, table, setting.conduct.hidden_dropout)
    shares = not section.positions  # keys' and queries' own matrices are used once more
    projections = section.linears[1::-1] if shares else section.positions
    made = [_positions(program, dropped, p, setting, width, again=shares) for p in projections]
    total: Tensor | None = None
    index: Any = setting.seq_len * setting.seq_len
    for x, position in zip(content, made, strict=False):
        wide = ops.matmul(program, x, position, numel=setting.n_tokens * core.n_heads * n_rows)
        numel = setting.n_tokens * core.n_heads * setting.seq_len
        picked = ops.gather(program, wide, numel=numel, n_rows=index, keeps_input=True)
        scaled = ops.pointwise(program, picked, name="over scale")
        program.hold(picked)
        total = scaled if total is None else ops.add(program, total, scaled)
    program.hold(dropped, *made)
    return total if total is not None else content[0]


def _positions(
    program: Program, table: Tensor, part: Linear, setting: Setting, width: int, *, again: bool
) -> Tensor:
    """The table projected and laid out by head, repeated for every sequence.

    Args:
        again: whether it is the content's own matrix, whose gradient is added to.
    """
    if setting.trains_base:
        weight = parameter(program, part.name, part.n_in * part.n_out, setting)
        weight.kind = "shared" if again else "parameter"
        made = ops.linear(program, table, weight, n_in=part.n_in, n_out=part.n_out)
    else:  # its adapter has a say as well
        made = applied(program, table, part, setting)
    by_head = ops.copy(program, made)
    rows = setting.micro_batch * setting.conduct.n_relative
    return ops.copy(program, by_head, numel=rows * width, name=made.name)
