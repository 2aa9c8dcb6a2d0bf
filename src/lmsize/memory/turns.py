"""Micro-batches of a step whose gradients wait, whole, for the last one's reduction.

FSDP2 under ``set_requires_gradient_sync(False)``: the first makes the gradients, those between add to them,
and the last adds and hands them over unit by unit (torch 2.13,
``torch/distributed/fsdp/_fully_shard/_fsdp_param_group.py``, ``post_backward``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lmsize.memory.blocks import Placed
from lmsize.memory.moments import Kept, Moment
from lmsize.memory.training_setup import TrainingSetup


@dataclass(frozen=True, slots=True)
class Turn:
    """A micro-batch among those of its step.

    Attributes:
        adds: whether there are gradients before its backward.
        reduces: whether its backward hands them over.
    """

    adds: bool
    reduces: bool


FIRST, BETWEEN, LAST = Turn(False, False), Turn(True, False), Turn(True, True)


def turns(setup: TrainingSetup) -> tuple[Turn, ...]:
    """Those that differ; none where each hands over its gradients, or none does."""
    if not (setup.defers_reduction and setup.is_in_units):
        return ()
    return (FIRST, BETWEEN, LAST) if setup.batch.n_micro > 2 else (FIRST, LAST)


def added_up(turn: Turn | None, blocks: Sequence[Placed], moment: Moment) -> Kept:
    """Whole gradients of units: made so far in the first turn, all, or those still to hand over."""
    if turn is None:
        return ()
    counts = (_n_whole(turn, placed, at, moment) for at, placed in enumerate(blocks))
    return tuple(
        (f"{p.label}, added up", n, p.unit.summed) for p, n in zip(blocks, counts, strict=True) if n
    )


def _n_whole(turn: Turn, placed: Placed, at: int, moment: Moment) -> int:
    """Layers of a block whose gradients are there; the root's of the first turn are its blocks' own."""
    n_undone = 0
    if moment.is_backward and at >= moment.at:
        n_undone = moment.n_after if at == moment.at else placed.n_layers
    if not turn.adds:
        return 0 if placed.unit.in_root else n_undone
    is_leaving = turn.reduces and not placed.unit.in_root
    return placed.n_layers - n_undone if is_leaving else placed.n_layers
