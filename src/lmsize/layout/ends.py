"""The first and last layers of a model, where they are treated apart from the rest."""

from __future__ import annotations

from collections.abc import Iterator

from lmsize.layout.shares import Stage
from lmsize.model.spec import Run, Tower


def ends_apart(stage: Stage, *, first: int, last: int) -> Iterator[tuple[Tower, Run, bool]]:
    """Every run of a stage, cut where the ends stop, and whether it is one of them.

    Args:
        first, last: how many of the model's layers make up each end.
    """
    n_layers = sum(run.n_layers for _, run in stage.ordered if run.block.role == "layer")
    first = first if stage.index == 0 else 0
    last = last if stage.index == stage.n_stages - 1 else 0
    at = 0
    for tower, run in stage.ordered:
        if run.block.role != "layer":
            yield tower, run, False
            continue
        left = run.n_layers
        while left:
            is_end = at < first or at >= n_layers - last
            until = first if at < first else n_layers if is_end else n_layers - last
            n = min(left, until - at)
            copies = n if run.n_copies == run.n_layers else run.n_copies
            yield tower, Run(run.block, n, copies), is_end
            at, left = at + n, left - n


def ends(stage: Stage, *, first: int, last: int) -> Stage:
    """The part of a stage that belongs to the model's ends."""
    runs = tuple(
        (tower, run) for tower, run, is_end in ends_apart(stage, first=first, last=last) if is_end
    )
    return Stage(stage.index, stage.n_stages, runs, runs, stage.split)
