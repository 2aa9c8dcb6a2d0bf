"""What a program holds in its backward, and when.

Gradients are held from the operation that makes them to the one that takes them, and what was saved until the last
node that needs it is done.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lmsize.numbers import chosen
from lmsize.tape.heap import Requests, Unheard
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


Instant = tuple[Any, Any, Any]
"""Bytes that are held; of these what is saved still, and gradients of parameters."""


@dataclass(slots=True)
class _Undoing:
    """The state of a backward; `pending` are the gradients that wait for their tensor's operation."""

    live: Any
    saved: Any
    told: Requests
    n_uses: dict[Tensor, int]
    gradients: Any = 0
    held_before: Any = None
    pending: dict[Tensor, _Grad] = field(default_factory=dict)
    instants: list[Instant] = field(default_factory=list)

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
        self.instants.append((self.live + n_bytes, self.saved, self.gradients))

    def release(self, grad: _Grad) -> None:
        grad.n_holders -= 1
        if not grad.n_holders:
            self.let_go(grad, grad.n_bytes)

    def let_go(self, key: Hashable, n_bytes: Any) -> None:
        self.live = self.live - n_bytes
        self.told.let_go(key)


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
    n_uses, gone = _uses(program, holds=holds), discarded(program)
    saved = sum(t.n_bytes for t in n_uses if t not in gone) + extra_bytes
    state = _Undoing(saved, saved, Unheard() if requests is None else requests, n_uses)
    state.look(0)
    for given in (*program.outputs, *program.awaited):
        state.pending[given] = state.made(given.n_bytes)
    again = [ran_again(program, one) for one in program.segments]
    for at in reversed(range(len(program.ops))):
        for run in again:
            if run.segment.back == at:
                _run_again(run, state)
        for tensor, back in gone.items():
            if back == at:
                state.saved = state.saved + tensor.n_bytes
                state.hold(tensor, tensor.n_bytes)
        _undo(program.ops[at], state, accumulates=accumulates, unpacks=unpacks)
        for run in again:
            if run.segment.start == at:
                state.let_go(run, run.outputs)
    peak, peak_saved, peak_gradients = _fullest(state.instants)
    held_before = 0 if state.held_before is None else state.held_before
    return Backward(peak, peak_saved, peak_gradients, state.gradients, held_before)


def _uses(program: Program, *, holds: bool) -> dict[Tensor, int]:
    """How many nodes need each storage; what a node holds itself it never lets go of."""
    found: dict[Tensor, int] = {}
    for op in program.ops:
        for tensor in (*op.keeps, *op.holds) if holds else op.keeps:
            found[tensor] = found.get(tensor, 0) + 1
    return found


def _fullest(instants: Sequence[Instant]) -> Instant:
    """The last of those at which most is held, candidate by candidate."""
    found = instants[0]
    for instant in instants:
        is_fuller = instant[0] >= found[0]
        if isinstance(is_fuller, bool):
            found = instant if is_fuller else found
        else:
            held, saved, made = (
                chosen(is_fuller, a, b) for a, b in zip(instant, found, strict=True)
            )
            found = held, saved, made
    return found


def _run_again(run: Again, state: _Undoing) -> None:
    """What a segment makes on its way, and hands on."""
    state.told.need(run.peak)
    state.look(run.peak)
    state.hold(run, run.outputs)


def _undo(op: Op, state: _Undoing, *, accumulates: bool, unpacks: bool) -> None:
    incoming = [g for t in op.writes if (g := state.pending.pop(t, None)) is not None]
    if not incoming:
        _let_go_of_saved(op, state)
        return
    if op.saves and state.held_before is None:
        state.held_before = state.live - state.saved
    state.told.need(op.backward_bytes)
    state.look(op.backward_bytes)
    made = [(gradient, _first_made(gradient, incoming[0], state)) for gradient in op.gradients]
    if unpacks:
        _let_go_of_saved(op, state)
    for gradient, grad in made:
        _put_in_form(gradient, grad, state)
    if not unpacks:
        _let_go_of_saved(op, state)
    for gradient, grad in made:
        if gradient.kind == "saved":
            state.told.take(grad, grad.n_bytes)  # in the place that the saved one had
    for grad in incoming:
        state.release(grad)
    for gradient, grad in made:
        _deliver(gradient.to, grad, state, accumulates=accumulates)


def _first_made(gradient: Gradient, given: _Grad, state: _Undoing) -> _Grad:
    """What a node makes for an input of the gradient that it is given, a first form of it for some."""
    n_bytes = gradient.to.n_bytes
    if gradient.kind == "same":
        given.n_holders += 1
        return given
    if gradient.kind == "saved":  # takes over the storage that is let go of afterwards
        state.live = state.live + n_bytes
        return _Grad(n_bytes)
    if gradient.form_bytes is not None:
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
    """The gradient itself, made of its first form if it has one, which goes."""
    if gradient.form_bytes is not None:
        state.hold(grad, grad.n_bytes)
        state.let_go(id(gradient), gradient.form_bytes)


def _let_go_of_saved(op: Op, state: _Undoing) -> None:
    for tensor in op.keeps:
        state.n_uses[tensor] -= 1
        if not state.n_uses[tensor]:
            state.saved = state.saved - tensor.n_bytes
            state.let_go(tensor, tensor.n_bytes)


def _deliver(tensor: Tensor, grad: _Grad, state: _Undoing, *, accumulates: bool) -> None:
    """A gradient waits for its tensor's own operation; two that meet are summed."""
    if tensor.kind in ("parameter", "shared", "waiting"):
        if tensor.kind == "shared" or (accumulates and tensor.kind == "parameter"):
            state.release(grad)
        else:
            state.gradients = state.gradients + tensor.n_bytes
            state.look(0)
        return
    waiting = state.pending.get(tensor)
    if waiting is None:
        state.pending[tensor] = grad
        return
    if waiting.n_holders > 1:  # still another tensor's gradient: not to be summed into
        total = state.made(tensor.n_bytes)
        state.release(waiting)
        state.pending[tensor] = total
    state.release(grad)
