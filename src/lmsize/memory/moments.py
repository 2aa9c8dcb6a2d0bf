"""The moments of a step: what is live when each block runs, without unrolling the layers.

Along a run of equal layers what is kept shrinks, and gradients grow, by the same amount a layer:
the fullest layer is the first or the last to run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lmsize.formula import Term, formula, total, undominated
from lmsize.memory.blocks import Placed
from lmsize.memory.units import shared_bytes
from lmsize.source import Source

AUTOGRAD = Source(
    "PyTorch 2.13", "tools/autograd/derivatives.yaml", "https://github.com/pytorch/pytorch"
)

LOSS_ROLES = ("further", "head")  # undone right after they ran, whatever else is in flight


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


RUNNING = "running: "  # begins the label of what belongs to the block at work
Kept = tuple[tuple[str, int, Any], ...]


class Around(NamedTuple):
    """What a block needs of other ranks, or for them; whether a stream of its own made it."""

    what: str
    n_bytes: Any
    in_stream: bool = False


@dataclass(frozen=True, slots=True)
class Moment:
    """An instant at which memory may peak.

    Attributes:
        kept: (block, layers of it, bytes of one) that are kept; `undone` those with gradients.
        peak_bytes: all that the running block holds, of which it keeps `saved_bytes` and has made
            `gradient_bytes` of its parameters' gradients.
        cached_bytes: casts of weights that autocast keeps.
        at: which of the stage's blocks runs; of its layers `n_before` come before the one that
            does, and `n_after` after it.
        around: what it needs of other ranks, or for them.
        at_loss: whether the running block is one that takes a loss.
    """

    name: str
    where: str
    kept: Kept
    undone: Kept
    peak_bytes: Any
    saved_bytes: Any
    gradient_bytes: Any = 0
    cached_bytes: Any = 0
    at: int = 0
    n_before: int = 0
    n_after: int = 0
    around: tuple[Around, ...] = ()
    at_loss: bool = False

    @property
    def is_backward(self) -> bool:
        return self.name != "forward"

    @property
    def n_bytes(self) -> Any:
        """All of it, for one micro-batch in flight."""
        kept = sum(n * each for _, n, each in self.kept)
        made = sum(n * each for _, n, each in self.undone)
        around = sum(one.n_bytes for one in self.around)
        return kept + made + self.cached_bytes + self.peak_bytes + around


Sharing = Callable[[Iterable[Moment], Sequence[Placed]], Iterable[Moment]]


def moments(
    blocks: Sequence[Placed], *, sharing: Sharing | None = None, alike: bool = True
) -> list[Moment]:
    """The fullest instants: of the forward, of the loss, of the backward of layers and its end.

    Args:
        sharing: adds what ranks that share weights hold then; the layers next to the first and
            the last may hold more than those.
        alike: the micro-batch before was as large as this one.
    """
    every: Iterable[Moment] = (
        *_forwards(blocks, _clinging(blocks) if alike and _outlives(blocks) else ()),
        *_backwards(blocks, inner=sharing is not None),
    )
    found: dict[tuple[str, bool], list[Moment]] = {}
    for moment in every if sharing is None else sharing(every, blocks):
        found.setdefault((moment.name, moment.at_loss), []).append(moment)
    return [m for named in found.values() for m in undominated(named, key=lambda m: m.n_bytes)]


def _forwards(blocks: Sequence[Placed], old: Kept) -> list[Moment]:
    """The last layer of each run, when all before it are kept.

    Until the model returns, what the graph of the micro-batch before holds is there too: `old`.
    """
    made: list[Moment] = []
    kept: list[tuple[str, int, Any]] = []
    cached: Any = 0
    last: Any = 0  # of the block before, which is a layer too
    for at, placed in enumerate(blocks):
        piece, before = placed.piece, placed.n_layers - 1
        last = piece.lingering if before else last * (placed.role == "layer")
        here = (*kept, (placed.label, before, piece.saved)) if before else tuple(kept)
        held = cached + before * piece.cached
        loss = placed.role in LOSS_ROLES
        peaks = [((), piece.forward_peak + last)] + ([(old, piece.returned_peak)] if old else [])
        made += [
            Moment(
                "forward", placed.label, (*here, *stuck), (), peak, 0, cached_bytes=held,
                at=at, n_before=before, at_loss=loss,
            )
            for stuck, peak in peaks
        ]  # fmt: skip
        kept.append((placed.label, placed.n_layers, piece.saved))
        cached = cached + placed.n_layers * piece.cached
        last = piece.lingering
    return made


def _backwards(blocks: Sequence[Placed], *, inner: bool) -> list[Moment]:
    """The first and the last layer of each run that is undone, and if `inner` those next to them."""
    made: list[Moment] = []
    for at, placed in enumerate(blocks):
        kept = [(p.label, p.n_layers, p.piece.saved) for p in blocks[:at]]
        kept += _clinging(blocks[at + 1 :])
        undone = [(p.label, p.n_layers, p.gradients) for p in blocks[at + 1 :]]
        last = placed.n_layers - 1
        for n_done in sorted({0, last} | ({min(1, last), max(last - 1, 0)} if inner else set())):
            n_left = last - n_done
            piece = placed.piece
            here = [*_clinging([placed], n_done), (placed.label, n_left, piece.saved)]
            made.append(
                Moment(
                    _name(placed),
                    placed.label,
                    (*kept, *here),
                    (*undone, (placed.label, n_done, placed.gradients)),
                    piece.backward_peak,
                    piece.peak_saved,
                    piece.peak_gradients,
                    at=at,
                    n_before=n_left,
                    n_after=n_done,
                    at_loss=placed.role in LOSS_ROLES,
                )
            )
    return made


def _clinging(blocks: Sequence[Placed], n_layers: int | None = None) -> Kept:
    """What the nodes of blocks that are undone hold on to, as long as the graph is there."""
    return tuple(
        (f"{p.label}, held by the graph", n, p.piece.clinging)
        for p in blocks
        if p.piece.clings and (n := p.n_layers if n_layers is None else n_layers)
    )


def _outlives(blocks: Sequence[Placed]) -> bool:
    """Whether the script names its outputs: the graph is there until it has the next ones."""
    return any(p.piece.is_named for p in blocks)


def held_by_graph(blocks: Sequence[Placed]) -> list[Term]:
    """The same once all are undone, as at the optimizer's step."""
    kept = _clinging(blocks) if _outlives(blocks) else ()
    leaves = [
        kept_bytes.term(label, n_layers=n, layer_bytes=each, n_in_flight=1)
        for label, n, each in kept
    ]
    return [total("activations", leaves)] if leaves else []


def _name(placed: Placed) -> str:
    if placed.role in ("layer", "further"):
        return "layer_recompute" if placed.checkpointed else "layer_backward"
    return {"head": "loss_backward", "embedding": "end_of_backward"}[placed.role]


def activations_term(
    moment: Moment, *, in_flight: float, whole: Sequence[Placed],
    waiting: Sequence[tuple[str, Any, Any]] = (),
) -> Term:  # fmt: skip
    """What is kept at a moment, a leaf a block; other micro-batches in flight keep all of it.

    Args:
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
        for p in whole
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
    made = [*moment.undone, (f"{RUNNING}{moment.where}", 1, moment.gradient_bytes)]
    return total("gradients", [
        made_gradient_bytes.term(label, n_layers=n, layer_bytes=each) for label, n, each in made if n
    ])  # fmt: skip
