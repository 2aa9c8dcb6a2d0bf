"""Rows of a table, for the tokens of a micro-batch."""

from __future__ import annotations

from typing import Any

from lmsize.model.parts import Embedding
from lmsize.numbers import ceil_div
from lmsize.stacks.setting import Setting, Use
from lmsize.stacks.spread import table_gradient
from lmsize.tape import kernels
from lmsize.tape.program import Program, Tensor


def looked_up(
    program: Program, part: Embedding, setting: Setting, n_rows: Any, *, use: Use
) -> Tensor:
    """Rows of tokens; positions are looked up once for all sequences."""
    numel = (
        ceil_div(setting.seq_len, setting.sequence_shards) if n_rows is None else n_rows
    ) * part.width
    trained = setting.trains(part.name) and part.trainable
    is_shared = part.is_vocabulary and part.name not in setting.saved
    table = program.parameter(
        part.name, part.n_rows * part.width, setting.weight_itemsize, trained=trained,
        kind=("shared" if use == "tied" else use) if is_shared else "parameter",
    )  # fmt: skip
    gradient = table_gradient(table, setting, use=use) if part.is_vocabulary else None
    made = kernels.embedding(program, table, numel=numel, gradient=gradient)
    made.needs_grad = made.needs_grad or (setting.inputs_need_grad and part.is_vocabulary)
    return made
