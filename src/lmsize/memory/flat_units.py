"""FSDP as torch had it first: a unit's parameters lie in one flat tensor, gathered and graded whole.

Units are the layers; what is left (embeddings, the last norm, the head) is the root's. The root
stays gathered from the forward to the end of the backward. While a layer is undone the one before
it is fetched. A flat tensor with any trained part gets a gradient for all of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from lmsize.formula import Term, total
from lmsize.layout.shares import Stored
from lmsize.memory.moments import Moment
from lmsize.memory.storage import storage
from lmsize.memory.training_setup import TrainingSetup

JOIN = "unit_gradients"
LAYER_MOMENTS = ("layer_backward", "layer_recompute")
N_GATHERED = 2  # the layer at work and the one fetched (backward_prefetch, limit_all_gathers)
N_GRADIENTS = 2  # of a unit: one for each parameter, then their concatenation


def flattened(base: Iterable[Stored]) -> list[Stored]:
    """Frozen weights that lie beside trained adapters, as what gets a gradient."""
    return [replace(stored, trainable=True) for stored in base if stored.is_hidden]


def flat_units(
    setup: TrainingSetup, base: Sequence[Stored], adapters: Sequence[Stored], moment: str
) -> list[Term]:
    """What is gathered at a moment, and a unit's gradients before they join the others."""
    frozen = setup.adapters is not None
    weights = setup.precision(setup.recipe.gathered or setup.recipe.weights)
    gradients = setup.precision(setup.recipe.adapters if frozen else setup.recipe.gradients)
    root = sum(stored.n_params for stored in base if not stored.is_hidden)
    layer = sum(s.n_params for s in (*base, *adapters) if s.is_hidden) // setup.model.n_layers
    n_gathered, graded = _at(moment, layer, 0 if frozen else root)
    terms = [
        storage("root gathered", root, weights),
        storage("layers gathered", n_gathered * layer, weights),
    ]
    if graded:
        terms.append(storage("gradients of a unit, apart and together", graded, gradients))
    return [total("flat units", terms)]


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
