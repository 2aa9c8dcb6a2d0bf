"""Small models whose layers have programs of their own, against traces of the real code.

The traced peaks are those of transformers 5.23 and torch 2.13 on fake tensors (``traced_peaks`` of
``benchmarks/tape_vs_trace.py``), so that no torch is needed here.
"""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from lmsize.catalogue import built_in
from lmsize.estimate.question import training_question
from lmsize.memory.training import training_peak
from lmsize.model.read import read_config
from lmsize.workload.training import TrainSpec

TRACED = Path(__file__).with_name("traced_small.jsonl")
CASES = [json.loads(line) for line in TRACED.read_text("utf-8").splitlines()]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_the_peak_is_the_traced_one(case: dict[str, Any]) -> None:
    question = training_question(
        read_config(case["config"], name=case["id"]), TrainSpec(**case["options"]), built_in(),
        accelerator=None, today=date(2026, 1, 1),
    )  # fmt: skip
    assert not question.setup.blocks_by_parts
    peak = float(training_peak(question.setup).value or 0)
    assert peak == pytest.approx(max(case["peaks"].values()), rel=0.01)
