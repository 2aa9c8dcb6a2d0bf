"""The moments of a step: what is live when each block runs, without unrolling the layers.

Along a run of equal layers what is kept shrinks, and gradients grow, by the same amount a layer:
the fullest layer is the first or the last to run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lmsize.formula import Term, formula, total, undominated
from lmsize.memory.blocks import Placed
from lmsize.source import Source

AUTOGRAD = Source(
    "PyTorch 2.13", "tools/autograd/derivatives.yaml", "https://github.com/pytorch/pytorch"
)


@formula(source=AUTOGRAD)
def kept_bytes(*, n_layers: Any, layer_bytes: Any, n_in_flight: Any) -> Any:
    """Bytes that layers keep for their backward.

    Assumes: what the operations of the stack's own code save, each storage once.
    Valid for: equal layers; `n_in_flight` micro-batches whose backward is still to come.
    """
    return n_layers * layer_bytes * n_in_flight


@formula(source=AUTOGRAD)
def passing_bytes(*, peak_bytes: Any, saved_bytes: Any, gradient_bytes: Any) -> Any:
    """Bytes that a block holds while it runs, beyond what it keeps and its parameters' gradients.

    Assumes: tensors go when the last operation that needs them has run.
    Valid for: the fullest instant of one block's forward or backward.
    """
    return peak_bytes - saved_bytes - gradient_bytes


@formula(source=AUTOGRAD)
def made_gradient_bytes(*, n_layers: Any, layer_bytes: Any) -> Any:
    """Bytes of the gradients of the layers that are already undone.

    Assumes: gradients were set to None after the step before.
    Valid for: one micro-batch a step; more add to gradients that are there.
    """
    return n_layers * layer_bytes


@formula(source=AUTOGRAD)
def input_bytes(*, n_micro_batches: Any, n_tokens: Any, bytes_per_number: Any) -> Any:
    """Bytes of the ids and labels of a step.

    Assumes: all micro-batches of the step lie on the accelerator.
    Valid for: ids and labels of the same length, without a mask.
    """
    return n_micro_batches * n_tokens * 2 * bytes_per_number


@dataclass(frozen=True, slots=True)
class Moment:
    """An instant at which memory may peak.

    Attributes:
        kept: (block, layers of it, bytes of one) that are kept; `undone` those with gradients,
            and `left` what nodes of those still hold.
        peak_bytes: all that the running block holds, of which it keeps `saved_bytes` and has made
            `gradient_bytes` of its parameters' gradients.
        cached_bytes: casts of weights that autocast keeps.
    """

    name: str
    where: str
    kept: tuple[tuple[str, int, Any], ...]
    undone: tuple[tuple[str, int, Any], ...]
    peak_bytes: Any
    saved_bytes: Any
    gradient_bytes: Any = 0
    cached_bytes: Any = 0
    left: tuple[tuple[str, int, Any], ...] = ()

    @property
    def is_backward(self) -> bool:
        return self.name != "forward"

    @property
    def n_bytes(self) -> Any:
        """All of it, for one micro-batch in flight."""
        kept = sum(n * each for _, n, each in (*self.kept, *self.left))
        made = sum(n * each for _, n, each in self.undone)
        return kept + made + self.cached_bytes + self.peak_bytes


def moments(blocks: Sequence[Placed]) -> list[Moment]:
    """The fullest instants: of the forward, of the loss, of the backward of layers and its end."""
    found: dict[str, list[Moment]] = {}
    for moment in (*_forwards(blocks), *_backwards(blocks)):
        found.setdefault(moment.name, []).append(moment)
    return [m for alike in found.values() for m in undominated(alike, key=lambda m: m.n_bytes)]


def _forwards(blocks: Sequence[Placed]) -> list[Moment]:
    """The last layer of each run, when all before it are kept."""
    made: list[Moment] = []
    kept: list[tuple[str, int, Any]] = []
    cached: Any = 0
    for placed in blocks:
        piece, before = placed.piece, placed.n_layers - 1
        here = (*kept, (placed.label, before, piece.saved)) if before else tuple(kept)
        held = cached + before * piece.cached
        made.append(
            Moment("forward", placed.label, here, (), piece.forward_peak, 0, cached_bytes=held)
        )
        kept.append((placed.label, placed.n_layers, piece.saved))
        cached = cached + placed.n_layers * piece.cached
    return made


def _backwards(blocks: Sequence[Placed]) -> list[Moment]:
    """The first and the last layer of each run that is undone."""
    made: list[Moment] = []
    for at, placed in enumerate(blocks):
        kept = [(p.label, p.n_layers, p.piece.saved) for p in blocks[:at]]
        undone = [(p.label, p.n_layers, p.gradients) for p in blocks[at + 1 :]]
        left = [(p.label, p.n_layers, p.piece.left) for p in blocks[at + 1 :]]
        for n_done in sorted({0, placed.n_layers - 1}):
            n_left = placed.n_layers - 1 - n_done
            piece = placed.piece
            made.append(
                Moment(
                    _name(placed),
                    placed.label,
                    (*kept, (placed.label, n_left, piece.saved)),
                    (*undone, (placed.label, n_done, placed.gradients)),
                    piece.backward_peak,
                    piece.peak_saved,
                    piece.peak_gradients,
                    left=(*left, (placed.label, n_done, piece.left)),
                )
            )
    return made


def _is_some(n_bytes: Any) -> bool:
    """Whether it is more than a plain nothing; arrays are."""
    return not isinstance(n_bytes, int | float) or n_bytes != 0


def _name(placed: Placed) -> str:
    if placed.role == "layer":
        return "layer_recompute" if placed.checkpointed else "layer_backward"
    return {"head": "loss_backward", "embedding": "end_of_backward"}[placed.role]


def activations_term(moment: Moment, *, in_flight: float, whole: Sequence[Placed]) -> Term:
    """What is kept at a moment, a leaf a block; other micro-batches in flight keep all of it."""
    leaves = [
        kept_bytes.term(label, n_layers=n, layer_bytes=each, n_in_flight=1)
        for label, n, each in moment.kept
        if n
    ]
    leaves += [
        kept_bytes.term(f"{label}, undone", n_layers=n, layer_bytes=each, n_in_flight=1)
        for label, n, each in moment.left
        if n and _is_some(each)
    ]
    if moment.is_backward:
        leaves.append(
            kept_bytes.term(
                f"running: {moment.where}",
                n_layers=1,
                layer_bytes=moment.saved_bytes,
                n_in_flight=1,
            )
        )
    leaves += [
        kept_bytes.term(
            f"{p.label}, other micro-batches",
            n_layers=p.n_layers,
            layer_bytes=p.piece.saved,
            n_in_flight=in_flight - 1,
        )
        for p in whole
        if in_flight > 1 and p.role != "head"
    ]
    return total("activations", leaves)


def passing_term(moment: Moment) -> Term:
    """What the running block holds beside, and the casts of weights kept until it ends."""
    leaves = [
        passing_bytes.term(
            f"while it runs: {moment.where}",
            peak_bytes=moment.peak_bytes,
            saved_bytes=moment.saved_bytes,
            gradient_bytes=moment.gradient_bytes,
        )
    ]
    if not moment.is_backward:
        leaves.append(
            kept_bytes.term(
                "weights cast by autocast",
                n_layers=1,
                layer_bytes=moment.cached_bytes,
                n_in_flight=1,
            )
        )
    return total("temporaries", leaves)


def gradients_term(moment: Moment) -> Term:
    """Gradients of what is undone at a moment, and of the running block so far."""
    made = [*moment.undone, (f"running: {moment.where}", 1, moment.gradient_bytes)]
    return total("gradients", [
        made_gradient_bytes.term(label, n_layers=n, layer_bytes=each) for label, n, each in made if n
    ])  # fmt: skip
