"""The shipped schemas are schemas, and strict ones."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

import lmsize
from lmsize.report.schema import comparison_schema, estimate_schema

VALID = Draft202012Validator(estimate_schema())
GOOD: dict[str, Any] = json.loads(
    json.dumps(lmsize.train("gpt2", accelerator="h100", tokens="1M").as_dict())
)
OBJECTS = [
    "parameters", "memory", "compute", "time", "accelerators", "cost", "limits", "serving", "verdict",
]  # fmt: skip


@pytest.mark.parametrize("schema", [estimate_schema(), comparison_schema()])
def test_they_are_schemas(schema: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_a_comparison_is_rows_of_estimates() -> None:
    rows = Draft202012Validator(comparison_schema())
    assert rows.is_valid({"rows": [GOOD, GOOD]})
    assert not rows.is_valid({"rows": [GOOD, GOOD | {"engine": "guess"}]})
    assert not rows.is_valid({"rows": GOOD})
    assert not rows.is_valid({})


@pytest.mark.parametrize(
    "name", [*GOOD, *(f"{o}.{f}" for o in OBJECTS for f in GOOD[o] if f != "trees")]
)
def test_everything_is_always_there(name: str) -> None:
    document = copy.deepcopy(GOOD)
    *path, last = name.split(".")
    del (document[path[0]] if path else document)[last]
    assert not VALID.is_valid(document)


@pytest.mark.parametrize("name", OBJECTS)
def test_nothing_else_is_there(name: str) -> None:
    assert VALID.is_valid(GOOD)
    assert not VALID.is_valid(GOOD | {name: GOOD[name] | {"other": 1}})
    assert not VALID.is_valid(GOOD | {name: None})
    assert not VALID.is_valid(GOOD | {"other": 1})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("parameters.total", 1.5), ("parameters.total", "7B"), ("parameters.total", -1),
        ("memory.peak_allocated_bytes", 0.5), ("memory.components", {"weights": 1.5}),
        ("memory.components", {"Weights": 1}), ("memory.tree", 3), ("accelerators.count", 0),
        ("accelerators.needed_for_deadline", 1.5), ("limits.max_micro_batch", 0),
        ("cost.usd_as_of", "today"), ("verdict.probability", 1.1), ("verdict.sentence", ""),
        ("inputs.tp", {}), ("inputs.Tp", 1),
    ],
)  # fmt: skip
def test_values_that_are_none(path: str, value: object) -> None:
    part, key = path.split(".")
    assert not VALID.is_valid(GOOD | {part: GOOD[part] | {key: value}})


@pytest.mark.parametrize(
    "change",
    [
        {"combine": "product"}, {"children": [{}]}, {"unit": ""}, {"value": "1"}, {"other": 1},
        {"combine": "leaf"}, {"formula": "x = 1"}, {"inputs": {"n": 1}}, {"value": None},
    ],
)  # fmt: skip
def test_a_node_that_is_none_is_found_at_any_depth(change: dict[str, Any]) -> None:
    document = copy.deepcopy(GOOD)
    moment = document["memory"]["tree"]["children"][0]
    moment |= change
    assert not VALID.is_valid(document)
