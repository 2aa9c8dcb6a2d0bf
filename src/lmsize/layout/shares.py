"""What one rank of a layout holds: its pipeline stage, and its part of every tensor."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice, repeat
from typing import Any

from lmsize.layout.degrees import Layout
from lmsize.layout.schedule import Schedule, weighed
from lmsize.layout.split import EVEN, Split, layer_counts
from lmsize.model.adapted import SAVED
from lmsize.model.parameter import Parameter
from lmsize.model.parts import Experts, Linear, Norm, Part
from lmsize.model.spec import Block, ModelSpec, Run, Tower, merged
from lmsize.numbers import ceil_div

ONCE = Schedule()


@dataclass(frozen=True, slots=True)
class Stage:
    """One pipeline stage: the runs that it executes.

    Attributes:
        index: 0 is the first.
        n_stages: of the pipeline.
        split: how the pipeline's layers are shared out.
        runs: equal blocks of a tower as one; `ordered` as they follow one another.
    """

    index: int
    n_stages: int
    runs: tuple[tuple[Tower, Run], ...]
    ordered: tuple[tuple[Tower, Run], ...] = ()
    split: Split = EVEN
    counts: tuple[int, ...] = ()

    def n_in_flight(
        self, n_micro: int, schedule: Schedule = ONCE, *, at_loss: bool = False
    ) -> float:
        """Micro-batches whose activations it keeps at once (while the loss is taken): parts count."""
        is_even = self.split.is_even or schedule.vp == 1
        kept = schedule.in_flight(
            index=self.index, n_stages=self.n_stages, n_micro=n_micro,
            parts=() if is_even else self._parts(schedule.vp), in_last=at_loss,
        )  # fmt: skip
        takes_turns = schedule.overlaps and not at_loss and n_micro > 1
        return kept + 1 / max(1, self.n_layers) if takes_turns else kept

    @property
    def n_layers(self) -> int:
        """Layers of all its parts together."""
        return sum(run.n_layers for tower, run in self.ordered if _is_layer(tower, run))

    def positions(self, vp: int) -> list[int]:
        """Where in the model each of its layers runs, 0 the first; parts take turns by stage."""
        counts = self.counts or (self.n_layers,)
        by_stage = [_parts(i, len(counts), n, vp, self.split) for i, n in enumerate(counts)]
        found: list[int] = []
        at = 0
        for turn in zip(*by_stage, strict=True):
            for index, n in enumerate(turn):
                if index == self.index:
                    found += range(at, at + n)
                at += n
        return found

    def kept_of(
        self, spans: Sequence[tuple[int, int]], n_micro: int, schedule: Schedule, *,
        at_loss: bool = False,
    ) -> list[tuple[float, ...]]:  # fmt: skip
        """Micro-batches whose activations each span of its layers keeps, instant by instant.

        Args:
            spans: first layer and the one after the last, in order of execution on the stage.
        """
        parts = self._parts(schedule.vp)
        starts = [sum(parts[:i]) for i in range(len(parts))]
        found = schedule.by_part(
            index=self.index, n_stages=self.n_stages, n_micro=n_micro, in_last=at_loss
        )
        shares = [
            [
                max(0, min(stop, at + n) - max(start, at))
                for at, n in zip(starts, parts, strict=True)
            ]
            for start, stop in spans
        ]
        return [tuple(weighed(kept, share) for share in shares) for kept in found]

    def _parts(self, vp: int) -> tuple[int, ...]:
        """Layers of each part of an uneven stage."""
        return _parts(self.index, self.n_stages, self.n_layers, vp, self.split)


def _parts(index: int, n_stages: int, n_layers: int, vp: int, split: Split) -> tuple[int, ...]:
    """Layers of each part of a stage, whose ends may take the place of a layer."""
    if split.parts:
        return split.parts[index::n_stages]
    has_embedding = split.embedding and index == 0
    has_loss = split.loss and index == n_stages - 1
    each, rest = divmod(n_layers + has_embedding + has_loss, vp)
    parts = [each + (i < rest) for i in range(vp)]
    parts[0] -= has_embedding
    parts[-1] -= has_loss
    return tuple(parts)


@dataclass(frozen=True, slots=True)
class Stored:
    """Equal parameter tensors on one rank.

    Attributes:
        group: what a reader calls them: embeddings, matrices, experts, output head, norms ...
        shape: of each tensor on this rank.
        numel: numbers in each; `n_params` in all.
        is_linear: weights of an ``nn.Linear`` inside the model, which quantisation replaces.
        is_expert: sharded over the replicas of the experts only.
        is_whole: a module of the base that is trained whole beside adapters.
        is_norm: of a layer's norm.
    """

    group: str
    shape: tuple[int, ...]
    n_tensors: int
    trainable: bool
    is_linear: bool
    is_expert: bool
    is_hidden: bool
    is_whole: bool = False
    is_norm: bool = False
    numel: Any = field(init=False)
    n_params: Any = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "numel", math.prod(self.shape))
        object.__setattr__(self, "n_params", self.numel * self.n_tensors)


GROUPS = {
    "matrix": "matrices",
    "expert": "experts",
    "embedding": "embeddings",
    "vector": "norms and biases",
}


def rank_shape(parameter: Parameter, *, tp: int, ep: int = 1, etp: int = 1) -> tuple[int, ...]:
    """The shape of one rank's part; what does not divide evenly is rounded up in whole units."""
    shape = parameter.shape
    if parameter.kind == "expert":
        first = ceil_div(shape[0], ep)
        return (first, *shape[1:-1], ceil_div(shape[-1], etp))
    if parameter.split is None:
        return shape
    axis = 0 if parameter.split == "column" else len(shape) - 1
    units = max(1, min(parameter.n_units, shape[axis]))
    mine = ceil_div(shape[axis] * ceil_div(units, tp), units)
    return (*shape[:axis], mine, *shape[axis + 1 :])


