"""What Megatron's FSDP gathers: layers as they run, and what is outside of them for good.

Source: Megatron-LM core 0.16, core/distributed/fsdp: layers are the units of ``FullyShardedDataParallel``; only
units let go of what they gathered (``_register_fsdp_hooks``), the table, the last norm and the head never.
"""

from __future__ import annotations

from lmsize.formula import Term, total
from lmsize.layout.shares import Stage, alone, stored_parts
from lmsize.memory.moments import Moment
from lmsize.memory.storage import storage
from lmsize.memory.training_setup import TrainingSetup

ROOT = ("embedding", "head")


def keeps_root(setup: TrainingSetup) -> bool:
    """Whether ranks share weights, and those outside of the layers stay gathered."""
    return setup.stack.keeps_root and setup.gathers_weights


def kept_root(setup: TrainingSetup, stage: Stage) -> list[Term]:
    """What is outside of the layers, gathered."""
    runs = tuple(one for one in stage.runs if one[1].block.role in ROOT)
    if not keeps_root(setup) or not runs:
        return []
    root = Stage(stage.index, stage.n_stages, runs, runs, stage.split)
    n_params = sum(stored.n_params for stored in stored_parts(root, setup.layout, trainable=True))
    kind = setup.precision(setup.recipe.gathered or setup.recipe.weights)
    return [total("gathered_weights", [storage("outside of the layers", n_params, kind)])]


def around_layer(setup: TrainingSetup, stage: Stage, moment: Moment) -> list[Term]:
    """The widest layer while one runs: its weights, experts too where ranks share them, and their gradients."""
    runs = [one for one in stage.runs if one[1].block.role not in ROOT]
    if not runs or moment.at_loss or moment.name == "end_of_backward":
        return []
    gathers_experts = setup.shards(3, expert=True) > 1
    widest = max(
        sum(
            stored.n_params
            for stored in stored_parts(alone(tower, run), setup.layout, trainable=True)
            if gathers_experts or not stored.is_expert
        )
        for tower, run in runs
    )
    recipe = setup.recipe
    parts = [
        storage("widest layer gathered", widest, setup.precision(recipe.gathered or recipe.weights))
    ]
    if moment.is_backward and setup.adapters is None:
        reduced = setup.precision(recipe.reduced or recipe.gradients)
        parts.append(storage("its gradients before they are scattered", widest, reduced))
    return [total("temporaries", parts)]
