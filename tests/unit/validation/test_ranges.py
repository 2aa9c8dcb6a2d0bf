"""Conformal ranges: what they promise, on data made to have it."""

from __future__ import annotations

import numpy as np
import pytest

from lmsize.estimate.ranges import LEVELS
from lmsize.validation.ranges import (
    LEAST_CLUSTERS,
    LEAST_ROWS,
    calibrated_level,
    covered_left_out,
    fitted,
    residuals,
    spread,
    weighted_quantiles,
)
from lmsize.validation.result import Answer

KEY = ("analytic", "memory", "transformers", "full", "*")


def answers(ratios: list[list[float]], *, stack: str = "transformers") -> list[Answer]:
    """Answers whose measured values are `ratios` of the predicted, a list a cluster."""
    return [
        Answer(f"{c}-{i}", "memory", 100 * ratio, 100,
               group={"source": str(c), "stack": stack, "method": "full", "split": "calibration"})
        for c, cluster in enumerate(ratios) for i, ratio in enumerate(cluster)
    ]  # fmt: skip


def drawn(
    seed: int, n_clusters: int, n_rows: int, *, between: float, within: float
) -> list[Answer]:
    rng = np.random.default_rng(seed)
    centres = rng.normal(0.1, between, n_clusters)
    return answers([list(np.exp(c + rng.normal(0, within, n_rows))) for c in centres])


def test_quantiles_of_equal_weights_are_the_usual_ones() -> None:
    values = np.arange(101.0)
    found = weighted_quantiles(values, np.ones(101), (0.0, 0.5, 1.0))
    assert found == pytest.approx([0, 50, 100])


def test_a_cluster_weighs_the_root_of_its_size() -> None:
    found = residuals(answers([[1.0] * 4, [2.0]]))
    assert found.weights == pytest.approx([0.5, 0.5, 0.5, 0.5, 1.0])


def test_groups_that_are_too_small_have_no_line() -> None:
    assert spread(KEY, answers([[1.0] * LEAST_ROWS])) is None
    assert spread(KEY, answers([[1.0]] * (LEAST_ROWS - 1))) is None
    assert spread(KEY, answers([[1.0, 1.1, 1.2]] * LEAST_CLUSTERS)) is not None


def test_clusters_apart_take_a_higher_level_than_clusters_alike() -> None:
    apart = residuals(drawn(1, 12, 30, between=0.5, within=0.02))
    alike = residuals(drawn(1, 12, 30, between=0.0, within=0.2))
    assert calibrated_level(alike) == pytest.approx(0.9, abs=0.03)
    assert calibrated_level(apart) > calibrated_level(alike)
    assert covered_left_out(apart, 0.9) < 0.9


def test_clusters_never_seen_are_covered_as_promised() -> None:
    """The share of new clusters' rows in the range, over many draws."""
    inside = []
    for seed in range(40):
        line = spread(KEY, drawn(seed, 25, 8, between=0.3, within=0.1))
        assert line is not None
        low, high = line.ends(100)
        inside += [low <= a.measured <= high
                   for a in drawn(1000 + seed, 25, 8, between=0.3, within=0.1)]  # fmt: skip
    assert 0.85 <= float(np.mean(inside)) <= 0.96


def test_every_group_gets_its_line_and_the_wider_ones() -> None:
    rng = np.random.default_rng(3)
    rows = [
        a for stack in ("megatron", "deepspeed")
        for a in answers([list(np.exp(rng.normal(0, 0.1, 3))) for _ in range(10)], stack=stack)
    ]  # fmt: skip
    lines = {s.key: s for s in fitted(rows, engine="analytic", stratum=lambda _: "*")}
    assert {k[2] for k in lines} == {"megatron", "deepspeed", "*"}
    for line in lines.values():
        assert len(line.log_ratios) == len(LEVELS)
        assert list(line.log_ratios) == sorted(line.log_ratios)


def test_verdicts_and_zeros_have_no_residual() -> None:
    odd = [Answer("x", "fits", 1.0, 0.5, right=True), Answer("y", "memory", 1.0, 0.0)]
    assert fitted(odd * 30, engine="analytic", stratum=lambda _: "*") == []
