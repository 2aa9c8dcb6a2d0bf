"""When FSDP2's units hold what: gathers, reductions, and gradients that wait for them.

The root stays gathered through the forward, and again through the backward. Read off torch 2.13,
``torch/distributed/fsdp/_fully_shard``:

- In the forward what was gathered in one piece stays beside its copy, parameter by parameter, until
  the next unit's is copied (``wait_for_unshard``).
- While a unit is undone, the one before it is gathered in one piece (``_backward_prefetch``).
- A unit's gradients stay whole until they are copied into the input of their reduce-scatter
  (``foreach_reduce``), which lives until the next unit's (``reduce_scatter_states``). The root's
  wait for the end of the backward.
- At stage 2 units stay gathered from their forward to the end of their own backward.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lmsize.memory.blocks import Placed
from lmsize.memory.moments import Moment
from lmsize.memory.units import Unit

ROOT, LAYERS = "root gathered", "layers gathered"
AHEAD, REDUCED = "a unit gathered in one piece", "gradients on their way"
NONE = Unit()
Around = tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Timeline:
    """The units of a stage in order.

    Attributes:
        stays: whether layers stay gathered until they are undone (stage 2).
    """

    blocks: Sequence[Placed]
    stays: bool

    @property
    def root(self) -> Unit:
        return sum((b.unit for b in self.blocks if b.role != "layer"), NONE)

    def is_layer(self, at: int) -> bool:
        return self.blocks[at].role == "layer"

    def before(self, at: int, n_before: int) -> Unit:
        """The layer that runs before one that comes after `n_before` of its own block."""
        if self.is_layer(at) and n_before:
            return self.blocks[at].unit
        return next((b.unit for b in reversed(self.blocks[:at]) if b.role == "layer"), NONE)

    def after(self, at: int, n_after: int) -> Unit:
        """The layer that runs after one that `n_after` of its own block follow."""
        if self.is_layer(at) and n_after:
            return self.blocks[at].unit
        return next((b.unit for b in self.blocks[at + 1 :] if b.role == "layer"), NONE)

    def running(self, at: int) -> Any:
        """Bytes of the weights that a block runs on, beside the root's."""
        return self.blocks[at].unit.gathered if self.is_layer(at) else 0

    def staying(self, at: int, n_before: int) -> Any:
        """Bytes of the layers before one that are gathered still."""
        if not self.stays:
            return 0
        here = n_before * self.running(at)
        return here + sum(
            b.n_layers * b.unit.gathered for b in self.blocks[:at] if b.role == "layer"
        )

    def ahead(self, at: int, n_before: int) -> Any:
        """Bytes of the layer that is fetched while one is undone."""
        return 0 if self.stays else self.before(at, n_before).gathered


def with_units(
    found: Iterable[Moment], blocks: Sequence[Placed], *, stays: bool
) -> Iterator[Moment]:
    """The moments with what units hold then, and those that units add."""
    line = Timeline(blocks, stays)
    for moment in found:
        around = _in_backward if moment.is_backward else _in_forward
        yield replace(moment, around=around(line, moment))
    yield from _gathers(line)
    for at in range(len(blocks)):
        if line.is_layer(at):
            yield from _layer_reductions(line, at)
    yield _root_reduction(line)


def _in_forward(line: Timeline, moment: Moment) -> Around:
    at, n_before = moment.at, moment.n_before
    running = line.running(at)
    last = line.blocks[at].unit if line.is_layer(at) else line.before(at, 0)
    last = line.root if at == 0 else last
    return (
        (ROOT, line.root.gathered),
        (LAYERS, line.staying(at, n_before) + running),
        (AHEAD, last.gathered),
    )


def _in_backward(line: Timeline, moment: Moment) -> Around:
    at, n_before = moment.at, moment.n_before
    return (
        (ROOT, line.root.gathered),
        (LAYERS, line.staying(at, n_before) + line.running(at)),
        (AHEAD, line.ahead(at, n_before)),
        (REDUCED, line.after(at, moment.n_after).reduced),
    )


def _gathers(line: Timeline) -> Iterator[Moment]:
    """The first layer is gathered while the root is there twice; the root anew for the backward."""
    first, last = line.blocks[0], line.blocks[-1]
    twice = (ROOT, 2 * line.root.gathered)
    layer = line.after(0, 0)
    held = first.piece.saved + first.piece.output
    yield Moment(
        "forward",
        first.label,
        (),
        (),
        held,
        0,
        around=(twice, (AHEAD, layer.gathered + layer.cast)),
    )
    if not line.stays:
        kept = tuple((b.label, b.n_layers, b.piece.saved) for b in line.blocks[:-1])
        saved = last.piece.saved
        yield Moment("loss_backward", last.label, kept, (), saved, saved, around=(twice,))


def _layer_reductions(line: Timeline, at: int) -> Iterator[Moment]:
    """A layer's gradients are there whole, and once more on their way."""
    placed = line.blocks[at]
    kept = [(b.label, b.n_layers, b.piece.saved) for b in line.blocks[:at]]
    undone = [(b.label, b.n_layers, b.gradients) for b in line.blocks[at + 1 :]]
    whole = placed.piece.gradients
    for n_after in sorted({0, placed.n_layers - 1}):
        n_before = placed.n_layers - 1 - n_after
        yield Moment(
            "unit_reduction", placed.label,
            (*kept, (placed.label, n_before, placed.piece.saved)),
            (*undone, (placed.label, n_after, placed.gradients)),
            whole + placed.piece.output, 0, whole,
            around=(
                (ROOT, line.root.gathered), (LAYERS, line.staying(at, n_before)),
                (AHEAD, line.ahead(at, n_before)), (REDUCED, placed.unit.reduced),
            ),
        )  # fmt: skip


def _root_reduction(line: Timeline) -> Moment:
    first = line.blocks[0]
    undone = [(b.label, b.n_layers, b.gradients) for b in line.blocks[1:]]
    whole = first.piece.gradients
    return Moment(
        "root_reduction", first.label, (), tuple(undone), whole, 0, whole,
        around=((REDUCED, line.root.reduced),),
    )  # fmt: skip
