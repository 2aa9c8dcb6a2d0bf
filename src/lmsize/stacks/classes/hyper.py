"""Hyper-connections: the residual is several streams, which each branch reads as one and adds to.

transformers 5.23, ``modeling_deepseek_v4.py`` and ``modeling_hy_v4.py``: ``HyperConnection``, ``HyperHead``.
A token's weights of the streams are computed in fp32 from all of them.
"""

from __future__ import annotations

from lmsize.model.parts import Embedding, Part
from lmsize.model.spec import Block
from lmsize.stacks.local import local_embedding
from lmsize.stacks.looking_up import looked_up
from lmsize.stacks.named import Modules
from lmsize.stacks.setting import Setting, Style, Use
from lmsize.tape import ops
from lmsize.tape.program import Program, Tensor

FP32 = 4


def tables(
    program: Program, block: Block, setting: Setting, style: Style, *, use: Use
) -> tuple[Tensor, Tensor | None]:
    """Every stream begins as the embeddings."""
    del style
    table = next(p for p in block.parts if isinstance(p, Embedding))
    row = looked_up(program, local_embedding(table, setting.layout), setting,
                    setting.n_stream_tokens, use=use)  # fmt: skip
    program.handed.append(row)
    made = ops.copy(program, row, numel=row.numel * setting.conduct.n_streams, name="streams")
    return made, row if setting.inputs_need_grad else None


def root_of_squares(program: Program, x: Tensor, *, n_rows: object) -> Tensor:
    """``rsqrt(mean(x ** 2) + eps)`` of every row, in fp32."""
    square = ops.power(program, ops.cast(program, x, FP32), name="square")
    spread = ops.pointwise(program, ops.mean(program, square, numel=n_rows), name="plus epsilon")
    program.hold(square)
    return ops.pointwise(program, spread, name="rsqrt", saves="output")


def opened(
    program: Program, logits: Tensor, scale: Tensor, base: Tensor, *, kind: str = "sigmoid"
) -> Tensor:
    """``sigmoid(logits * scale + base)``, or a softmax."""
    scaled = ops.add(program, ops.mul(program, logits, scale, small=scale), base, is_row=True)
    return ops.pointwise(program, scaled, name=kind, saves="output")


def collapsed(program: Program, weights: Tensor, streams: Tensor, setting: Setting) -> Tensor:
    """The weighted sum of the streams, in their type."""
    weighted = ops.mul(program, weights, streams, small=weights, name="weighted streams")
    numel = streams.numel // setting.conduct.n_streams
    return ops.cast(program, ops.total(program, weighted, numel=numel), streams.itemsize)


def spread(program: Program, weights: Tensor, x: Tensor, setting: Setting) -> Tensor:
    """A branch's output for every stream, times the stream's weight."""
    numel = x.numel * setting.conduct.n_streams
    return ops.mul(program, weights, x, small=(weights, x), numel=numel, name="for every stream")


def ending(
    program: Program, x: Tensor, block: Block, setting: Setting, style: Style
) -> tuple[Tensor, tuple[Part, ...]]:
    """One stream of them all, by weights of its own."""
    modules = Modules.of(program, block, setting, style)
    t, autocast = setting.n_stream_tokens, program.autocast
    raised = ops.cast(program, x, FP32)
    root = root_of_squares(program, raised, n_rows=t)
    if setting.conduct.model_type == "hy_v4":
        program.autocast = None
        mixed = modules.raised_linear("hc_head.hc_fn", raised)
        mixed = ops.mul(program, mixed, root, small=root)
    else:
        normed = ops.mul(program, raised, root, small=root)
        mixed = modules.raised_linear("hc_head.hc_fn", normed)
    scale, base = (
        ops.cast(program, modules.plain(f"hc_head.hc_{n}"), FP32) for n in ("scale", "base")
    )
    weights = ops.pointwise(program, opened(program, mixed, scale, base), name="plus epsilon")
    made = collapsed(program, weights, x, setting)
    program.autocast = autocast
    program.hold(x)
    left = tuple(p for p in block.parts if not getattr(p, "name", "").startswith("hc_head"))
    return made, left