@lru_cache(maxsize=256)
def stages(model: ModelSpec, pp: int, split: Split = EVEN, vp: int = 1) -> tuple[Stage, ...]:
    """The pipeline's stages: equal numbers of layers, the first ones one more if uneven.

    Embeddings run on the first stage and heads on the last; idle towers lie on the first. Of `vp`
    parts a stage has every `pp`-th, in the order in which the model runs them.
    """
    runs = tuple(model.runs())
    if pp == 1:
        return (Stage(0, 1, merged(runs), runs),)
    n_layers = sum(run.n_layers for tower, run in runs if _is_layer(tower, run))
    counts = layer_counts(n_layers, pp, split)
    made: list[list[tuple[Tower, Run]]] = [[] for _ in range(pp)]
    owners = iter(_owners(counts, vp, split))
    for tower, run in runs:
        if not _is_layer(tower, run):
            first = tower.stream == "idle" or run.block.role == "embedding"
            made[0 if first else pp - 1].append((tower, run))
            continue
        for stage, n in Counter(islice(owners, run.n_layers)).items():
            copies = n if run.n_copies == run.n_layers else run.n_copies
            made[stage].append((tower, replace(run, n_layers=n, n_copies=copies)))
    return tuple(
        Stage(i, pp, merged(own), tuple(own), split, tuple(counts)) for i, own in enumerate(made)
    )


def _owners(counts: Sequence[int], vp: int, split: Split) -> Iterator[int]:
    """The stage of each layer, in the order of the model."""
    by_stage = [_parts(i, len(counts), n, vp, split) for i, n in enumerate(counts)]
    for turn in zip(*by_stage, strict=True):
        for stage, n in enumerate(turn):
            yield from repeat(stage, n)


def alone(tower: Tower, run: Run) -> Stage:
    """A stage of one of a run's blocks."""
    return Stage(0, 1, ((tower, Run(run.block, 1, min(run.n_copies, 1))),))


def _is_layer(tower: Tower, run: Run) -> bool:
    return run.block.role == "layer" and tower.stream != "idle"


def stored_parts(stage: Stage, layout: Layout, *, trainable: bool) -> tuple[Stored, ...]:
    """The parameters of a stage on one rank, tensor by tensor (before ZeRO).

    What no token of the workload passes through (a vision tower) gets no gradient, and so no
    optimizer state.
    """
    return _stored_parts(stage, layout.inside_replica(), trainable)


@lru_cache(maxsize=1024)
def _stored_parts(stage: Stage, layout: Layout, trainable: bool) -> tuple[Stored, ...]:
    made: list[Stored] = []
    for tower, run in stage.runs:
        if stage.n_stages > 1 and run.block.role == "head":
            looks_up = any(other.block.role == "further" for _, other in stage.runs)
            made += _table_copy(run.block, layout, trainable=trainable, looks_up=looks_up)
        if not run.n_copies:
            continue
        reached = trainable and tower.stream != "idle"
        made += (
            _stored(part, parameter, run.block, run.n_copies, layout, trainable=reached)
            for part in run.block.parts
            for parameter in part.parameters()
        )
    return tuple(made)


def _stored(
    part: Part,
    parameter: Parameter,
    block: Block,
    n_copies: int,
    layout: Layout,
    *,
    trainable: bool,
) -> Stored:
    linear = isinstance(part, Linear) and part.quantisable and parameter.kind == "matrix"
    head = block.role == "head" and parameter.kind == "matrix"
    return Stored(
        group="output head" if head else GROUPS[parameter.kind],
        shape=rank_shape(parameter, tp=layout.tp, ep=layout.ep, etp=layout.expert_tp),
        n_tensors=parameter.n_tensors * n_copies,
        trainable=trainable and parameter.learns,
        is_linear=linear or isinstance(part, Experts),
        is_expert=parameter.kind == "expert",
        is_hidden=not head and parameter.kind != "embedding",
        is_whole=SAVED in parameter.name,
        is_norm=isinstance(part, Norm) and block.role == "layer",
    )


def _table_copy(
    block: Block, layout: Layout, *, trainable: bool, looks_up: bool
) -> Iterator[Stored]:
    """The last stage's own copy of the first stage's table, tied to the head or looked up again."""
    heads = [p for p in block.parts if isinstance(p, Linear) and p.per_token >= 1]
    tied = [part for part in block.parts if isinstance(part, Linear) and part.tied]
    for part in tied or (heads[-1:] if looks_up else []):
        shape = (ceil_div(part.n_out, layout.tp), part.n_in)
        group = "output head" if tied else "embeddings"
        yield Stored(group, shape, 1, trainable, False, False, False)
