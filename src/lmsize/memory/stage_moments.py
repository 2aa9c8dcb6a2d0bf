"""What a rank of each stage holds at every moment of a step at which its memory may peak."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from lmsize.formula import Term, maximum, total
from lmsize.layout.ends import ends
from lmsize.layout.shares import Stage, Stored, alone, stages, stored_parts
from lmsize.memory.blocks import Placed
from lmsize.memory.flat_units import flat_units, flattened, with_joins
from lmsize.memory.flight import in_flight_of
from lmsize.memory.kept_root import around_layer, keeps_root, kept_root
from lmsize.memory.model_states import (
    buffers,
    gathered_weights,
    gradients,
    held_throughout,
    main_gradients,
    states,
    step_copies,
    step_gradients,
)
from lmsize.memory.moment_terms import (
    activations_term,
    gradients_term,
    held_by_graph,
    input_bytes,
    passing_term,
)
from lmsize.memory.moments import Moment, moments
from lmsize.memory.stack_buffers import deferred, standing
from lmsize.memory.stage_blocks import stage_blocks, stage_tensors
from lmsize.memory.storage import storage
from lmsize.memory.training_setup import TrainingSetup
from lmsize.memory.turns import Turn, turns
from lmsize.memory.unit_moments import with_units
from lmsize.memory.unsummed import summed, unsummed
from lmsize.numbers import ceil_div


@dataclass(frozen=True, slots=True)
class StageMoments:
    """The moments of a stage.

    Attributes:
        blocks: in order of execution.
        trained: tensors that get gradients and states.
        gradients: those that are there before a backward begins.
        passes: of the forward and the backward, each with what is held then; `step` is the
            optimizer's.
    """

    stage: Stage
    blocks: tuple[Placed, ...]
    trained: list[Stored]
    gradients: Term | None
    passes: tuple[tuple[Moment, Term], ...]
    step: Term

    @property
    def label(self) -> str:
        where = f", on stage {self.stage.index + 1} of {self.stage.n_stages}"
        return f"peak{where if self.stage.n_stages > 1 else ''}"

    @property
    def held(self) -> list[Term]:
        """What is held in the forward and the backward, a term a moment."""
        return [term for _, term in self.passes]


def stage_moments(setup: TrainingSetup) -> tuple[StageMoments, ...]:
    """The moments of the stages that are meant."""
    return tuple(_Rank(setup, stage, adapters).moments() for stage, adapters in _stages(setup))


def _stages(setup: TrainingSetup) -> Iterator[tuple[Stage, Stage | None]]:
    """The stages that are meant, each with that of its adapters."""
    how = setup.layout.pp, setup.switches.split, setup.layout.vp
    adapters = stages(setup.adapters, *how) if setup.adapters else ()
    for stage in _meant(setup.pipeline_stage, stages(setup.model, *how)):
        yield stage, adapters[stage.index] if adapters else None


def _meant(which: str, every: Sequence[Stage]) -> Sequence[Stage]:
    if which == "first":
        return every[:1]
    return every[-1:] if which == "last" else _unlike(every)


def _unlike(every: Sequence[Stage]) -> Sequence[Stage]:
    """The first of the stages that hold the same: later ones have fewer micro-batches in flight."""
    first: dict[tuple[tuple[int, int, int], ...], Stage] = {}
    for stage in every:
        holds = tuple((id(run.block), run.n_layers, run.n_copies) for _, run in stage.runs)
        first.setdefault(holds, stage)
    return tuple(first.values())


class _Rank:
    """A rank of one stage: its tensors and blocks, made once for all moments."""

    def __init__(self, setup: TrainingSetup, stage: Stage, adapters: Stage | None) -> None:
        self.setup, self.stage, self.adapters = setup, stage, adapters
        self.base = stage_tensors(setup, stage, trainable=adapters is None)
        own = stage_tensors(setup, adapters, trainable=True) if adapters else []
        self.own = own
        self.trained = own if adapters else self.base
        self.blocks = tuple(stage_blocks(setup, stage))
        self.turns = turns(setup)

    def moments(self) -> StageMoments:
        held, after = self._throughout(), [self._states(), _inputs(self.setup)]
        before = self._gradients_before()
        there = [before, *unsummed(self.setup, self.stage)] if before else []
        grown = [*gathered_weights(self.setup, self.base), *there]
        put_off = deferred(self.setup, self.stage, self.adapters)
        gathers = _gathers(self.setup, self.stage)
        passes = tuple(
            (moment, total(moment.name, [
                *held, *grown, gradients_term(moment), *after, *put_off,
                self._activations(moment), self._temporaries(moment, gathers),
            ]))
            for moment in self._instants()
        )  # fmt: skip
        step = total("optimizer_step", [*held, *self._step_gradients(), *after, *self._of_step()])
        return StageMoments(self.stage, self.blocks, self.trained, before, passes, step)

    def _throughout(self) -> list[Term]:
        """Weights and their copies, workspaces and buffers."""
        setup, switches = self.setup, self.setup.switches
        uncast: Iterable[Stored] = ()
        if setup.casts:
            apart = ends(self.stage, **switches.bf16_ends, vp=setup.layout.vp)
            uncast = stored_parts(apart, setup.layout, trainable=True)
        held = held_throughout(
            setup, self.base, self.own, self.trained, frozen=self.adapters is not None, uncast=uncast
        )  # fmt: skip
        tables = buffers(setup, self.stage)
        return [
            *held,
            *kept_root(setup, self.stage),
            *tables,
            *standing(setup, self.stage, self.adapters),
        ]

    def _states(self) -> Term:
        return states(self.setup, self.trained, frozen=self.adapters is not None)

    def _graded(self) -> list[Stored]:
        """What gets gradients: a flat tensor with any trained part does for all of it."""
        if self.adapters is not None and self.setup.flattens:
            return [*flattened(self.base), *self.own]
        return self.trained

    def _gradients_before(self) -> Term | None:
        """Gradients that are there before any backward begins."""
        setup = self.setup
        if setup.optimizer.gradient_is_freed or not setup.accumulates or self.turns:
            return None
        return gradients(setup, self._graded())

    def _step_gradients(self) -> list[Term]:
        """Gradients when the optimizer steps: reduced, divided as ZeRO has them."""
        if self.setup.optimizer.gradient_is_freed:
            return []
        reduced = gradients(self.setup, self._graded(), zero_stage=2)
        return [reduced, *unsummed(self.setup, self.stage)]

    def _of_step(self) -> list[Term]:
        """What else is there when the optimizer steps."""
        setup, trained = self.setup, self.trained
        return [
            *main_gradients(setup, trained), *step_gradients(setup, trained),
            *held_by_graph(self.blocks), *self._step_copies(),
        ]  # fmt: skip

    def _step_copies(self) -> list[Term]:
        """Temporaries of the optimizer's arithmetic, or of its reading gradients, whichever are more."""
        copies, rows = step_copies(self.setup, self.trained), summed(self.setup, self.stage)
        return [total("temporaries", [maximum("optimizer", [*copies, *rows])])] if rows else copies

    def _instants(self) -> Iterator[Moment]:
        if not self.turns:
            yield from self._moments_of(self.blocks, None)
        for turn in self.turns:
            yield from self._moments_of(
                tuple(stage_blocks(self.setup, self.stage, turn=turn)), turn
            )

    def _moments_of(self, blocks: Sequence[Placed], turn: Turn | None) -> Iterable[Moment]:
        setup = self.setup
        units = partial(
            with_units, stays=setup.layout.zero == 2, spans_loss=setup.switches.ends_in_root,
            turn=turn,
        )  # fmt: skip
        sharing = units if setup.is_in_units else None
        found = moments(blocks, sharing=sharing, alike=setup.lengths == "equal")
        return with_joins(found) if setup.flattens else found

    def _activations(self, moment: Moment) -> Term:
        schedule = self.setup.switches.schedule(self.setup.layout.vp)
        n_micro = self.setup.batch.n_micro
        in_flight = self.stage.n_in_flight(n_micro, schedule, at_loss=moment.at_loss)
        each = in_flight_of(
            self.blocks, self.stage, n_micro, schedule, usual=in_flight, at_loss=moment.at_loss
        )
        whole = tuple(zip(self.blocks, each, strict=True))
        return activations_term(moment, whole=whole, waiting=tuple(self._waiting(in_flight)))

    def _waiting(self, in_flight: float) -> Iterator[tuple[str, Any, Any]]:
        """What a stage has for the next: what it sent, until its gradient is back, and a buffer for that."""
        if self.stage.index == self.stage.n_stages - 1:
            return
        output, stack = self.blocks[-1].piece.output, self.setup.stack
        if stack.keeps_sent:
            shards = self.setup.layout.tp if stack.splits_sent else 1
            yield "outputs of the stage", ceil_div(output, shards), in_flight
        if stack.receives_gradients_at_once:
            yield "buffers for their gradients", output, self.setup.batch.n_micro

    def _temporaries(self, moment: Moment, gathers: list[Term]) -> Term:
        setup = self.setup
        units = gathers
        if setup.flattens:
            units = flat_units(setup, self.stage, self.adapters, moment.name)
        elif keeps_root(setup):
            units = around_layer(setup, self.stage, moment)
        return total("temporaries", [passing_term(moment), *units])


