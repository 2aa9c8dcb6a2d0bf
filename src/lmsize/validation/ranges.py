"""Residuals of calibration rows -> the table of ranges that estimates read.

Split conformal prediction for clustered data. Rows of one source, framework, model and method share
their overheads, so they are one cluster, and an estimate that somebody asks for belongs to a
cluster that was never seen. Quantiles weigh a cluster by the square root of its size, and the level
at which they are read is the lowest at which rows of clusters that were left out are covered as often
as promised (for the setting: Dunn, Wasserman and Ramdas 2022, "Distribution-free prediction sets for
two-layer hierarchical models").
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmsize.estimate.ranges import ANY, LEVELS, Spread, chain
from lmsize.validation.result import Answer

LEAST_ROWS = 20
LEAST_CLUSTERS = 8
PROMISED = 0.9
TRIED = np.linspace(0.8, 1.0, 81)  # levels; the last is from the least to the most that was seen
CLUSTER = ("source", "framework", "model", "method")


@dataclass(frozen=True, slots=True)
class Residuals:
    """The residuals of one group.

    Attributes:
        logs: ``log(measured / predicted)``, one a row; `clusters` which cluster each is of.
    """

    logs: np.ndarray[Any, np.dtype[np.float64]]
    clusters: np.ndarray[Any, np.dtype[np.int64]]

    @property
    def weights(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Of each row, so that a cluster weighs the square root of its size."""
        sizes = np.bincount(self.clusters)[self.clusters]
        return np.asarray(1 / np.sqrt(sizes))


def residuals(answers: Sequence[Answer]) -> Residuals:
    """The residuals of some answers."""
    names = [tuple(a.group.get(k, "") for k in CLUSTER) for a in answers]
    index = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return Residuals(
        np.log([a.measured / a.predicted for a in answers]), np.array([index[n] for n in names])
    )


def weighted_quantiles(
    values: np.ndarray[Any, Any], weights: np.ndarray[Any, Any], levels: Sequence[float]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Quantiles of weighted values, interpolated between the middles of their weights."""
    order = np.argsort(values, kind="stable")
    share = np.cumsum(weights[order])
    middles = (share - weights[order] / 2) / share[-1]
    return np.asarray(np.interp(levels, middles, values[order]))


def covered_left_out(group: Residuals, level: float) -> float:
    """The share of rows that lie between the quantiles of all clusters but their own."""
    weights = group.weights
    low = np.empty(len(group.logs))
    high = low.copy()
    for one in np.unique(group.clusters):
        out = group.clusters == one
        if out.all():
            return 1.0  # nothing is left to predict it from
        low[out], high[out] = weighted_quantiles(
            group.logs[~out], weights[~out], ((1 - level) / 2, (1 + level) / 2)
        )
    inside = (group.logs >= low) & (group.logs <= high)
    return float(np.average(inside, weights=weights))


def calibrated_level(group: Residuals) -> float:
    """The level whose quantiles cover the promised share of rows of a cluster never seen."""
    enough = (level for level in TRIED if covered_left_out(group, level) >= PROMISED)
    return float(next(enough, 1.0))


def spread(key: tuple[str, ...], answers: Sequence[Answer]) -> Spread | None:
    """The line of a group; None if it is too small."""
    group = residuals(answers)
    n_clusters = len(np.unique(group.clusters))
    if len(answers) < LEAST_ROWS or n_clusters < LEAST_CLUSTERS:
        return None
    stretch = calibrated_level(group) / PROMISED
    levels = [min(max(0.5 + (level - 0.5) * stretch, 0.0), 1.0) for level in LEVELS]
    wide = weighted_quantiles(group.logs, group.weights, levels)
    engine, quantity, stack, method, stratum = key
    return Spread(engine, quantity, stack, method, stratum, len(answers), n_clusters, tuple(wide))


def fitted(
    answers: Iterable[Answer], *, engine: str, stratum: Callable[[Answer], str]
) -> list[Spread]:
    """The table for an engine: every group that is large enough, and the wider ones."""
    groups: Mapping[tuple[str, ...], list[Answer]] = defaultdict(list)
    for answer in answers:
        if answer.right is not None or answer.predicted <= 0 or answer.measured <= 0:
            continue
        # A framework that is only near to a stack says nothing of that stack's own spread.
        stack = ANY if answer.is_near else answer.group.get("stack", ANY)
        kind = (stack, answer.group.get("method", ANY), stratum(answer))
        for key in dict.fromkeys(chain(engine, answer.quantity, *kind)):
            groups[key].append(answer)
    lines = (spread(key, members) for key, members in sorted(groups.items()))
    return [line for line in lines if line is not None]
