"""In what order a stage runs its micro-batches: one forward, one backward, in turns over its parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Schedule:
    """One-forward-one-backward; interleaved where a stage's layers fall into several parts.

    The order is that of Megatron's ``get_schedule_table`` and ``get_pp_rank_microbatches``
    (core/pipeline_parallel/schedules.py).

    Attributes:
        vp: parts of each stage.
        overlaps: a forward and a backward take turns layer by layer, so that a layer more is kept
            than where one comes after the other (``--overlap-moe-expert-parallel-comm``; one more
            pass runs ahead there, and is undone while the next one runs).
        group: micro-batches that a part takes before the next one's turn; None for one a stage.
    """

    vp: int = 1
    group: int | None = None
    overlaps: bool = False

    def n_warmup(self, *, index: int, n_stages: int, n_micro: int) -> int:
        """Passes of a part that a stage runs before its first backward is followed by a forward."""
        n_after = n_stages - index - 1
        if self.vp == 1 or n_stages == 1:
            return min(n_micro, n_after)
        n_ahead = 2 * n_after + (self.vp - 1) * (self.group or n_stages)
        return min(n_micro * self.vp, n_ahead)

    def in_flight(
        self, *, index: int, n_stages: int, n_micro: int, parts: Sequence[int] = (),
        in_last: bool = False,
    ) -> float:  # fmt: skip
        """Micro-batches whose activations a stage keeps at once, at most; parts of one count as such.

        Args:
            parts: layers of each of the stage's parts; () where they are equal.
            in_last: at the instants at which the last part runs, not at all.
        """
        n_kept = self.n_kept(index=index, n_stages=n_stages, n_micro=n_micro)
        if self.vp == 1 or n_stages == 1:
            return n_kept
        if len(set(parts)) < 2:
            return n_kept / self.vp
        found = self.by_part(index=index, n_stages=n_stages, n_micro=n_micro, in_last=in_last)
        return max(weighed(kept, parts) for kept in found)

    def n_kept(self, *, index: int, n_stages: int, n_micro: int) -> int:
        """Passes of a part whose activations a stage keeps at once, at most."""
        n_passes = n_micro * (1 if n_stages == 1 else self.vp)
        return min(n_passes, 1 + self.n_warmup(index=index, n_stages=n_stages, n_micro=n_micro))

    def by_part(
        self, *, index: int, n_stages: int, n_micro: int, in_last: bool = False
    ) -> tuple[tuple[int, ...], ...]:
        """Micro-batches that each part of a stage keeps, at every instant unlike the others.

        Args:
            in_last: as :meth:`in_flight`.
        """
        n_kept = self.n_kept(index=index, n_stages=n_stages, n_micro=n_micro)
        # What follows repeats itself after a round of all parts.
        each = self.group or n_stages
        n_seen = min(n_micro, each * (n_kept // (self.vp * each) + 3))
        order = [part for _, part in self.passes(n_seen, n_stages)]
        found = kept_by_part(order, self.vp, n_ahead=n_kept - 1)
        meant = (kept for part, kept in found if not in_last or part == self.vp - 1)
        return tuple(dict.fromkeys(meant))

    def passes(self, n_micro: int, n_stages: int) -> Iterator[tuple[int, int]]:
        """(micro-batch, part) of each forward; a backward takes the parts from the last."""
        each = self.group or n_stages
        for start in range(0, n_micro, each):
            for part in range(self.vp):
                for at in range(start, min(start + each, n_micro)):
                    yield at, part


def kept_by_part(
    order: Sequence[int], n_parts: int, *, n_ahead: int
) -> Iterator[tuple[int, tuple[int, ...]]]:
    """At each forward: the part that runs, and the micro-batches that every part keeps with it.

    Args:
        order: the part that each forward runs.
        n_ahead: forwards before the one that the first backward follows.
    """
    kept = [0] * n_parts
    for at, part in enumerate(order):
        kept[part] += 1
        yield part, tuple(kept)
        if at >= n_ahead:
            kept[-1 - order[at - n_ahead]] -= 1


def weighed(kept: Sequence[int], parts: Sequence[int]) -> float:
    """Micro-batches that a stage keeps, by the layers of its parts."""
    return sum(k * n for k, n in zip(kept, parts, strict=True)) / max(1, sum(parts))
