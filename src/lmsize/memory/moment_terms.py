"""What is held at a moment, as terms that a reader can open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lmsize.formula import Term, formula, total
from lmsize.memory.blocks import Placed
from lmsize.memory.moments import LOSS_ROLES, Moment, clinging, leaves, outlives
from lmsize.memory.units import shared_bytes
from lmsize.source import Source

AUTOGRAD = Source(
    "PyTorch 2.13", "tools/autograd/derivatives.yaml", "https://github.com/pytorch/pytorch"
)
RUNNING = "running: "  # begins the label of what belongs to the block at work


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


def held_by_graph(blocks: Sequence[Placed]) -> list[Term]:
    """The same once all are undone, as at the optimizer's step."""
    stays = [p for p in blocks if p.piece.stays]
    kept = clinging(blocks if outlives(blocks) else stays)
    kept += leaves([(p, p.n_layers) for p in blocks], passed_on=False)
    terms = [
        kept_bytes.term(label, n_layers=n, layer_bytes=each, n_in_flight=1)
        for label, n, each in kept
    ]
    return [total("activations", terms)] if terms else []


def activations_term(
    moment: Moment, *, whole: Sequence[tuple[Placed, float]],
    waiting: Sequence[tuple[str, Any, Any]] = (),
) -> Term:  # fmt: skip
    """What is kept at a moment, a leaf a block; other micro-batches in flight keep all of it.

    Args:
        whole: the stage's blocks, each with the micro-batches that it keeps at once.
        waiting: what a stage has for its neighbours: (what, bytes of one, micro-batches).
    """
    leaves = [
        kept_bytes.term(label, n_layers=n, layer_bytes=each, n_in_flight=1)
        for label, n, each in moment.kept
        if n
    ]
    if moment.is_backward:
        leaves.append(
            kept_bytes.term(
                f"{RUNNING}{moment.where}",
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
        for p, in_flight in whole
        if in_flight > 1 and p.role not in LOSS_ROLES
    ]
    leaves += [
        kept_bytes.term(label, n_layers=1, layer_bytes=each, n_in_flight=n)
        for label, each, n in waiting
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
    leaves += [shared_bytes.term(one.what, n_bytes=one.n_bytes) for one in moment.around]
    return total("temporaries", leaves)


def gradients_term(moment: Moment) -> Term:
    """Gradients of what is undone at a moment, and of the running block so far."""
    made = [
        *moment.added_up,
        *moment.undone,
        (f"{RUNNING}{moment.where}", 1, moment.gradient_bytes),
    ]
    return total("gradients", [
        made_gradient_bytes.term(label, n_layers=n, layer_bytes=each) for label, n, each in made if n
    ])  # fmt: skip
