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
    """By position: the storages that no later operation reads."""
    last: dict[int, tuple[int, Tensor]] = {}
    for at, op in enumerate(program.ops):
        for tensor in (*op.reads, *op.writes):
            if tensor.is_counted:
                last[id(tensor.base)] = (at, tensor.base)
    keep = {id(t.base) for t in (*program.outputs, *program.lingering)}
    ends: dict[int, list[Tensor]] = {}
    for key, (at, tensor) in last.items():
        if key not in keep:
            ends.setdefault(at, []).append(tensor)
    return ends


def leaf_bytes(program: Program) -> Any:
    """What stays of segments, once undone, with what their modules name: leaves and their gradients."""
    found: Any = 0
    for segment in program.segments:
        inside = program.ops[segment.start : segment.stop]
        made = {id(t.base) for op in inside for t in op.writes}
        if program.module_keeps is None or segment.outputs or id(program.module_keeps) not in made:
            continue
        found = found + 2 * sum(t.base.n_bytes for t in given_to(inside))
    return found


def discarded(program: Program) -> list[tuple[int, Tensor]]:
    """What segments let go of, each with the operation before whose backward it is back."""
    found: dict[int, tuple[int, Tensor]] = {}
    for segment in program.segments:
        inside = range(segment.start, segment.stop)
        made = {
            id(t) for at in inside for t in program.ops[at].writes
            if t.base is t and t.name not in segment.spared
        }  # fmt: skip
        kept = {
            id(t.base) for at, op in enumerate(program.ops) if at not in inside for t in op.saves
        }  # fmt: skip
        for op in program.ops:
            for tensor in (t.base for t in op.saves if t.is_counted):
                is_inside = id(tensor) in made and (segment.outputs or id(tensor) not in kept)
                if is_inside and segment.back >= found.get(id(tensor), (0, tensor))[0]:
                    found[id(tensor)] = (segment.back, tensor)
    return list(found.values())


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
    made = {
        id(t): t for at in inside for t in program.ops[at].writes
        if t.base is t and t.is_counted and t.name not in segment.spared
    }  # fmt: skip
    ends = last_uses(program)
    ended = {id(t): at for at, tensors in ends.items() for t in tensors}
    saved = {id(t.base) for at in inside for t in program.ops[at].saves}
    out = {key for key in made if ended.get(key, segment.stop) >= segment.stop}
    kept = out | saved
    out -= set() if segment.outputs else saved  # what its own backward needs is back as it was
    live: Any = 0
    peak: Any = 0
    for at in inside:
        op = program.ops[at]
        live = live + sum(t.n_bytes for t in op.writes if id(t) in made)
        peak = larger(peak, live + op.forward_bytes)
        gone = (t for t in ends.get(at, ()) if id(t) in made and id(t) not in kept)
        live = live - sum(t.n_bytes for t in gone)
    return Again(segment, peak, sum(made[key].n_bytes for key in out))
