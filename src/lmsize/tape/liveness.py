"""What a program holds in its forward, with and without saving, and when.

Every storage counts once, from the operation that makes it until nothing refers to it: neither
an operation to come, nor the backward of one that was. The order of events depends on the program
alone; sizes are added along it, number by number or array by array.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lmsize.numbers import largest
from lmsize.tape.heap import Requests, Unheard
from lmsize.tape.program import Program
from lmsize.tape.segments import discarded, last_uses


@dataclass(frozen=True, slots=True)
class Forward:
    """A block's forward, relative to a start at which its input is not counted.

    Attributes:
        peak: the most it holds on the way, its input included.
        saved: what its backward needs or a node holds, its input included if that is among it.
        cached: casts of weights that autocast keeps until the whole forward ends, not in `saved`.
        input_is_saved: whether its backward needs its input.
        returned_peak: the most until the model has returned its outputs; `again_peak` until all is
            saved, where a recomputation stops (``_StopRecomputationError``).
        clinging: what nodes hold until the graph goes (:class:`Op`), the input aside;
            `input_clings` whether they hold that too.
        handed: what later blocks read as well, not in `saved`.
        lingering: what is handed back beside the output and not among `saved`.
    """

    peak: Any
    saved: Any
    cached: Any
    input_is_saved: bool
    returned_peak: Any
    again_peak: Any
    clinging: Any
    input_clings: bool
    lingering: Any
    handed: Any


def forward(program: Program, *, saving: bool = True, requests: Requests | None = None) -> Forward:
    """Run the forward; without `saving`, as under checkpointing, autograd keeps nothing.

    Args:
        requests: is told what is asked of the allocator.
    """
    gone = discarded(program)
    stuck = {t for op in program.ops for t in op.holds}
    saved = {t for op in program.ops for t in op.keeps if t not in gone} if saving else set()
    kept = saved | stuck
    handed = {t.base for t in program.handed}
    stays = kept | handed | {*program.cached}
    ends = last_uses(program)
    told = Unheard() if requests is None else requests
    live: Any = sum(t.n_bytes for t in program.inputs)
    for tensor in program.inputs:
        told.take(tensor, tensor.n_bytes)
    held = [live]  # at the start, and while each operation runs
    for at, op in enumerate(program.ops):
        for tensor in op.makes:
            live = live + tensor.n_bytes
            told.take(tensor, tensor.n_bytes)
        told.need(op.forward_bytes)
        held.append(live + op.forward_bytes)
        for tensor in ends.get(at, ()):
            if tensor not in stays:
                live = live - tensor.n_bytes
                told.let_go(tensor)
    n_ops = len(program.ops) if program.returns_at is None else program.returns_at
    own = [*program.inputs, *(t for op in program.ops for t in op.makes)]
    return Forward(
        peak=largest(held),
        saved=sum(t.n_bytes for t in own if t in kept),
        cached=sum(t.n_bytes for t in program.cached if t not in kept),
        input_is_saved=any(t in saved for t in program.inputs),
        returned_peak=largest(held[: n_ops + 1]),
        again_peak=largest(held[: _until_saved(program)]),
        clinging=sum(t.n_bytes for t in own if t in stuck and t not in program.inputs),
        input_clings=any(t in stuck for t in program.inputs),
        lingering=sum(t.n_bytes for t in program.lingering if t.base not in kept),
        handed=sum(t.n_bytes for t in own if t in handed and t not in kept),
    )


def _until_saved(program: Program) -> int:
    """How many instants there are until all is saved: the start, and one an operation."""
    last = max((at for at, op in enumerate(program.ops) if op.saves), default=None)
    if last is None:
        return 1
    saves_own = not {t.base for t in program.ops[last].saves}.isdisjoint(program.ops[last].writes)
    return last + 1 + saves_own
