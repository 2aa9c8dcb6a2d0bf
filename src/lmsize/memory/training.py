"""The memory of a training step: its peak, and what the allocator holds beyond what is live at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

from lmsize.formula import Term, given, highest, maximum, total
from lmsize.memory.stage_blocks import stage_blocks
from lmsize.memory.stage_moments import StageMoments, stage_moments
from lmsize.memory.step_segments import has_flat_steps, step_segments
from lmsize.memory.training_setup import TrainingSetup
from lmsize.memory.unit_moments import gathered_at_once, in_streams
from lmsize.numbers import larger

PASSES = "passes"
Found = Sequence[StageMoments]


def training_peak(setup: TrainingSetup) -> Term:
    """The largest moment of the stage that is meant: a maximum of sums of components."""
    return peak_of(stage_moments(setup))


def peak_of(found: Found) -> Term:
    """The same of moments that are there."""
    return highest("peak", [maximum(one.label, [*one.held, one.step]) for one in found])


def segments_of(setup: TrainingSetup, found: Found) -> Term | None:
    """What the allocator holds beyond what is ever live at once; None where nothing says.

    The fullest forward or backward (`PASSES`), and segments that nothing else can use: those of the
    step's flat tensors (DeepSpeed), those of other streams (FSDP2).
    """
    if setup.lays_out_by_stream:
        return highest("segments", [_by_streams(setup, one) for one in found])
    if not has_flat_steps(setup):
        return None
    held = []
    for one in found:
        free = reduce(larger, (placed.piece.largest for placed in one.blocks), 0)
        own = step_segments(setup, one.trained, free)
        held.append(total(one.label, [maximum(PASSES, one.held), own]))
    return highest("segments", held)


def _by_streams(setup: TrainingSetup, one: StageMoments) -> Term:
    """Each stream's own fullest instant: the allocator never lends a block to another stream."""
    blocks = (
        tuple(stage_blocks(setup, one.stage, by_unit=True)) if setup.stays_whole else one.blocks
    )
    before = one.gradients.value if one.gradients else 0
    passes: Any = 0
    for moment, term in one.passes:
        apart = 0 if setup.stays_whole else in_streams(moment, before)
        passes = larger(passes, term.value - apart + one.blocks[moment.at].piece.stranded)
    ahead = given("gathered in one piece", gathered_at_once(blocks), "bytes")
    shards = one.step.child("gradients")
    own = total("of other streams", [ahead, *([shards] if shards else [])])
    return total(one.label, [given(PASSES, passes, "bytes"), own])


def passing_of(setup: TrainingSetup, found: Found) -> tuple[Term, float] | None:
    """The fullest forward or backward, and what of it comes and goes, where lengths vary; else None."""
    if setup.lengths == "equal":
        return None
    fullest = highest(PASSES, [maximum(one.label, one.held) for one in found])
    parts = (fullest.winner.child(label) for label in ("activations", "temporaries"))
    return fullest, sum(part.value for part in parts if part)
