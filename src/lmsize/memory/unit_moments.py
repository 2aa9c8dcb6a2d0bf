"""When FSDP2's units hold what: gathers, reductions, and gradients that wait for them.

The root stays gathered through the forward, and again through the backward. Read off torch 2.13,
``torch/distributed/fsdp/_fully_shard``:

- In the forward what was gathered in one piece stays beside its copy, parameter by parameter, until
  the next unit is copied too (``wait_for_unshard``, whose local variable holds it that long).
- While a unit is undone, the one before it is gathered in one piece (``_backward_prefetch``).
- A unit's gradients stay whole until they are copied into the input of their reduce-scatter
  (``foreach_reduce``), which lives until the next unit's (``reduce_scatter_states``). The root's
  wait for the end of the backward.
- At stage 2 units stay gathered from their forward to the end of their own backward.

Where the root stays gathered between the passes, and with it the last unit before the loss, neither is
gathered again (torchtitan's ``apply_fsdp`` until July 2025, torch's FSDP2 until June 2025).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lmsize.memory.blocks import Placed
from lmsize.memory.moments import Around, Moment
from lmsize.memory.turns import Turn, added_up
from lmsize.memory.units import Unit
from lmsize.tape.heap import Requests

ROOT, UNITS = "root gathered", "units gathered"
AHEAD, REDUCED = "a unit gathered in one piece", "gradients on their way"
NONE = Unit()
ALTERNATE = 2  # places that equal units in a row take in turns, once there are so many of them


@dataclass(frozen=True, slots=True)
class Timeline:
    """The units of a stage in order.

    Attributes:
        root: what is in none of them.
        stays: whether they stay gathered until they are undone (stage 2).
        spans_loss: whether the root and the last of them stay gathered between the passes.
        turn: the micro-batch's, where these differ.
    """

    blocks: Sequence[Placed]
    root: Unit
    stays: bool
    spans_loss: bool = False
    turn: Turn | None = None

    @property
    def reduces(self) -> bool:
        """Whether units hand over their gradients."""
        return self.turn is None or self.turn.reduces

    def whole(self, placed: Placed) -> Any:
        """Bytes of the gradients that a unit has made when it hands them over, if not added up."""
        return 0 if self.turn else placed.piece.gradients

    def stands_alone(self, at: int) -> bool:
        return not self.blocks[at].unit.in_root

    def before(self, at: int, n_before: int) -> Unit:
        """The unit that runs before one that comes after `n_before` of its own block."""
        if self.stands_alone(at) and n_before:
            return self.blocks[at].unit
        return next((b.unit for b in reversed(self.blocks[:at]) if not b.unit.in_root), NONE)

    def after(self, at: int, n_after: int) -> Unit:
        """The unit that runs after one that `n_after` of its own block follow."""
        if self.stands_alone(at) and n_after:
            return self.blocks[at].unit
        return next((b.unit for b in self.blocks[at + 1 :] if not b.unit.in_root), NONE)

    def running(self, at: int) -> Any:
        """Bytes of the weights that a block runs on, beside the root's, or that wait for their turn."""
        if self.stands_alone(at):
            return self.blocks[at].unit.gathered
        return self.before(at, 0).gathered if self._spans(at) and not self.stays else 0

    def _spans(self, at: int) -> bool:
        """Whether the last unit is gathered while a block of the root's runs."""
        return self.spans_loss and not any(
            self.stands_alone(i) for i in range(at, len(self.blocks))
        )

    def staying(self, at: int, n_before: int) -> Any:
        """Bytes of the units before one that are gathered still."""
        if not self.stays:
            return 0
        here = n_before * self.running(at)
        return here + sum(
            b.n_layers * b.unit.gathered for b in self.blocks[:at] if not b.unit.in_root
        )

    def ahead(self, at: int, n_before: int) -> Any:
        """Bytes of the unit that is fetched while one is undone."""
        return 0 if self.stays or self._spans(at) else self.before(at, n_before).gathered


def timeline(
    blocks: Sequence[Placed], *, stays: bool, spans_loss: bool = False, turn: Turn | None = None
) -> Timeline:  # fmt: skip
    """The units of a stage's blocks."""
    root = sum((b.unit for b in blocks if b.unit.in_root), NONE)
    return Timeline(blocks, root, stays, spans_loss, turn)


def with_units(
    found: Iterable[Moment], blocks: Sequence[Placed], *, stays: bool, spans_loss: bool = False,
    turn: Turn | None = None,
) -> Iterator[Moment]:  # fmt: skip
    """The moments with what units hold then, and those that units add."""
    line = timeline(blocks, stays=stays, spans_loss=spans_loss, turn=turn)
    for moment in found:
        around = _in_backward if moment.is_backward else _in_forward
        yield _with_sums(line, replace(moment, around=around(line, moment)))
    for moment in _of_units(line):
        yield _with_sums(line, moment)


def _with_sums(line: Timeline, moment: Moment) -> Moment:
    return replace(moment, added_up=added_up(line.turn, line.blocks, moment))


def _of_units(line: Timeline) -> Iterator[Moment]:
    """The moments that units add."""
    blocks = line.blocks
    if not (line.stays or line.spans_loss):
        yield _root_gather(line)
    for at in range(len(blocks)):
        if line.stands_alone(at):
            yield from _unit_gathers(line, at)
            yield from _unit_reductions(line, at) if line.reduces else ()
    if line.reduces and any(placed.unit.in_root for placed in blocks):
        yield _root_reduction(line)


