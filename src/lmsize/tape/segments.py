"""What runs again for its backward though the block as a whole does not: what goes, and what comes back.

A segment's run hands on new tensors. Where others had saved the first ones (``CheckpointWithoutOutput``
of Megatron-LM core/tensor_parallel/random.py) these are filled again beside them; either way the new
ones are named until all of the segment is undone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lmsize.numbers import larger
from lmsize.tape.program import Program, Segment, Tensor, given_to


def last_uses(program: Program) -> dict[int, list[Tensor]]:
    """By position: the program's storages that no later operation reads."""
    own = {*program.inputs, *(t for op in program.ops for t in op.makes)}
    own.difference_update(t.base for t in (*program.outputs, *program.lingering))
    last = {t.base: at for at, op in enumerate(program.ops) for t in (*op.reads, *op.writes)}
    ends: dict[int, list[Tensor]] = {}
    for tensor, at in last.items():
        if tensor in own:
            ends.setdefault(at, []).append(tensor)
    return ends


def leaf_bytes(program: Program) -> Any:
    """What stays of segments, once undone, with what their modules name: leaves and their gradients."""
    found: Any = 0
    for segment in program.segments:
        inside = program.ops[segment.start : segment.stop]
        made = {t.base for op in inside for t in op.writes}
        if program.module_keeps is None or segment.outputs or program.module_keeps not in made:
            continue
        found = found + 2 * sum(t.base.n_bytes for t in given_to(inside))
    return found


def discarded(program: Program) -> dict[Tensor, int]:
    """What segments let go of, each with the operation before whose backward it is back."""
    found: dict[Tensor, int] = {}
    for segment in program.segments:
        made = _made(program, segment)
        if not segment.outputs:
            rest = (*program.ops[: segment.start], *program.ops[segment.stop :])
            made.difference_update(t for op in rest for t in op.keeps)
        for tensor in (t for op in program.ops for t in op.keeps if t in made):
            found[tensor] = max(segment.back, found.get(tensor, 0))
    return found


def _made(program: Program, segment: Segment) -> set[Tensor]:
    """Storages that a segment makes, those aside that stay."""
    inside = program.ops[segment.start : segment.stop]
    return {t for op in inside for t in op.makes if t.name not in segment.spared}


@dataclass(frozen=True, slots=True, eq=False)
class Again:
    """A segment that runs once more.

    Attributes:
        segment: which.
        peak: the most that it makes on the way, `outputs` what it hands on, which is named
            until all of it is undone.
    """

    segment: Segment
    peak: Any
    outputs: Any


def ran_again(program: Program, segment: Segment) -> Again:
    """What a segment makes when it runs before its backward, though the rest has its outputs."""
    inside = range(segment.start, segment.stop)
    made, ends = _made(program, segment), last_uses(program)
    ended = {t: at for at, tensors in ends.items() for t in tensors}
    saved = {t for at in inside for t in program.ops[at].keeps}
    out = {t for t in made if ended.get(t, segment.stop) >= segment.stop}
    passing = made - out - saved
    out -= set() if segment.outputs else saved  # what its own backward needs is back as it was
    live: Any = 0
    peak: Any = 0
    for at in inside:
        op = program.ops[at]
        live = live + sum(t.n_bytes for t in op.makes if t in made)
        peak = larger(peak, live + op.forward_bytes)
        live = live - sum(t.n_bytes for t in ends.get(at, ()) if t in passing)
    return Again(segment, peak, sum(t.n_bytes for t in out))
