"""Tensor parallelism by DTensors, as transformers has it: what collectives make around products.

Each makes a tensor of its own. Read off transformers 5.23 (``distributed/tensor_parallel.py``) and torch
2.13 (``torch/distributed/_functional_collectives.py``, where a gather along any dimension but the
first is one piece that is then put together).
"""

from __future__ import annotations

from typing import Any

from lmsize.model.parts import Linear
from lmsize.stacks import habits
from lmsize.stacks.setting import Setting
from lmsize.tape import ops
from lmsize.tape.program import Program, Tensor

HEAD = "lm_head"


def entered(program: Program, x: Tensor, linear: Linear, setting: Setting) -> Tensor:
    """What a product reads: the stream, whose gradient is summed over ranks, or a part of a whole."""
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
        return ops.copy(program, flat)
    return made


def table_scratch_bytes(table: Tensor, setting: Setting) -> Any:
    """What the gradient of a rank's rows of the table takes before there is one.

    ``embedding_dense_backward`` knows no division by rows: each rank makes the gradient of the whole
    table, and cuts it up for the reduce-scatter (``Partial`` to ``Shard(0)``).
    """
    if not setting.spreads or setting.layout.tp == 1:
        return 0
    whole = Tensor("gradient of the whole table", table.numel * setting.layout.tp, table.itemsize)
    return 2 * whole.n_bytes - table.n_bytes


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
