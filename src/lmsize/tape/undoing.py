"""What a program holds in its backward, and when.

Gradients are held from the operation that makes them to the one that takes them, and what was saved until the last
node that needs it is done.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from lmsize.numbers import chosen, larger
from lmsize.tape.heap import Requests
from lmsize.tape.program import Gradient, Op, Program, Tensor
from lmsize.tape.segments import Again, discarded, ran_again


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


@dataclass(slots=True, eq=False)
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
    told: Requests
    gradients: Any = 0
    peak_gradients: Any = 0
    held_before: Any = None
    pending: dict[int, _Grad] = field(default_factory=dict)
    n_uses: dict[int, int] = field(default_factory=dict)

    def hold(self, key: Hashable, n_bytes: Any) -> None:
        self.told.take(key, n_bytes)
        self.live = self.live + n_bytes
        self.look(0)

    def made(self, n_bytes: Any) -> _Grad:
        """A gradient in a storage of its own."""
        grad = _Grad(n_bytes)
        self.hold(grad, n_bytes)
        return grad

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
            self.told.let_go(grad)


def backward(
    program: Program, *, accumulates: bool = False, extra_bytes: Any = 0, holds: bool = True,
    unpacks: bool = False, requests: Requests | None = None,
) -> Backward:  # fmt: skip
    """Undo the program.

    Args:
        accumulates: gradients of parameters are added to those there are, and go.
        extra_bytes: held throughout (the input of a checkpointed block).
        holds: whether nodes still hold what they hold themselves, to the end.
        unpacks: whether what was saved comes out of a hook, and is gone once a node is done (else
            the node lets go of it after the engine has looked at its gradients).
        requests: is told what is asked of the allocator, beside what the forward left there.
    """
    saved = _saved(program, holds=holds) + extra_bytes
    state = _Undoing(saved, saved, saved, saved, Requests() if requests is None else requests)
    for op in program.ops:
        for base in {id(t.base): t for t in op.saves if t.is_counted}:
            state.n_uses[base] = state.n_uses.get(base, 0) + 1
        for base in {id(t.base) for t in op.clings if holds}:  # never let go of
            state.n_uses[base] = state.n_uses.get(base, 0) + 1
    for output in program.outputs:
        state.pending[id(output)] = state.made(output.n_bytes)
    for awaited in program.awaited:
        state.pending[id(awaited)] = state.made(awaited.n_bytes)
    again, gone = [ran_again(program, one) for one in program.segments], discarded(program)
    for at in reversed(range(len(program.ops))):
        _run_again([run for run in again if run.segment.back == at], state)
        for tensor in (tensor for back, tensor in gone if back == at):
            state.saved = state.saved + tensor.n_bytes
            state.hold(id(tensor), tensor.n_bytes)
        _undo(program.ops[at], state, accumulates=accumulates, unpacks=unpacks)
        for run in (run for run in again if run.segment.start == at):
            state.live = state.live - run.outputs
            state.told.let_go(run)
    held_before = 0 if state.held_before is None else state.held_before
    return Backward(
        state.peak, state.peak_saved, state.peak_gradients, state.gradients, held_before
    )


def _run_again(runs: list[Again], state: _Undoing) -> None:
    """What segments make on their way, and hand on."""
    for run in runs:
        state.told.need(run.peak)
        state.look(run.peak)
        state.hold(run, run.outputs)


def _undo(op: Op, state: _Undoing, *, accumulates: bool, unpacks: bool) -> None:
    incoming = [g for t in op.writes if (g := state.pending.pop(id(t), None)) is not None]
    if not incoming:
        _let_go_of_saved(op, state)
        return
    if op.saves and state.held_before is None:
        state.held_before = state.live - state.saved
    state.told.need(op.backward_bytes)
    state.look(op.backward_bytes)
    made = [(gradient.to, _first_made(gradient, incoming[0], state)) for gradient in op.gradients]
    if unpacks:
        _let_go_of_saved(op, state)
    grads = [(gradient, grad) for gradient, (_, grad) in zip(op.gradients, made, strict=True)]
    for gradient, grad in grads:
        if _has_form(gradient):
            _put_in_form(gradient, grad, state)
    if not unpacks:
        _let_go_of_saved(op, state)
    for grad in (grad for gradient, grad in grads if gradient.kind == "saved"):
        state.told.take(grad, grad.n_bytes)  # in the place that the saved one had
    for grad in incoming:
        state.release(grad)
    for tensor, grad in made:
        _deliver(tensor, grad, state, accumulates=accumulates)


def _first_made(gradient: Gradient, given: _Grad, state: _Undoing) -> _Grad:
    """What a node makes for an input of the gradient that it is given, a first form of it for some."""
    n_bytes = gradient.to.n_bytes
    if gradient.kind == "same":
        given.n_holders += 1
        return given
    if gradient.kind == "saved":  # takes over the storage that is let go of afterwards
        state.live = state.live + n_bytes
        return _Grad(n_bytes)
    if _has_form(gradient):
        state.look(gradient.scratch_bytes + gradient.form_bytes)
        state.hold(id(gradient), gradient.form_bytes)
        return _Grad(n_bytes)
    scratch = (id(gradient), "scratch")
    state.told.take(scratch, gradient.scratch_bytes)
    state.look(gradient.scratch_bytes + n_bytes)
    grad = state.made(n_bytes)
    state.told.let_go(scratch)
    return grad


def _put_in_form(gradient: Gradient, grad: _Grad, state: _Undoing) -> None:
    """The gradient itself, made of its first form, which goes."""
    state.hold(grad, grad.n_bytes)
    state.live = state.live - gradient.form_bytes
    state.told.let_go(id(gradient))


def _has_form(gradient: Gradient) -> bool:
    return not isinstance(gradient.form_bytes, int) or gradient.form_bytes > 0


def _let_go_of_saved(op: Op, state: _Undoing) -> None:
    for tensor in {id(t.base): t.base for t in op.saves if t.is_counted}.values():
        state.n_uses[id(tensor)] -= 1
        if not state.n_uses[id(tensor)]:
            state.live = state.live - tensor.n_bytes
            state.saved = state.saved - tensor.n_bytes
            state.told.let_go(id(tensor))


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
        total = state.made(tensor.n_bytes)
        state.release(waiting)
        state.pending[id(tensor)] = total
    state.release(grad)


def _saved(program: Program, *, holds: bool) -> Any:
    """Bytes of all that some backward needs or some node holds, each storage once."""
    ops = program.ops
    kept = (t for op in ops for t in (*op.saves, *(op.clings if holds else ())) if t.is_counted)
    found = {id(t.base): t.base for t in kept}
    gone = {id(t) for _, t in discarded(program)}
    return sum(t.n_bytes for key, t in found.items() if key not in gone)
