"""Optimizers that need whole matrices share them out, tensor by tensor, where others cut a flat buffer.

Source: Megatron-LM core 0.16, core/optimizer/layer_wise_optimizer.py, ``shard_params``: tensors by size, the
smallest first, dealt out to ranks there and back again, those of experts among the ranks that hold them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from lmsize.layout.shares import Stored
from lmsize.memory.optimizer_states import handles
from lmsize.memory.training_setup import TrainingSetup

MUON = 8  # bytes a number of what a rank owns: a copy in fp32 and a momentum
ADAM = 12  # a copy and two moments


def shares_whole(setup: TrainingSetup) -> bool:
    """Whether ranks own whole tensors: of Muon under Megatron, where buffers are not laid out for it."""
    is_shared = setup.layout.zero == 1 and setup.layout.n_replicas > 1
    is_of_matrices = setup.optimizer.applies_to == "hidden-matrix"
    return setup.switches.whole_tensors and is_of_matrices and is_shared


def owned(setup: TrainingSetup, trained: Sequence[Stored]) -> list[Stored]:
    """What one rank owns: the last one of the last stage's, else the one that has most."""
    found: list[Stored] = []
    for is_expert in (False, True):
        mine = [s for s in trained if s.trainable and s.is_expert == is_expert]
        dealt = _dealt(mine, setup.shards(1, expert=is_expert))
        if dealt:
            is_last = setup.pipeline_stage == "last"
            found += dealt[-1] if is_last else max(dealt, key=lambda own: _n_bytes(setup, own))
    return found


def _dealt(tensors: Iterable[Stored], n_ranks: int) -> list[list[Stored]]:
    """Each rank's tensors, those alike as one."""
    order = sorted((one for stored in tensors for one in _each(stored)), key=lambda s: s.numel)
    turns = [*range(n_ranks), *reversed(range(n_ranks))]
    counts: list[dict[int, int]] = [{} for _ in range(n_ranks)]
    at = 0
    for kind, one in enumerate(order):
        for _ in range(one.n_tensors):
            own = counts[turns[at]]
            own[kind] = own.get(kind, 0) + 1
            at = (at + 1) % len(turns)
    return [[replace(order[kind], n_tensors=n) for kind, n in own.items()] for own in counts]


def _each(stored: Stored) -> Iterable[Stored]:
    """Tensors as the stack has them: one of each expert."""
    if not stored.is_expert or len(stored.shape) < 3:
        return (stored,)
    n_experts, *shape = stored.shape
    return (replace(stored, shape=tuple(shape), n_tensors=stored.n_tensors * n_experts),)


def _n_bytes(setup: TrainingSetup, own: Iterable[Stored]) -> float:
    """What these take besides the model, to compare ranks by."""
    each = (
        stored.n_params * (MUON if handles(setup.optimizer, stored) else ADAM) for stored in own
    )
    return float(sum(each))
