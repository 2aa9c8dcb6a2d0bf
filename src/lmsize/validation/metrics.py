"""How far off: the figures of a set of answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lmsize.validation.result import QUANTITIES, Answer


@dataclass(frozen=True, slots=True)
class Metrics:
    """Errors of a set of answers, as fractions; None where there is nothing to say.

    Attributes:
        bias: the mean of the signed errors.
        coverage90: the share of measured values inside their 90 % range.
        width90: the median of the range's width over the estimate (sharpness).
        right: for verdicts: the share that was right.
    """

    n: int
    median_abs: float | None = None
    mean_abs: float | None = None
    p90_abs: float | None = None
    bias: float | None = None
    coverage90: float | None = None
    width90: float | None = None
    right: float | None = None


def metrics(answers: Sequence[Answer]) -> Metrics:
    """The figures of some answers of one quantity."""
    errors = np.array([e for a in answers if (e := a.relative_error) is not None])
    covered = [c for a in answers if (c := a.is_covered) is not None]
    widths = [
        (a.high - a.low) / a.predicted
        for a in answers
        if a.low is not None and a.high is not None and a.predicted > 0
    ]
    verdicts = [a.right for a in answers if a.right is not None]
    sizes = np.abs(errors)
    return Metrics(
        n=len(answers),
        median_abs=float(np.median(sizes)) if sizes.size else None,
        mean_abs=float(sizes.mean()) if sizes.size else None,
        p90_abs=float(np.quantile(sizes, 0.9)) if sizes.size else None,
        bias=float(errors.mean()) if errors.size else None,
        coverage90=float(np.mean(covered)) if covered else None,
        width90=float(np.median(widths)) if widths else None,
        right=float(np.mean(verdicts)) if verdicts else None,
    )


def by_quantity(answers: Iterable[Answer]) -> dict[str, Metrics]:
    """The figures of each quantity; memory and time are always there."""
    groups: dict[str, list[Answer]] = {"memory": [], "time": []}
    for answer in answers:
        groups.setdefault(answer.quantity, []).append(answer)
    return {q: metrics(groups[q]) for q in QUANTITIES if q in groups}


def grouped(answers: Iterable[Answer], key: Callable[[Answer], str]) -> dict[str, list[Answer]]:
    """Answers by a key, the largest group first."""
    found: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        found[key(answer)].append(answer)
    return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0])))
