"""FSDP2's units: what ranks share of each block's parameters, and what that takes while it runs.

Units are the modules that are not to be split: the layers, and some encoders' embeddings. What is left
(embeddings, the last norm, the head) is the root's; since August 2025 torchtitan makes the table a unit,
and the last norm and the head another, so that nothing is left. Every parameter is divided along its first
dimension, padded to a multiple of the ranks
(``torch/distributed/fsdp/_fully_shard/_fsdp_param.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lmsize.formula import formula
from lmsize.layout.shares import Stored, alone, stored_parts
from lmsize.memory.unsummed import n_of_others
from lmsize.model.spec import Run, Tower
from lmsize.numbers import ceil_div
from lmsize.source import Source
from lmsize.stacks import habits

if TYPE_CHECKING:
    from lmsize.memory.training_setup import TrainingSetup
    from lmsize.memory.turns import Turn


FSDP = Source(
    "PyTorch 2.13", "torch/distributed/fsdp/_fully_shard, _fsdp_param_group.py and _fsdp_collectives.py",
    "https://github.com/pytorch/pytorch",
)  # fmt: skip


@formula(source=FSDP)
def shared_bytes(*, n_bytes: Any) -> Any:
    """Bytes of what is gathered from other ranks, or on its way to them.

    Assumes: first dimensions padded to a multiple of the ranks; one unit fetched ahead.
    Valid for: ``fully_shard`` of each layer and then of the model.
    """
    return n_bytes


FP8 = 1  # bytes of a number


@dataclass(frozen=True, slots=True)
class Unit:
    """Bytes of a unit, or of a block's part in one.

    Attributes:
        gathered: its weights, whole; `cast` what a rank makes of its share for that, in another type.
        reduced: its gradients, whole, in the type of the reduction.
        kept: what its gradients add to those there are, once they are reduced.
        summed: they, whole, as they add up over micro-batches.
        in_root: whether it is a part of the root's, which are gathered and reduced together.
    """

    gathered: Any = 0
    reduced: Any = 0
    kept: Any = 0
    in_root: bool = False
    cast: Any = 0
    summed: Any = 0

    def __add__(self, other: Unit) -> Unit:
        return Unit(
            self.gathered + other.gathered, self.reduced + other.reduced, self.kept + other.kept,
            cast=self.cast + other.cast, summed=self.summed + other.summed,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Types:
    """Bytes of a number: as it is gathered and reduced, and of its gradient on a rank.

    Attributes:
        is_cast: whether a rank holds it in another type than it gathers it in.
    """

    gathered: float
    reduced: float
    gradients: float
    is_cast: bool = False


def padded(stored: Stored, n_shards: Any) -> Stored:
    """Tensors whose first dimension is a multiple of the ranks."""
    rows, *rest = stored.shape
    return replace(stored, shape=(ceil_div(rows, n_shards) * n_shards, *rest))


def unit(tensors: Iterable[tuple[Stored, Types, Any]]) -> Unit:
    """A unit of these tensors, each with its ranks; those not trained get no gradient."""
    gathered = reduced = kept = cast = summed = 0.0
    for stored, types, n_shards in tensors:
        n = padded(stored, n_shards).n_params
        gathered = gathered + n * types.gathered
        cast = cast + n // n_shards * types.gathered * types.is_cast
        if stored.trainable:
            reduced = reduced + n * types.reduced
            kept = kept + n // n_shards * types.gradients
            summed = summed + stored.n_params * types.reduced
    return Unit(gathered, reduced, kept, cast=cast, summed=summed)


def units_of(setup: TrainingSetup, turn: Turn | None) -> Callable[[Tower, Run], Unit]:
    """What gives a block's unit; gradients that add up are there already."""
    own = {
        (tower.name, run.block.name): (tower, run)
        for tower, run in (setup.adapters.runs() if setup.adapters else ())
    }  # fmt: skip
    recipe, frozen = setup.recipe, setup.adapters is not None
    own_roles = _own_roles(setup)

    def size(name: str) -> float:
        return setup.precision(name).bits_per_value / 8

    def types(kept: str, gradients: str) -> Types:
        gathered = recipe.gathered or kept
        reduced = recipe.reduced or gathered
        return Types(size(gathered), size(reduced), size(gradients), is_cast=gathered != kept)

    base = types(setup.base_type, recipe.gradients)
    adapter = types(recipe.adapters, recipe.adapters)
    whole = types(setup.base_type, setup.base_type)
    linear = replace(base, gathered=FP8, is_cast=True) if setup.switches.fp8_all_gather else base

    def tensors(tower: Tower, run: Run) -> Iterable[tuple[Stored, Types, Any]]:
        for stored in stored_parts(alone(tower, run), setup.layout, trainable=not frozen):
            few = setup.quant if setup.quant and stored.is_linear else None
            bits = few.bits_per_value / 8 if few else 0.0
            usual = linear if stored.is_linear else base
            kind = Types(bits, 0, 0) if few else usual
            yield stored, kind, setup.shards(2, expert=stored.is_expert)
        mine = own.get((tower.name, run.block.name))
        for stored in stored_parts(alone(*mine), setup.layout, trainable=True) if mine else ():
            kind = whole if stored.is_whole else adapter
            yield stored, kind, setup.shards(2, expert=stored.is_expert)

    def made(tower: Tower, run: Run) -> Unit:
        found = unit(tensors(tower, run))
        others = n_of_others(setup, run.block) * base.reduced
        found = replace(found, summed=found.summed + others)
        return replace(
            found, kept=_kept(found, setup, turn), in_root=run.block.role not in own_roles
        )

    return made


def _kept(unit: Unit, setup: TrainingSetup, turn: Turn | None) -> Any:
    """What a unit's gradients leave, reduced, beside those that there are."""
    hands_over = turn.reduces if turn else not setup.accumulates
    return unit.kept if hands_over else 0


def _own_roles(setup: TrainingSetup) -> tuple[str, ...]:
    """The roles of the blocks that are units by themselves; the root has the others'."""
    apart = setup.model.conduct.model_type in habits.EMBEDDINGS_APART
    return (*setup.units, *(["embedding"] if apart else []))