def _inputs(setup: TrainingSetup) -> Term:
    """Ids and labels of the step's micro-batches."""
    batch = setup.batch
    tokens = ceil_div(batch.micro_batch * batch.seq_len, setup.layout.cp)
    term = input_bytes.term(
        "ids and labels", n_micro_batches=batch.n_micro, n_tokens=tokens, bytes_per_number=8
    )
    return total("inputs", [term])


def _gathers(setup: TrainingSetup, stage: Stage) -> list[Term]:
    """What ZeRO-3 holds whole for a while, where its units have no moments of their own.

    The widest block's weights and its gradients.
    """
    apart = setup.shares_by_fsdp2 or setup.flattens or keeps_root(setup)
    if not setup.gathers_weights or apart:
        return []
    recipe = setup.recipe
    widest = max(
        sum(
            stored.n_params
            for stored in stored_parts(alone(tower, run), setup.layout, trainable=True)
            if not stored.is_expert
        )
        for tower, run in stage.runs
    )
    gathered = setup.precision(recipe.gathered or recipe.weights)
    parts = [storage("widest block gathered", widest, gathered)]
    if setup.adapters is None:
        reduced = setup.precision(recipe.reduced or recipe.gradients)
        parts.append(storage("its gradients before they are scattered", widest, reduced))
    return [total("temporaries", parts)]
