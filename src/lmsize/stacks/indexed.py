"""The lightning indexer (DeepSeek sparse attention), which picks the tokens that attention sees.

Read off transformers 5.23, ``modeling_deepseek_v32.py``, ``DeepseekV32Indexer.forward``: all of it runs without
gradients, so that nothing is saved and its weights never learn; but every head scores every token
in fp32, against keys that the product spreads out over the queries.
"""

from __future__ import annotations

from typing import Any

from lmsize.model.parts import AttentionCore, Linear, Norm, Part
from lmsize.stacks.linears import applied
from lmsize.stacks.setting import Setting, Style, normed
from lmsize.tape import ops
from lmsize.tape.program import Op, Program, Tensor

FP32, BOOL = 4, 1


def picked(
    program: Program, x: Tensor, bottleneck: Tensor, index: list[Part], n_turned: Any, *,
    setting: Setting, style: Style,
) -> Tensor:  # fmt: skip
    """The mask of the tokens that each query picks.

    Args:
        bottleneck: what queries are unfolded from.
        index: the indexer's parts.
        n_turned: numbers of a head that positions turn.
    """
    learns, program.learns = program.learns, False
    core = next(part for part in index if isinstance(part, AttentionCore))
    t, pairs = setting.n_tokens, setting.n_tokens * setting.seq_len
    q = applied(program, bottleneck, _linear(index, "wq_b"), setting)
    norm = next(part for part in index if isinstance(part, Norm))
    k = normed(
        program, applied(program, x, _linear(index, "wk"), setting), norm, setting, style, n_rows=t
    )
    names = [q, k]
    q, k = (
        _turned(program, part, t * n_heads * n_turned, names, setting=setting, style=style)
        for part, n_heads in ((q, core.n_heads), (k, 1))
    )
    read = [ops.lowered(program, ops.cast(program, part, FP32)) for part in (q, k)]
    keys = read[1]
    if bool(setting.micro_batch > 1):  # one stride over sequences and queries together
        keys = ops.copy(program, keys, numel=pairs * core.head_dim, name="keys of every query")
    scores = ops.matmul(program, read[0], keys, numel=pairs * core.n_heads, name="index scores")
    scores = ops.pointwise(program, scores, name="scaled scores")
    scores = ops.pointwise(program, scores, name="relu")
    shares = ops.cast(program, applied(program, x, _linear(index, "weights_proj"), setting), FP32)
    sums = ops.matmul(program, shares, scores, numel=pairs, name="scores of all heads")
    sums = ops.add(program, sums, Tensor("mask", 0, FP32, kind="given"))
    program.hold(*names, q, k, scores, shares, sums)
    unpicked = Tensor("unpicked", pairs, BOOL)
    program.ops.append(Op("unpicked", (sums,), (unpicked,)))
    mask = Tensor("sparse mask", pairs, setting.weight_itemsize if _adds(setting) else BOOL)
    program.ops.append(Op("sparse mask", (unpicked,), (mask,)))
    program.learns = learns
    return mask


def _adds(setting: Setting) -> bool:
    return setting.attention == "eager"


def _linear(index: list[Part], leaf: str) -> Linear:
    return next(p for p in index if isinstance(p, Linear) and p.name.endswith(f".{leaf}"))


def _turned(
    program: Program, x: Tensor, numel: Any, names: list[Tensor], *, setting: Setting, style: Style
) -> Tensor:
    """The first numbers of each head turned, and the rest; what was turned is named to the end."""
    part, rest = ops.split(program, x, (numel, x.numel - numel))
    names.append(style.rotary(program, part, setting))
    return ops.cat(program, [names[-1], rest], name="turned")
