"""A block's two passes as the step sees them: what it leaves, and what it needs while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from lmsize.numbers import chosen, larger, largest
from lmsize.tape.heap import Requests
from lmsize.tape.liveness import forward
from lmsize.tape.program import Op, Program, Tensor
from lmsize.tape.segments import leaf_bytes
from lmsize.tape.undoing import backward


@dataclass(frozen=True, slots=True)
class Piece:
    """One block that the step runs.

    Attributes:
        saved: kept from its forward to its backward; `cached` until the end of the forward only.
        forward_peak: the most its forward holds, input included.
        backward_peak: the most its backward holds, a recomputation before it included.
        peak_saved: what it keeps of activations then; `peak_gradients` what gradients of its
            parameters it has made by then, of which there are `gradients` once it is undone.
        output: what it hands to the next block; `handed` what it hands to those after that too,
            beyond what is saved: there until the last layer of its tower has run.
        returned_peak: the most its forward holds until the model returns.
        clinging: of what is saved, what stays after its backward, as long as the graph; `clings`
            whether anything does.
        is_named: whether the script names what the model returns, so that the graph lives until it
            has the next outputs.
        stays: whether a module names something of its second run until it runs again, and with it
            what that run began from: if it was all of the block, its input, of `leaf` bytes, and
            the input's gradient.
        keeps_input: whether what it was given is among what is saved.
        largest: the largest tensor that it makes.
        again: what it keeps once it has run again, for the backward of a block before it.
        names_rows: whether the model names what was looked up, and not what the layers are given.
        lingering: what it hands back beside its output and does not keep, until the next block ran.
        requests: what it asks of an allocator, where that is kept.
    """

    saved: Any
    cached: Any
    forward_peak: Any
    backward_peak: Any
    peak_saved: Any
    peak_gradients: Any
    gradients: Any
    output: Any
    returned_peak: Any
    keeps_input: bool = True
    largest: Any = 0
    again: Any = 0
    clinging: Any = 0
    clings: bool = False
    handed: Any = 0
    is_named: bool = False
    stays: bool = False
    leaf: Any = 0
    names_rows: bool = False
    lingering: Any = 0
    requests: Requests | None = None

    @property
    def stranded(self) -> Any:
        """Bytes that an allocator has beyond its peak.

        Blocks that are let go of, and are too small for what is asked for then.
        """
        if self.requests is None:
            return 0
        return larger(0, self.requests.room_bytes - larger(self.forward_peak, self.backward_peak))


def chained(one: Piece, n: int) -> Piece:
    """`n` equal blocks that run again together: they keep the input of the first."""
    if n == 1:
        return one
    more = (n - 1) * one.again
    return replace(
        one, backward_peak=one.backward_peak + more, peak_saved=one.peak_saved + more,
        gradients=n * one.gradients, requests=None,
    )  # fmt: skip


def piece(
    program: Program, *, checkpointed: bool = False, accumulates: bool = False,
    keeps: Callable[[Op, int], bool] | None = None, offloads: bool = False, reentrant: bool = False,
    lays_out: bool = False,
) -> Piece:  # fmt: skip
    """A program as a piece.

    Args:
        checkpointed: it keeps its input, and runs again for its backward.
        accumulates: its gradients are added to those of micro-batches before.
        keeps: which outputs a checkpointed block keeps all the same, by operation and the
            number of products before it; a compiler keeps only those that the backward needs.
        offloads: the input of a checkpointed block waits on the host until it runs again.
        reentrant: it runs again before any of its backward, not once that asks for what was saved.
        lays_out: what it asks of an allocator is kept; its backward follows a forward at once.
    """
    requests = Requests() if lays_out else None
    if not checkpointed:
        return _run_once(program, accumulates=accumulates, requests=requests)
    kept = _kept(program, keeps) if keeps is not None else 0
    return _run_again(
        program, kept, accumulates=accumulates, offloads=offloads, reentrant=reentrant,
        requests=requests,
    )  # fmt: skip


def _run_once(program: Program, *, accumulates: bool, requests: Requests | None) -> Piece:
    """A block whose backward has all that its forward saved."""
    through = forward(program, requests=requests)
    back = backward(program, accumulates=accumulates, requests=requests)
    stays = _is_named_on(program)
    clinging = through.clinging + leaf_bytes(program)
    return Piece(
        saved=through.saved, cached=through.cached, forward_peak=through.peak,
        backward_peak=back.peak, peak_saved=back.peak_saved, peak_gradients=back.peak_gradients,
        gradients=back.gradients, output=bytes_of(program.outputs), largest=largest_tensor(program),
        returned_peak=through.returned_peak, handed=through.handed,
        clinging=clinging + (bytes_of(program.inputs) if through.input_clings else 0),
        clings=any(op.clings for op in program.ops) or stays, stays=stays,
        is_named=program.returns_at is not None,
        keeps_input=through.input_is_saved or through.input_clings,
        lingering=through.lingering, names_rows=program.names_rows, requests=requests,
    )  # fmt: skip


def _run_again(
    program: Program, kept: Any, *, accumulates: bool, offloads: bool, reentrant: bool,
    requests: Requests | None,
) -> Piece:  # fmt: skip
    """A block that keeps its input (and `kept`, of a selective one), and runs again before its backward."""
    through, once = forward(program, requests=requests), forward(program, saving=False)
    stream, output = bytes_of(program.inputs), bytes_of(program.outputs)
    # Nodes of the first run hold theirs until the end; those of the second are soon gone.
    first = once.clinging
    extra = first if through.input_is_saved else first + stream
    extra = extra + output if reentrant else extra  # the function's backward names it to its end
    back = backward(
        program, accumulates=accumulates, extra_bytes=extra, holds=False, unpacks=not reentrant,
        requests=requests,
    )  # fmt: skip
    runs_out = through.peak + output if reentrant else through.again_peak + back.held_before
    recomputed = runs_out + first
    is_undoing = back.peak >= recomputed
    stays = reentrant and _is_named_on(program)
    return Piece(
        saved=kept + first + once.handed + (0 if offloads else stream), cached=once.cached,
        forward_peak=once.peak, backward_peak=larger(back.peak, recomputed),
        peak_saved=chosen(is_undoing, back.peak_saved, stream + first + kept),
        peak_gradients=chosen(is_undoing, back.peak_gradients, 0),
        gradients=back.gradients, output=output, largest=largest_tensor(program),
        again=through.saved, returned_peak=once.returned_peak,
        clinging=first + (stream if once.input_clings else 0),
        clings=any(op.clings for op in program.ops), is_named=program.returns_at is not None,
        lingering=once.lingering, stays=stays, leaf=stream if stays else 0, requests=requests,
    )  # fmt: skip


def _is_named_on(program: Program) -> bool:
    """Whether a module names something with a gradient until it runs again."""
    return program.module_keeps is not None and program.module_keeps.needs_grad


def bytes_of(tensors: Iterable[Tensor]) -> Any:
    """Of tensors that each have a storage of their own."""
    return sum(t.n_bytes for t in tensors)


def largest_tensor(program: Program) -> Any:
    """Bytes of the largest tensor that the operations make."""
    return largest([0, *(t.n_bytes for op in program.ops for t in op.makes)])


def _kept(program: Program, keeps: Callable[[Op, int], bool]) -> Any:
    """Bytes of the outputs that a selective recomputation keeps."""
    n_products, chosen_ops = 0, []
    for op in program.ops:
        if keeps(op, n_products):
            chosen_ops.append(op)
        n_products += op.name == "linear"
    if program.is_compiled:
        needed = _needed(program, {*chosen_ops})
        chosen_ops = [op for op in chosen_ops if any(t.base in needed for t in op.writes)]
    return sum(t.n_bytes for op in chosen_ops for t in op.writes)


def _needed(program: Program, kept: set[Op]) -> set[Tensor]:
    """Storages that the backward reads, or that what it reads is made from again, down to what is kept."""
    needed = {t.base for op in program.ops for t in op.saves}
    for op in reversed(program.ops):
        if op not in kept and any(t.base in needed for t in op.writes):
            needed |= {t.base for t in op.reads}
    return needed
