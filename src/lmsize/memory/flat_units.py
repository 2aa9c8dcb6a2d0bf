"""FSDP as torch had it first: a unit's parameters lie in one flat tensor, gathered and graded whole.

Units are the layers; what is left (embeddings, the last norm, the head) is the root's. The root
stays gathered from the forward to the end of the backward. While a layer is undone the one before
it is fetched. A flat tensor with any trained part gets a gradient for all of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import reduce
from typing import Any

from lmsize.formula import Term, total
from lmsize.layout.shares import Stage, Stored, alone, stored_parts
from lmsize.memory.moments import Moment
from lmsize.memory.storage import storage
from lmsize.memory.training_setup import TrainingSetup
from lmsize.numbers import larger

JOIN = "unit_gradients"
LAYER_MOMENTS = ("layer_backward", "layer_recompute")
N_GATHERED = 2  # the layer at work and the one fetched (backward_prefetch, limit_all_gathers)
N_GRADIENTS = 2  # of a unit: one for each parameter, then their concatenation


def flattened(base: Iterable[Stored]) -> list[Stored]:
    """Frozen weights that lie beside trained adapters, as what gets a gradient."""
    return [replace(stored, trainable=True) for stored in base if stored.is_hidden]


def flat_units(
    setup: TrainingSetup, stage: Stage, adapter_stage: Stage | None, moment: str
) -> list[Term]:
    """What is gathered at a moment, and a unit's gradients before they join the others.

    Of unlike layers the widest counts. Weights are gathered in 16 bits or more: litgpt, whose way this
    is, refuses to quantise on several accelerators.
    """
    frozen = setup.adapters is not None
    weights = setup.precision(setup.recipe.gathered or setup.recipe.weights)
    gradients = setup.precision(setup.recipe.adapters if frozen else setup.recipe.gradients)
    rest = tuple(own for own in stage.runs if own[1].block.role != "layer")
    root = _n_params(setup, replace(stage, runs=rest))
    added = _of_layers(setup, adapter_stage) if adapter_stage else {}
    layers = (n + added.get(name, 0) for name, n in _of_layers(setup, stage).items())
    layer = reduce(larger, layers, 0)
    n_gathered, graded = _at(moment, layer, 0 if frozen else root)
    terms = [
        storage("root gathered", root, weights),
        storage("layers gathered", n_gathered * layer, weights),
    ]
    if graded:
        terms.append(storage("gradients of a unit, apart and together", graded, gradients))
    return [total("flat units", terms)]


def _of_layers(setup: TrainingSetup, stage: Stage) -> dict[tuple[str, str], Any]:
    """Numbers in one layer of each kind that a stage has."""
    return {
        (tower.name, run.block.name): _n_params(setup, alone(tower, run))
        for tower, run in stage.runs
        if run.block.role == "layer"
    }


def _n_params(setup: TrainingSetup, stage: Stage) -> Any:
    return sum(stored.n_params for stored in stored_parts(stage, setup.layout, trainable=False))


def with_joins(found: Iterable[Moment]) -> Iterator[Moment]:
    """The moments, and those at which an undone layer's gradients become one."""
    for moment in found:
        yield moment
        if moment.name in LAYER_MOMENTS:
            yield replace(moment, name=JOIN, peak_bytes=0, saved_bytes=0, gradient_bytes=0)


def _at(moment: str, layer: Any, root: Any) -> tuple[int, Any]:
    """Layers that are gathered at a moment, and numbers of gradients that wait to be joined."""
    if moment == "end_of_backward":
        return 0, N_GRADIENTS * root
    if moment == JOIN:
        return N_GATHERED, N_GRADIENTS * layer + root // 2  # the head's waits for the table's
    if moment in LAYER_MOMENTS:
        return N_GATHERED, root // 2
    return 1, 0
