"""The first and last layers of a model, where they are treated apart from the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby

from lmsize.layout.shares import Stage
from lmsize.model.spec import Run, Tower


def ends_apart(
    stage: Stage, *, first: int, last: int, vp: int = 1
) -> Iterator[tuple[Tower, Run, bool]]:
    """Every run of a stage, cut where the ends stop, and whether it is one of them.

    Args:
        first, last: how many of the model's layers make up each end, on whichever stage they are.
        vp: parts of a stage, which take turns with those of the others.
    """
    n_layers = sum(stage.counts) or stage.n_layers
    of_end = iter([at < first or at >= n_layers - last for at in stage.positions(vp)])
    for tower, run in stage.ordered:
        if run.block.role != "layer" or tower.stream == "idle":
            yield tower, run, False
            continue
        mine = [next(of_end) for _ in range(run.n_layers)]
        for is_end, alike in groupby(mine):
            n = len(list(alike))
            copies = n if run.n_copies == run.n_layers else run.n_copies
            yield tower, replace(run, n_layers=n, n_copies=copies), is_end


def ends(stage: Stage, *, first: int, last: int, vp: int = 1) -> Stage:
    """The part of a stage that belongs to the model's ends."""
    runs = tuple(
        (tower, run)
        for tower, run, is_end in ends_apart(stage, first=first, last=last, vp=vp)
        if is_end
    )
    return Stage(stage.index, stage.n_stages, runs, runs, stage.split)
