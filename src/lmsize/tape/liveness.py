"""What a program holds in its forward, with and without saving, and when.

Every storage counts once, from the operation that makes it until nothing refers to it: neither
an operation to come, nor the backward of one that was. The order of events depends on the program
alone; sizes are added along it, number by number or array by array.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lmsize.numbers import larger
from lmsize.tape.heap import Requests
from lmsize.tape.program import Program, Tensor
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
    told = Requests() if requests is None else requests
    gone = {id(t) for _, t in discarded(program)}
    stuck = {id(t.base) for op in program.ops for t in op.clings if t.is_counted}
    saved = {id(t.base) for op in program.ops for t in op.saves} - gone if saving else set()
    kept = saved | stuck
    handed = {id(t.base) for t in program.handed}
    cached = {id(t) for t in program.cached} | handed
    ends = last_uses(program)
    live: Any = sum(t.n_bytes for t in program.inputs)
    peak = returned = again = live
    last = max((at for at, op in enumerate(program.ops) if op.saves), default=-1)
    held = {id(t) for t in program.inputs}
    for tensor in program.inputs:
        told.take(id(tensor), tensor.n_bytes)
    for at, op in enumerate(program.ops):
        if at == program.returns_at:
            returned = peak
        again = peak if at == last else again
        for tensor in op.writes:
            if tensor.base is tensor and tensor.is_counted:
                live = live + tensor.n_bytes
                held.add(id(tensor))
                told.take(id(tensor), tensor.n_bytes)
        told.need(op.forward_bytes)
        peak = larger(peak, live + op.forward_bytes)
        if at == last and {id(t) for t in op.writes} & {id(t.base) for t in op.saves}:
            again = peak
        for tensor in ends.get(at, ()):
            if id(tensor) in held and id(tensor) not in kept and id(tensor) not in cached:
                live = live - tensor.n_bytes
                held.discard(id(tensor))
                told.let_go(id(tensor))
    return Forward(
        peak,
        sum(t.n_bytes for t in _bases(program) if id(t) in kept),
        sum(t.n_bytes for t in program.cached if id(t) not in kept),
        any(id(t.base) in saved for t in program.inputs),
        peak if program.returns_at is None else returned,
        again,
        sum(t.n_bytes for t in _bases(program) if id(t) in stuck and t not in program.inputs),
        any(id(t.base) in stuck for t in program.inputs),
        sum(t.n_bytes for t in program.lingering if id(t.base) not in kept),
        sum(t.n_bytes for t in _bases(program) if id(t) in handed - kept),
    )


def _bases(program: Program) -> list[Tensor]:
    made = (t for op in program.ops for t in op.writes)
    return [t for t in (*program.inputs, *made) if t.base is t and t.is_counted]
