"""What lmsize knows of a model: towers of runs of identical blocks.

::

    ModelSpec  ── towers ──  Tower ("decoder")  ── runs ──  Run (block x n_layers)
                                                              └── Block ── parts
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

from lmsize.assumption import Assumption
from lmsize.model.conduct import USUAL, Conduct
from lmsize.model.parameter import Parameter, is_reached
from lmsize.model.parts import Linear, Part

Role = Literal["embedding", "layer", "further", "head"]
Stream = Literal["input", "labels", "idle"]


@dataclass(frozen=True, slots=True)
class Block:
    """A sequence of parts that runs as one (an embedding, a layer, a head).

    Attributes:
        name: what it is, e.g. ``layer``, ``moe layer``, ``head``; also the unit of recompute.
        role: where a pipeline puts it: the first stage, any stage, the last stage; a layer that
            predicts a ``further`` token is on the last, too.
    """

    name: str
    parts: tuple[Part, ...]
    role: Role = "layer"

    def parameters(self) -> Iterator[Parameter]:
        for part in self.parts:
            yield from part.parameters()

    @property
    def of_text(self) -> Block:
        """Without the parts that no plain text passes through."""
        reached = tuple(p for p in self.parts if is_reached(getattr(p, "name", "")))
        return self if len(reached) == len(self.parts) else replace(self, parts=reached)


@dataclass(frozen=True, slots=True)
class Run:
    """One block, executed `n_layers` times in a row with `n_copies` sets of weights.

    `n_copies` is `n_layers` unless weights are shared: 1 for ALBERT's layers, 0 where a block
    that was counted before runs again (Zamba). `learns` is False where it runs without gradients.
    """

    block: Block
    n_layers: int = 1
    n_copies: int = 1
    learns: bool = True


@dataclass(frozen=True, slots=True)
class Tower:
    """A stack of blocks over one stream of tokens.

    Attributes:
        stream: which tokens pass through it: the input, the labels (the decoder of an
            encoder-decoder), or none in a text workload (a vision tower).
    """

    name: str
    runs: tuple[Run, ...]
    stream: Stream = "input"


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """An architecture, whole: enough to count parameters, FLOPs and caches.

    Attributes:
        name: catalogue name, Hub id or path that it came from.
        model_type: as in its config.
        architecture: the transformers class whose parameters are counted.
        width, n_layers, n_heads, vocab_size: of the main text tower.
        max_positions: longest sequence it was made for; None if the config does not say.
        learned_positions: whether `max_positions` is a table that cannot be exceeded.
        assumptions: what reading the config took for granted.
        conduct: how its blocks compute where parameters do not tell.
    """

    name: str
    model_type: str
    architecture: str
    width: int
    n_layers: int
    n_heads: int
    vocab_size: int
    max_positions: int | None
    learned_positions: bool
    towers: tuple[Tower, ...]
    assumptions: tuple[Assumption, ...] = ()
    conduct: Conduct = USUAL

    def runs(self) -> Iterator[tuple[Tower, Run]]:
        """Every run with the tower it belongs to, in order of execution."""
        for tower in self.towers:
            for run in tower.runs:
                yield tower, run

    @property
    def is_tied(self) -> bool:
        """Whether the head's weight is the table of the embedding."""
        parts = (part for _, run in self.runs() for part in run.block.parts)
        return any(isinstance(part, Linear) and part.tied and part.per_token > 0 for part in parts)

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether a second stream of tokens (the labels) has a tower of its own."""
        return any(tower.stream == "labels" for tower in self.towers)


def stacked(blocks: Iterable[Block]) -> tuple[Run, ...]:
    """Layers in order -> runs of equal neighbours, each layer with its own weights."""
    lengths = ((block, sum(1 for _ in group)) for block, group in groupby(blocks))
    return tuple(Run(block, n, n) for block, n in lengths)


def merged(runs: Iterable[tuple[Tower, Run]]) -> tuple[tuple[Tower, Run], ...]:
    """Runs of equal blocks of one tower as one run, where their order does not matter.

    Models that alternate two kinds of layers have as many runs as layers: this makes two.
    """
    found: dict[tuple[str, Block], tuple[Tower, int, int]] = {}
    for tower, run in runs:
        key = (tower.name, run.block)
        _, n_layers, n_copies = found.get(key, (tower, 0, 0))
        found[key] = (tower, n_layers + run.n_layers, n_copies + run.n_copies)
    return tuple((t, Run(key[1], layers, copies)) for key, (t, layers, copies) in found.items())
