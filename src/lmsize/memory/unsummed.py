"""The gradient of a table that ranks share by rows, which DTensor leaves whole until the step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from lmsize.formula import Term, formula, total
from lmsize.layout.shares import Stage, rank_shape
from lmsize.memory.stack_styles import style_of
from lmsize.model.parameter import Parameter
from lmsize.model.parts import Embedding
from lmsize.model.spec import Block
from lmsize.source import Source

if TYPE_CHECKING:
    from lmsize.memory.training_setup import TrainingSetup

DTENSOR = Source(
    "PyTorch 2.13", "torch/distributed/tensor/_ops/_embedding_ops.py, embedding_dense_backward",
    "https://github.com/pytorch/pytorch",
)  # fmt: skip


@formula(source=DTENSOR)
def unsummed_bytes(*, n_numbers: Any, n_own: Any, bytes_per_number: Any) -> Any:
    """Bytes of a table's gradient beyond a rank's own rows.

    Assumes: ``Partial`` from the backward to the optimizer's first operation.
    Valid for: DTensors without FSDP2; a table that no head is tied to.
    """
    return (n_numbers - n_own) * bytes_per_number


@formula(source=DTENSOR)
def summed_bytes(*, n_own: Any, bytes_per_number: Any) -> Any:
    """Bytes of a rank's rows of the sum, which each operation of the optimizer makes for itself.

    Assumes: ``Partial`` to ``Shard(0)`` as an operation with divided weights or states asks for it.
    Valid for: DTensors.
    """
    return n_own * bytes_per_number


def unsummed(setup: TrainingSetup, stage: Stage) -> list[Term]:
    """Rows of other ranks in the gradients of this one, while they wait for the step."""
    leaves = [
        unsummed_bytes.term(
            "embeddings, rows of other ranks", n_numbers=math.prod(table.shape),
            n_own=_n_own(table, setup), bytes_per_number=_gradient_bytes(setup),
        )
        for table in _waiting(setup, stage)
    ]  # fmt: skip
    return [total("gradients", leaves)] if leaves else []


def summed(setup: TrainingSetup, stage: Stage) -> list[Term]:
    """A rank's rows of the summed gradient, while an operation of the optimizer reads it."""
    return [
        summed_bytes.term(
            "embeddings' gradient, summed", n_own=_n_own(table, setup),
            bytes_per_number=_gradient_bytes(setup),
        )
        for table in _waiting(setup, stage)
    ]  # fmt: skip


def _waiting(setup: TrainingSetup, stage: Stage) -> list[Parameter]:
    """Tables of the stage whose gradients wait whole for the step."""
    if setup.shares_by_fsdp2:
        return []
    return [table for _, run in stage.runs for table in _partial_tables(setup, run.block)]


def n_of_others(setup: TrainingSetup, block: Block) -> int:
    """Numbers of other ranks' rows in a block's gradients until they are reduced."""
    tables = _partial_tables(setup, block)
    return sum(math.prod(table.shape) - _n_own(table, setup) for table in tables)


def _partial_tables(setup: TrainingSetup, block: Block) -> list[Parameter]:
    """Tables of a block whose gradients stay whole until something reduces them."""
    if setup.adapters or setup.layout.tp == 1:
        return []
    if setup.model.is_tied or not style_of(setup.recipe.stack, setup.switches).spreads:
        return []
    return [
        parameter
        for part in block.parts if isinstance(part, Embedding) and part.is_vocabulary
        for parameter in part.parameters() if parameter.split is not None
    ]  # fmt: skip


def _n_own(table: Parameter, setup: TrainingSetup) -> int:
    return math.prod(rank_shape(table, tp=setup.layout.tp))


def _gradient_bytes(setup: TrainingSetup) -> float:
    return setup.precision(setup.gradient_type).bits / 8
