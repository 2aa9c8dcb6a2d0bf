"""The range and the probability of an estimate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lmsize
from lmsize.estimate.ranges import (
    ANY,
    EXTREMES,
    LEVELS,
    Spread,
    chain,
    fit_probability,
    spread_for,
    spreads,
)

SPREAD = Spread("analytic", "memory", "s", "m", ANY, 50, 10, tuple((u - 0.5) for u in LEVELS))


def test_the_estimate_is_always_in_its_range() -> None:
    for line in spreads().values():
        low, high = line.ends(100.0)
        assert 0 < low <= 100.0 <= high


@given(st.floats(1, 1e15), st.floats(1, 1e15))
def test_probabilities_never_reach_certainty_and_grow_with_capacity(a: float, b: float) -> None:
    small, large = sorted((a, b))
    low, high = (SPREAD.probability_below(c, 1e9) for c in (small, large))
    assert EXTREMES[0] <= low <= high <= EXTREMES[1]


def test_probabilities_are_those_of_the_quantiles() -> None:
    for level in LEVELS:
        assert SPREAD.probability_below(1e9 * SPREAD.ratio(level), 1e9) == pytest.approx(level)


def test_a_group_gives_way_to_wider_ones_and_strata_last() -> None:
    keys = list(chain("analytic", "time", "megatron", "full", "token"))
    assert keys[0][2:] == ("megatron", "full", "token")
    assert keys[-1][2:] == (ANY, ANY, ANY)
    assert len(set(keys)) == 6
    assert len(set(chain("analytic", "memory", "megatron", "full", ANY))) == 3


def test_a_stack_never_measured_takes_the_pooled_range() -> None:
    pooled = spread_for("analytic", "memory", "never-heard-of", "full")
    assert pooled is not None
    assert pooled.stack == ANY
    assert spread_for("no-engine", "memory", "transformers", "full") is None


def test_every_estimate_says_how_far_off_it_may_be() -> None:
    found = lmsize.train("llama-3.1-8b", accelerator="h100", precision="bf16")
    memory, time = found.memory, found.time
    assert memory.low_bytes < memory.peak_device_bytes < memory.high_bytes  # type: ignore[operator]
    assert time.low_s < time.step_s < time.high_s  # type: ignore[operator]
    assert found.verdict.probability == fit_probability(found, memory.capacity_bytes)
    codes = {a.code for a in found.assumptions}
    assert codes & {"range-measured", "range-pooled"}


def test_a_given_utilisation_is_the_users_own_and_gets_no_range() -> None:
    found = lmsize.train("gpt2", accelerator="h100", mfu=0.4)
    assert found.time.low_s is None
    assert found.time.high_s is None


def test_the_more_room_the_likelier() -> None:
    chances = [
        lmsize.train("llama-3.1-8b", accelerator=g, precision="bf16").verdict.probability
        for g in ("rtx-4090", "a100-80gb", "h200", "b300")
    ]
    assert None not in chances
    assert chances == sorted(chances)  # type: ignore[type-var]


def test_rules_of_thumb_have_no_measured_range() -> None:
    found = lmsize.train(engine="rules", params="7e9", precision="fp16", accelerator="a100-80gb")
    assert found.verdict.probability is None
