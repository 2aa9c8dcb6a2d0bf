"""Tensor parallelism by DTensors, as transformers and torchtitan have it: what collectives make around products.

Each makes a tensor of its own. Read off transformers 5.23 (``distributed/tensor_parallel.py``), torchtitan
(``apply_tp``: ``PrepareModuleInput``, ``ColwiseParallel`` of a divided input) and torch
2.13 (``torch/distributed/_functional_collectives.py``, where a gather along any dimension but the
first is one piece that is then put together).
"""

from __future__ import annotations

from typing import Any

from lmsize.model.parts import Linear
from lmsize.stacks import habits
from lmsize.stacks.setting import Setting, Use
from lmsize.tape import ops
from lmsize.tape.program import Gradient, Program, Tensor

HEAD, PIECE = "lm_head", "gathered in one piece"


def entered(program: Program, x: Tensor, linear: Linear, setting: Setting) -> Tensor:
    """What a product reads: the stream, whose gradient is summed over ranks, or a part of a whole.

    Under sequence parallelism it may be what is gathered of all ranks' tokens.
    """
    if _is_gathered(linear, setting):
        return _gathered(program, x, setting)
    if not setting.spreads or setting.layout.tp == 1:
        return x
    if linear.split == "column":
        return ops.expanded(program, x, numel=x.numel)
    if linear.split == "row" and _meets(linear, setting):
        whole = ops.expanded(program, x, numel=x.numel)
        part = x.numel // setting.layout.tp
        return ops.copy(program, whole, numel=part, name=f"part of {x.name}")
    return x


def left(program: Program, made: Tensor, linear: Linear, setting: Setting) -> Tensor:
    """What becomes of a product: summed over ranks, gathered from them, or a part of the whole."""
    if not setting.spreads or setting.layout.tp == 1:
        return made
    if linear.split == "row":
        return ops.copy(program, made, name=f"{made.name} summed")
    if linear.split == "column" and _meets(linear, setting):
        flat = ops.copy(
            program, made, numel=made.numel * setting.layout.tp, name=f"{made.name} gathered"
        )
        whole = ops.copy(program, flat)
        program.hold(made, flat)
        return whole
    return made


def shares_gathered(linear: Linear, setting: Setting) -> Any:
    """Ranks whose tokens a product gathers by itself, again for its backward; 1 for none."""
    if linear.split != "column" or _is_gathered(linear, setting):
        return 1
    return setting.sequence_shards


def _is_gathered(linear: Linear, setting: Setting) -> bool:
    spread = setting.gathers_once and setting.layout.sequence_parallel
    return spread and linear.split == "column" and setting.layout.tp > 1


def _gathered(program: Program, x: Tensor, setting: Setting) -> Tensor:
    """All ranks' tokens, gathered in one piece and put together; once for all that read them.

    The gradient is cut into one piece for each rank before it is summed over them.
    """
    known = (op.writes[0] for op in program.ops if op.name == PIECE and op.reads == (x,))
    flat = next(known, None)
    if flat is not None:
        return next(op.writes[0] for op in program.ops if op.reads == (flat,))
    numel = x.numel * setting.sequence_shards
    flat = Tensor(f"{x.name} in one piece", numel, x.itemsize)
    program.record(PIECE, [x], flat, gradients=[Gradient(x)])
    return ops.copy(program, flat, numel=numel, name=f"{x.name} gathered")


def table_gradient(table: Tensor, setting: Setting, *, use: Use) -> Gradient:
    """The gradient of a vocabulary's table, of which a rank may have some rows.

    A head's that is tied came first, and is a view of what its product gave: the sum is a third tensor
    (``accumulate`` of torch/csrc/autograd/input_buffer.cpp), but where a cast made it anew.
    ``embedding_dense_backward`` knows no division by rows: each rank makes the gradient of the whole
    table, which waits like that, or is reduced to the rank's rows (``Partial`` to ``Shard(0)``) once
    the node is done, or while it is summed with that of a tied head, which is divided already.
    """
    if not setting.spreads or setting.layout.tp == 1:
        is_view = use == "tied" and setting.gives_views and setting.autocast is None
        return Gradient(table, scratch_bytes=table.n_bytes if is_view else 0)
    whole = Tensor("gradient of the whole table", table.numel * setting.layout.tp, table.itemsize)
    if use != "parameter":
        return Gradient(table, scratch_bytes=whole.n_bytes + table.n_bytes)
    if setting.reduces_at_once:
        return Gradient(table, form_bytes=whole.n_bytes)
    return Gradient(table, scratch_bytes=whole.n_bytes - table.n_bytes)


def keeps_heads_whole(setting: Setting) -> bool:
    """Whether every rank computes all heads, though it has a part of their projections."""
    return setting.spreads and setting.conduct.model_type in habits.MEETS_IN_ATTENTION


def _meets(linear: Linear, setting: Setting) -> bool:
    """Whether outputs are gathered before what follows, and inputs divided again."""
    kind, name = setting.conduct.model_type, linear.name
    return (
        name == HEAD
        or (name.startswith("self_attn.") and kind in habits.MEETS_IN_ATTENTION)
        or (name.startswith("mlp.") and kind in habits.MEETS_IN_MLP)
    )
