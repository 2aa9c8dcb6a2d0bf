"""Parameter counts of transformers' own classes at odd sizes (tools/golden_parameters.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lmsize.model.count import held_parameters, n_params
from lmsize.model.parts import Linear
from lmsize.model.read import read_config

FILES = sorted((Path(__file__).parent / "parameters").glob("*.jsonl"))
CASES = [
    pytest.param(json.loads(line), id=f"{file.stem}-{n}-{json.loads(line)['class']}")
    for file in FILES
    for n, line in enumerate(file.read_text().splitlines())
]


def all_linear_width(config: dict[str, Any]) -> int:
    return sum(
        (part.n_in + part.n_out) * part.n_modules * run.n_copies
        for _, run in read_config(config, name="case").runs()
        for part in run.block.parts
        if isinstance(part, Linear) and part.adaptable
    )


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("form", ["given", "written"])
def test_counts_equal_transformers(case: dict[str, Any], form: str) -> None:
    """The sparse config (class defaults fill in) and the full one give the class's own counts."""
    spec = read_config(case[form], name="case")
    assert n_params(spec) == case["n_params"]
    trainable = sum(h.n_params for h in held_parameters(spec) if h.parameter.trainable)
    assert trainable == case["n_trainable"]


@pytest.mark.parametrize("case", CASES)
def test_all_linear_finds_the_modules_that_peft_adapts(case: dict[str, Any]) -> None:
    assert all_linear_width(case["written"]) == case["all_linear_width"]
