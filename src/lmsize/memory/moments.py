"""The moments of a step: what is live when each block runs, without unrolling the layers.

Along a run of equal layers what is kept shrinks, and gradients grow, by the same amount a layer:
the fullest layer is the first or the last to run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lmsize.formula import undominated
from lmsize.memory.blocks import Placed

LOSS_ROLES = ("further", "head")  # undone right after they ran, whatever else is in flight


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
        added_up: gradients of micro-batches before, where these wait for the last one.
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
    added_up: Kept = ()
    at_loss: bool = False

    @property
    def is_backward(self) -> bool:
        return self.name != "forward"

    @property
    def n_bytes(self) -> Any:
        """All of it, for one micro-batch in flight."""
        kept = sum(n * each for _, n, each in self.kept)
        made = sum(n * each for _, n, each in (*self.undone, *self.added_up))
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
        *_forwards(blocks, clinging(blocks) if alike and outlives(blocks) else ()),
        *_backwards(blocks, inner=sharing is not None),
    )
    found: dict[tuple[str, bool], list[Moment]] = {}
    for moment in every if sharing is None else sharing(every, blocks):
        found.setdefault((moment.name, moment.at_loss), []).append(moment)
    return [m for named in found.values() for m in undominated(named, key=lambda m: m.n_bytes)]


def _forwards(blocks: Sequence[Placed], old: Kept) -> list[Moment]:
    """The last layer of each run, when all before it are kept.

    Until the model returns, what the graph of the micro-batch before holds is there too: `old`;
    and what the layers were given first, though nothing saves it: the model's code names it.
    """
    made: list[Moment] = []
    kept: list[tuple[str, int, Any]] = []
    named: Kept = ()
    cached: Any = 0
    handed: Any = 0
    last: Any = 0  # of the block before, which is a layer too
    for at, placed in enumerate(blocks):
        piece, before = placed.piece, placed.n_layers - 1
        last = piece.lingering if before else last * (placed.role == "layer")
        handed = handed if placed.role == "layer" else 0
        here = (*kept, (placed.label, before, piece.saved)) if before else tuple(kept)
        if placed.role == "layer":
            is_first = at and blocks[at - 1].role == "embedding"
            if is_first and not piece.keeps_input and not blocks[at - 1].piece.names_rows:
                named = (("given to the layers", 1, blocks[at - 1].piece.output),)
            here = (*here, *named) if before or not is_first else here
        held = cached + handed + before * piece.cached
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
        handed = handed + placed.n_layers * piece.handed
        last = piece.lingering
    return made


def _backwards(blocks: Sequence[Placed], *, inner: bool) -> list[Moment]:
    """The first and the last layer of each run that is undone, and if `inner` those next to them."""
    made: list[Moment] = []
    for at, placed in enumerate(blocks):
        kept = [(p.label, p.n_layers, p.piece.saved) for p in blocks[:at]]
        kept += clinging(blocks[at + 1 :])
        undone = [(p.label, p.n_layers, p.gradients) for p in blocks[at + 1 :]]
        last = placed.n_layers - 1
        for n_done in sorted({0, last} | ({min(1, last), max(last - 1, 0)} if inner else set())):
            n_left = last - n_done
            piece = placed.piece
            after = [(placed, n_done), *((p, p.n_layers) for p in blocks[at + 1 :])]
            here = [*clinging([placed], n_done), *leaves(after)]
            here.append((placed.label, n_left, piece.saved))
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


def clinging(blocks: Sequence[Placed], n_layers: int | None = None) -> Kept:
    """What the nodes of blocks that are undone hold on to, as long as the graph is there."""
    return tuple(
        (f"{p.label}, held by the graph", n, p.piece.clinging)
        for p in blocks
        if p.piece.clings and (n := p.n_layers if n_layers is None else n_layers)
    )


def leaves(blocks: Sequence[tuple[Placed, int]], *, passed_on: bool = True) -> Kept:
    """Inputs of blocks that ran again, so many of each, and their gradients.

    Args:
        passed_on: the first of these gradients is what the running block was given, and counted there.
    """
    kept: list[tuple[str, int, Any]] = []
    for at, (placed, n) in enumerate((p, n) for p, n in blocks if n):
        if placed.piece.stays:
            n_own = n - 1 if passed_on and at == 0 else n
            kept.append((f"{placed.label}, inputs named on", n, placed.piece.leaf))
            kept.append((f"{placed.label}, gradients of these", n_own, placed.piece.leaf))
    return tuple(kept)


def outlives(blocks: Sequence[Placed]) -> bool:
    """Whether the script names its outputs: the graph is there until it has the next ones."""
    return any(p.piece.is_named for p in blocks)


def _name(placed: Placed) -> str:
    if placed.role in ("layer", "further"):
        return "layer_recompute" if placed.checkpointed else "layer_backward"
    return {"head": "loss_backward", "embedding": "end_of_backward"}[placed.role]
