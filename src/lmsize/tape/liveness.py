"""What a program holds, and when: forward, with and without saving, and backward.

Every storage counts once, from the operation that makes it until nothing refers to it: neither
an operation to come, nor the backward of one that was. The order of events depends on the program
alone; sizes are added along it, number by number or array by array.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lmsize.numbers import chosen, larger
from lmsize.tape.program import Gradient, Op, Program, Tensor


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


@dataclass(frozen=True, slots=True)
class Backward:
    """A block's backward, relative to a start at which nothing of it is counted.

    Attributes:
        peak: the most it holds: what was saved, gradients of activations and of its parameters.
        peak_saved: what is saved by then still; `peak_gradients` those of its parameters that
            are made.
        gradients: all of them, at the end.
        held_before: gradients of activations that are held when it first needs what was saved.
    """

    peak: Any
    peak_saved: Any
    peak_gradients: Any
    gradients: Any
    held_before: Any


def forward(program: Program, *, saving: bool = True) -> Forward:
    """Run the forward; without `saving`, as under checkpointing, autograd keeps nothing."""
    gone = {id(t) for _, t in discarded(program)}
    stuck = {id(t.base) for op in program.ops for t in op.clings if t.is_counted}
    saved = {id(t.base) for op in program.ops for t in op.saves} - gone if saving else set()
    kept = saved | stuck
    cached = {id(t) for t in program.cached}
    ends = _last_uses(program)
    live: Any = sum(t.n_bytes for t in program.inputs)
    peak = returned = again = live
    last = max((at for at, op in enumerate(program.ops) if op.saves), default=-1)
    held = {id(t) for t in program.inputs}
    for at, op in enumerate(program.ops):
        if at == program.returns_at:
            returned = peak
        again = peak if at == last else again
        for tensor in op.writes:
            if tensor.base is tensor:
                live = live + tensor.n_bytes
                held.add(id(tensor))
        peak = larger(peak, live + op.forward_bytes)
        if at == last and {id(t) for t in op.writes} & {id(t.base) for t in op.saves}:
            again = peak
        for tensor in ends.get(at, ()):
            if id(tensor) in held and id(tensor) not in kept and id(tensor) not in cached:
                live = live - tensor.n_bytes
                held.discard(id(tensor))
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
    )


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


def _saved(program: Program, *, holds: bool) -> Any:
    """Bytes of all that some backward needs or some node holds, each storage once."""
    ops = program.ops
    kept = (t for op in ops for t in (*op.saves, *(op.clings if holds else ())) if t.is_counted)
    found = {id(t.base): t.base for t in kept}
    gone = {id(t) for _, t in discarded(program)}
    return sum(t.n_bytes for key, t in found.items() if key not in gone)


def _bases(program: Program) -> list[Tensor]:
    made = (t for op in program.ops for t in op.writes)
    return [t for t in (*program.inputs, *made) if t.base is t and t.is_counted]


def _last_uses(program: Program) -> dict[int, list[Tensor]]:
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


@dataclass(slots=True)
class _Grad:
    """A gradient's storage and how many tensors' gradients it is."""

    n_bytes: Any
    n_holders: int = 1


@dataclass(slots=True)
class _Undoing:
    """The state of a backward."""

    live: Any
    peak: Any
    saved: Any
    peak_saved: Any
    gradients: Any = 0
    peak_gradients: Any = 0
    held_before: Any = None
    pending: dict[int, _Grad] = field(default_factory=dict)
    n_uses: dict[int, int] = field(default_factory=dict)

    def hold(self, n_bytes: Any) -> None:
        self.live = self.live + n_bytes
        self.look(0)

    def look(self, n_bytes: Any) -> None:
        """Take note of how much is held, with so much beside."""
        held = self.live + n_bytes
        fuller = held >= self.peak
        self.peak_saved = chosen(fuller, self.saved, self.peak_saved)
        self.peak_gradients = chosen(fuller, self.gradients, self.peak_gradients)
        self.peak = larger(self.peak, held)

    def release(self, grad: _Grad) -> None:
        grad.n_holders -= 1
        if not grad.n_holders:
            self.live = self.live - grad.n_bytes


def backward(
    program: Program, *, accumulates: bool = False, extra_bytes: Any = 0, holds: bool = True,
    unpacks: bool = False,
) -> Backward:  # fmt: skip
    """Undo the program.

    Args:
        accumulates: gradients of parameters are added to those there are, and go.
        extra_bytes: held throughout (the input of a checkpointed block).
        holds: whether nodes still hold what they hold themselves, to the end.
        unpacks: whether what was saved comes out of a hook, and is gone once a node is done (else
            the node lets go of it after the engine has looked at its gradients).
    """
    saved = _saved(program, holds=holds) + extra_bytes
    state = _Undoing(saved, saved, saved, saved)
    for op in program.ops:
        for base in {id(t.base): t for t in op.saves if t.is_counted}:
            state.n_uses[base] = state.n_uses.get(base, 0) + 1
        for base in {id(t.base) for t in op.clings if holds}:  # never let go of
            state.n_uses[base] = state.n_uses.get(base, 0) + 1
    for output in program.outputs:
        state.pending[id(output)] = _Grad(output.n_bytes)
        state.hold(output.n_bytes)
    if program.memory is not None and program.memory.needs_grad:
        state.pending[id(program.memory)] = _Grad(program.memory.n_bytes)
        state.hold(program.memory.n_bytes)
    back: dict[int, list[Tensor]] = {}
    for at, tensor in discarded(program):
        back.setdefault(at, []).append(tensor)
    for at in reversed(range(len(program.ops))):
        for tensor in back.get(at, ()):  # made again
            state.saved = state.saved + tensor.n_bytes
            state.hold(tensor.n_bytes)
        _undo(program.ops[at], state, accumulates=accumulates, unpacks=unpacks)
    held_before = 0 if state.held_before is None else state.held_before
    return Backward(
        state.peak, state.peak_saved, state.peak_gradients, state.gradients, held_before
    )


def _undo(op: Op, state: _Undoing, *, accumulates: bool, unpacks: bool) -> None:
    incoming = [g for t in op.writes if (g := state.pending.pop(id(t), None)) is not None]
    if not incoming:
        _let_go_of_saved(op, state)
        return
    if op.saves and state.held_before is None:
        state.held_before = state.live - state.saved
    state.look(op.backward_bytes)
    made = _node(op, state, incoming[0])
    if unpacks:
        _let_go_of_saved(op, state)
    for gradient in filter(_has_form, op.gradients):
        state.hold(gradient.to.n_bytes)
        state.live = state.live - gradient.form_bytes
    if not unpacks:
        _let_go_of_saved(op, state)
    for grad in incoming:
        state.release(grad)
    for tensor, grad in made:
        _deliver(tensor, grad, state, accumulates=accumulates)


def _node(op: Op, state: _Undoing, given: _Grad) -> list[tuple[Tensor, _Grad]]:
    """What a node makes of the gradient that it is given, first forms for some."""
    made: list[tuple[Tensor, _Grad]] = []
    for gradient in op.gradients:
        if gradient.kind == "same":
            given.n_holders += 1
            made.append((gradient.to, given))
            continue
        if gradient.kind == "saved":  # takes over the storage that is let go of below
            made.append((gradient.to, _Grad(gradient.to.n_bytes)))
            state.live = state.live + gradient.to.n_bytes
            continue
        own = gradient.form_bytes if _has_form(gradient) else gradient.to.n_bytes
        state.look(gradient.scratch_bytes + own)
        state.hold(own)
        made.append((gradient.to, _Grad(gradient.to.n_bytes)))
    return made


def _has_form(gradient: Gradient) -> bool:
    return not isinstance(gradient.form_bytes, int) or gradient.form_bytes > 0


def _let_go_of_saved(op: Op, state: _Undoing) -> None:
    for tensor in {id(t.base): t.base for t in op.saves if t.is_counted}.values():
        state.n_uses[id(tensor)] -= 1
        if not state.n_uses[id(tensor)]:
            state.live = state.live - tensor.n_bytes
            state.saved = state.saved - tensor.n_bytes


def _deliver(tensor: Tensor, grad: _Grad, state: _Undoing, *, accumulates: bool) -> None:
    """A gradient waits for its tensor's own operation; two that meet are summed."""
    if tensor.kind in ("parameter", "shared", "waiting"):
        if tensor.kind == "shared" or (accumulates and tensor.kind == "parameter"):
            state.release(grad)
        else:
            state.gradients = state.gradients + tensor.n_bytes
            state.look(0)
        return
    waiting = state.pending.get(id(tensor))
    if waiting is None:
        state.pending[id(tensor)] = grad
        return
    if waiting.n_holders > 1:  # still another tensor's gradient: not to be summed into
        total = _Grad(tensor.n_bytes)
        state.hold(total.n_bytes)
        state.release(waiting)
        state.pending[id(tensor)] = total
    state.release(grad)
