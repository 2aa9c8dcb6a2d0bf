"""A block's two passes as the step sees them: what it leaves, and what it needs while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lmsize.numbers import chosen, larger
from lmsize.tape.liveness import backward, forward
from lmsize.tape.program import Op, Program


@dataclass(frozen=True, slots=True)
class Piece:
    """One block that the step runs.

    Attributes:
        saved: kept from its forward to its backward; `cached` until the end of the forward only.
        forward_peak: the most its forward holds, input included.
        backward_peak: the most its backward holds, a recomputation before it included.
        peak_saved: what it keeps of activations then; `peak_gradients` what gradients of its
            parameters it has made by then, of which there are `gradients` once it is undone.
        output: what it hands to the next block.
        left: of what it keeps, what is still there once it is undone, until the backward is over.
    """

    saved: Any
    cached: Any
    forward_peak: Any
    backward_peak: Any
    peak_saved: Any
    peak_gradients: Any
    gradients: Any
    output: Any
    left: Any = 0


def piece(
    program: Program, *, checkpointed: bool = False, accumulates: bool = False,
    keeps: Callable[[Op, int], bool] | None = None, offloads: bool = False, reentrant: bool = False,
) -> Piece:  # fmt: skip
    """A program as a piece.

    Args:
        checkpointed: it keeps its input, and runs again for its backward.
        accumulates: its gradients are added to those of micro-batches before.
        keeps: which outputs a checkpointed block keeps all the same, by operation and the
            number of products before it.
        offloads: the input of a checkpointed block waits on the host until it runs again.
        reentrant: it runs again before any of its backward, not once that asks for what was saved.
    """
    through = forward(program)
    stream: Any = sum(t.n_bytes for t in program.inputs)
    output: Any = sum(t.n_bytes for t in program.outputs)
    if not checkpointed:
        back = backward(program, accumulates=accumulates)
        return Piece(
            saved=through.saved, cached=through.cached, forward_peak=through.peak,
            backward_peak=back.peak, peak_saved=back.peak_saved,
            peak_gradients=back.peak_gradients, gradients=back.gradients, output=output,
            left=through.left + (stream if through.input_is_left else 0),
        )  # fmt: skip
    once = forward(program, saving=False)
    # Nodes of the first run hold theirs until the end; those of the second are soon gone.
    first = once.left
    extra = first if through.input_is_saved else first + stream
    back = backward(program, accumulates=accumulates, extra_bytes=extra, holds=False)
    recomputed = through.peak + first + (output if reentrant else back.held_before)
    chosen_bytes = _kept(program, keeps) if keeps is not None else 0
    return Piece(
        saved=chosen_bytes + first + (0 if offloads else stream), cached=once.cached, forward_peak=once.peak,
        backward_peak=larger(back.peak, recomputed),
        peak_saved=chosen(back.peak >= recomputed, back.peak_saved, stream + first + chosen_bytes),
        peak_gradients=chosen(back.peak >= recomputed, back.peak_gradients, 0),
        gradients=back.gradients, output=output,
        left=first + (stream if once.input_is_left else 0),
    )  # fmt: skip


def _kept(program: Program, keeps: Callable[[Op, int], bool]) -> Any:
    """Bytes of the outputs that a selective recomputation keeps."""
    n_products, kept = 0, 0
    for op in program.ops:
        if keeps(op, n_products):
            kept = kept + sum(t.n_bytes for t in op.writes)
        n_products += op.name == "linear"
    return kept
