"""Figures of sets of answers."""

from __future__ import annotations

import pytest

from lmsize.validation.metrics import by_quantity, grouped, metrics
from lmsize.validation.result import Answer


def answer(measured: float, predicted: float, **more: object) -> Answer:
    return Answer("x", str(more.pop("quantity", "memory")), measured, predicted, **more)  # type: ignore[arg-type]


def test_errors_are_predicted_over_measured_less_one() -> None:
    found = metrics([answer(100, 110), answer(100, 80), answer(100, 100)])
    assert found.n == 3
    assert found.median_abs == pytest.approx(0.1)
    assert found.mean_abs == pytest.approx(0.1)
    assert found.bias == pytest.approx(-0.1 / 3)
    assert found.p90_abs == pytest.approx(0.18)
    assert found.coverage90 is None


def test_coverage_counts_measured_values_in_the_range() -> None:
    found = metrics([answer(100, 90, low=80, high=120), answer(130, 90, low=80, high=120)])
    assert found.coverage90 == 0.5
    assert found.width90 == pytest.approx(40 / 90)


def test_verdicts_are_right_or_wrong_and_have_no_error() -> None:
    found = metrics([answer(1, 0.9, right=True), answer(0, 0.7, right=False)])
    assert found.right == 0.5
    assert found.median_abs is None


def test_memory_and_time_are_always_there() -> None:
    assert by_quantity([])["memory"].n == by_quantity([])["time"].n == 0
    assert list(by_quantity([answer(1, 1, quantity="latency")])) == ["memory", "time", "latency"]


def test_groups_come_largest_first() -> None:
    answers = [answer(1, 1, group={"k": k}) for k in "abbb"]
    assert list(grouped(answers, lambda a: a.group["k"])) == ["b", "a"]
