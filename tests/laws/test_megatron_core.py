"""Megatron core's own layers, dispatchers and recomputation, traced on fake tensors, beside the tape."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from megatron_cases import CASES, Case, taped_bytes
from megatron_core import recorded

TRACED = dict(recorded())


def test_every_case_is_traced() -> None:
    assert set(TRACED) == set(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(map(str, case)))
def test_a_rank_holds_what_its_trace_does(case: Case) -> None:
    # Layers of two kinds that run again together are taken apart.
    allowed = 0.015 if case == Case("latent", "whole", "full 2") else 0.007
    assert taped_bytes(case) == pytest.approx(TRACED[case], rel=allowed)