def _in_forward(line: Timeline, moment: Moment) -> tuple[Around, ...]:
    at, n_before = moment.at, moment.n_before
    running = line.running(at)
    last = line.blocks[at].unit if line.stands_alone(at) else line.before(at, 0)
    last = line.root if last is NONE else last
    return (
        Around(ROOT, line.root.gathered),
        Around(UNITS, line.staying(at, n_before) + running),
        Around(AHEAD, last.gathered, in_stream=True),
    )


def _in_backward(line: Timeline, moment: Moment) -> tuple[Around, ...]:
    at, n_before = moment.at, moment.n_before
    return (
        Around(ROOT, line.root.gathered),
        Around(UNITS, line.staying(at, n_before) + line.running(at)),
        Around(AHEAD, line.ahead(at, n_before), in_stream=True),
        Around(REDUCED, line.after(at, moment.n_after).reduced if line.reduces else 0),
    )


def _unit_gathers(line: Timeline, at: int) -> Iterator[Moment]:
    """A unit is there twice before it runs, beside what was gathered in one piece before."""
    placed, last = line.blocks[at], line.blocks[at].n_layers - 1
    kept = tuple((b.label, b.n_layers, b.piece.saved) for b in line.blocks[:at])
    is_first = all(b.unit.in_root for b in line.blocks[:at])
    for n_before in sorted({0, last}):
        before = line.root if is_first and not n_before else line.before(at, n_before)
        yield Moment(
            "forward", placed.label, (*kept, (placed.label, n_before, placed.piece.saved)), (),
            placed.piece.output, 0,
            around=(
                Around(ROOT, line.root.gathered),
                Around(UNITS, line.staying(at, n_before) + placed.unit.gathered),
                Around(AHEAD, before.gathered + placed.unit.gathered, in_stream=True),
            ),
        )  # fmt: skip


def _root_gather(line: Timeline) -> Moment:
    """The root is gathered anew before the backward."""
    last = line.blocks[-1]
    kept = tuple((b.label, b.n_layers, b.piece.saved) for b in line.blocks[:-1])
    saved = last.piece.saved
    root = line.root.gathered
    return Moment(
        "loss_backward",
        last.label,
        kept,
        (),
        saved,
        saved,
        at=len(line.blocks) - 1,
        around=(Around(ROOT, root), Around(AHEAD, root, in_stream=True)),
    )


def _unit_reductions(line: Timeline, at: int) -> Iterator[Moment]:
    """A unit's gradients are there whole, and once more on their way."""
    placed = line.blocks[at]
    kept = [(b.label, b.n_layers, b.piece.saved) for b in line.blocks[:at]]
    undone = [(b.label, b.n_layers, b.gradients) for b in line.blocks[at + 1 :]]
    whole = line.whole(placed)
    for n_after in sorted({0, placed.n_layers - 1}):
        n_before = placed.n_layers - 1 - n_after
        yield Moment(
            "unit_reduction", placed.label,
            (*kept, (placed.label, n_before, placed.piece.saved)),
            (*undone, (placed.label, n_after, placed.gradients)),
            whole + placed.piece.output, 0, whole, at=at, n_before=n_before, n_after=n_after,
            around=(
                Around(ROOT, line.root.gathered), Around(UNITS, line.staying(at, n_before)),
                Around(AHEAD, line.ahead(at, n_before), in_stream=True), Around(REDUCED, placed.unit.reduced),
            ),
        )  # fmt: skip


def _root_reduction(line: Timeline) -> Moment:
    first = line.blocks[0]
    undone = [(b.label, b.n_layers, b.gradients) for b in line.blocks[1:]]
    whole = line.whole(first)
    return Moment(
        "root_reduction", first.label, (), tuple(undone), whole, 0, whole,
        around=(Around(REDUCED, line.root.reduced),),
    )  # fmt: skip


def gathered_at_once(blocks: Sequence[Placed]) -> Any:
    """Bytes that the gathering stream comes to have in a forward.

    A unit in one piece, beside the one before it, until that one is copied too; and before it a
    rank's share of it in the type in which it is gathered, if that is another.
    """
    line, requests = timeline(blocks, stays=False), Requests()
    apart = [b for b in blocks if not b.unit.in_root]
    units = [line.root]
    for placed in apart:
        n = placed.n_layers
        units += [placed.unit] * (n if n <= ALTERNATE else ALTERNATE + n % ALTERNATE)
    for at, unit in enumerate(units):
        requests.take(("cast", at), unit.cast)
        requests.take(at, unit.gathered)
        requests.let_go(("cast", at))
        requests.let_go(at - 1)
    return requests.room_bytes


def in_streams(moment: Moment, before: Any) -> Any:
    """Bytes of a moment that lie in blocks of the streams that gather and reduce.

    What is gathered in one piece, and the gradients that are reduced; those of the block at work are not.

    Args:
        before: gradients that were there before and are added to, if any are.
    """
    reduced = sum(n * each for _, n, each in moment.undone)
    return (before or reduced) + sum(one.n_bytes for one in moment.around if one.in_stream)
