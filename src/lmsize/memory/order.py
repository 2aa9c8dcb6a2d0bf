"""The layers of a stage in order of execution, those apart that make or last read what others share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from lmsize.model.parts import Embedding
from lmsize.model.spec import Block, ModelSpec, Run, Tower
from lmsize.stacks import habits
from lmsize.stacks.setting import Origin, Style


class Step(NamedTuple):
    """Layers of a tower that are programs alike.

    Attributes:
        is_end: whether they are one of the model's ends.
        is_last: whether it is the last layer that reads what layers share, which is undone first.
        weights: whose they are, where layers share them.
    """

    tower: Tower
    run: Run
    is_end: bool
    is_last: bool = False
    weights: Origin = ""


def in_order(
    runs: Iterable[tuple[Tower, Run, bool]], model: ModelSpec, style: Style
) -> Iterator[Step]:  # fmt: skip
    """The runs whose blocks are programs: a tower's tables are one, whoever owns the first.

    An encoder without a last norm hands over its last layer's output, which a block of its own holds.
    Of layers that share what gets a gradient, the last, which makes its first part, is apart.
    """
    for tower, of_tower in groupby((one for one in runs if one[0].stream != "idle"), itemgetter(0)):
        tables: list[Run] = []
        rest: list[tuple[Run, bool]] = []
        for _, run, is_end in of_tower:
            if run.block.role == "embedding":
                tables.append(run)
            elif run.learns:
                rest.append((run, is_end))
        if tables:
            parts = tuple(part for run in tables for part in run.block.parts)
            yield Step(
                tower, replace(tables[-1], block=replace(tables[0].block, parts=parts)), True
            )
        shares = _shares(model, tower, style) and _is_whole(tower, rest)
        of_layers = [at for at, (run, _) in enumerate(rest) if run.block.role == "layer"]
        for at, (run, is_end) in enumerate(rest):
            has_last = shares and at == of_layers[-1]
            yield from _apart(Step(tower, run, is_end, has_last))
        is_encoder = model.is_encoder_decoder and tower.stream == "input"
        if is_encoder and tower.runs[-1].block.role == "layer" and _is_whole(tower, rest):
            yield Step(tower, Run(Block("output", (), role="head")), True)


def _apart(step: Step) -> Iterator[Step]:
    """The first layer that makes what the others read, those in between, and the last."""
    n_layers = step.run.n_layers
    is_shared = 0 < step.run.n_copies < n_layers
    n_first, n_last = int(is_shared), int(step.is_last or is_shared)
    parts: tuple[tuple[int, bool, Origin], ...] = (
        (n_first, False, "made"), (n_layers - n_first - n_last, False, "read"),
        (n_last, True, "read"),
    )  # fmt: skip
    for n, is_last, weights in parts:
        if n:
            run = replace(step.run, n_layers=n)
            yield step._replace(run=run, is_last=is_last, weights=weights if is_shared else "")


def _is_whole(tower: Tower, rest: Iterable[tuple[Run, bool]]) -> bool:
    """Whether all layers of a tower are there, none on another stage."""
    here, every = (
        sum(run.n_layers for run in runs if run.block.role == "layer")
        for runs in ((run for run, _ in rest), tower.runs)
    )
    return here == every > 0


def _shares(model: ModelSpec, tower: Tower, style: Style) -> bool:
    """Whether the layers of a tower read what gets gradients from all of them."""
    is_decoder = model.is_encoder_decoder and tower.stream == "labels"
    shares = style.own(model.conduct.model_type).shares
    return is_decoder or shares or _has_position_bias(model, style)


def _has_position_bias(model: ModelSpec, style: Style) -> bool:
    return style.has_position_bias and model.conduct.model_type in habits.POSITION_BIAS


def origin_of_bias(model: ModelSpec, tower: Tower, block: Block, style: Style) -> Origin:
    """Who makes the bias of relative positions that a layer reads: whoever has a table of them."""
    if not _has_position_bias(model, style):
        return ""
    if not _has_table(block):
        return "read"
    layers = [run for run in tower.runs if run.block.role == "layer"]
    return "own" if all(_has_table(run.block) for run in layers) else "made"


def _has_table(block: Block) -> bool:
    return any(isinstance(part, Embedding) for part in block.parts)
