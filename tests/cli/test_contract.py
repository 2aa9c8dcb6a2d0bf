"""Every model of the catalogue through every question, against the schema and its own sums."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

import lmsize
from lmsize.catalogue import built_in
from lmsize.report.schema import comparison_schema, estimate_schema

MODELS = [row.name for row in built_in().models()]
VALID = jsonschema.Draft202012Validator(estimate_schema())
ROWS = jsonschema.Draft202012Validator(comparison_schema())


TREE = {
    "label": "peak", "value": 1, "unit": "bytes", "combine": "leaf", "formula": None, "source": None,
    "inputs": {}, "children": [],
}  # fmt: skip


def pruned(document: dict[str, Any]) -> dict[str, Any]:
    """The document with its side trees emptied: :func:`check_tree` looks at trees faster."""
    parts = ("compute", "time", "cost", "serving")
    return document | {part: document[part] | {"trees": []} for part in parts}


def check_tree(node: dict[str, Any]) -> None:
    """A parent is computed from its children."""
    assert node.keys() == TREE.keys()
    values = [child["value"] for child in node["children"]]
    if node["combine"] == "sum":
        assert node["value"] == pytest.approx(sum(values), rel=1e-12)
    elif node["combine"] == "max":
        assert node["value"] == max(values)
    else:
        assert not values
    for child in node["children"]:
        check_tree(child)


def check(estimate: lmsize.Estimate) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.dumps(estimate.as_dict(), allow_nan=False))
    memory = document["memory"]
    shallow = {**memory, "tree": TREE}
    VALID.validate(pruned(document | {"memory": shallow}))
    assert sum(v or 0 for v in memory["components"].values()) == memory["peak_allocated_bytes"]
    check_tree(memory["tree"])
    assert memory["moment"] in {child["label"] for child in memory["tree"]["children"]}
    assert (memory["peak_allocated_bytes"] or 0) <= (memory["peak_device_bytes"] or 1 << 80)
    if memory["capacity_bytes"] is not None:
        used = memory["peak_device_bytes"] or memory["peak_allocated_bytes"]
        assert document["verdict"]["fits"] == (used <= memory["capacity_bytes"])
    return document


@pytest.mark.parametrize("name", MODELS)
def test_every_model_trains_by_every_method_and_serves(name: str) -> None:
    rows = lmsize.compare(name, accelerator="a100-80gb", tokens="1M", accelerators=8)
    assert [row.inputs["method"] for row in rows] == ["full", "lora", "qlora"]
    for row in rows:
        document = check(row)
        assert document["parameters"]["total"] > 0
        assert document["time"]["total_s"] > 0
    check(lmsize.infer(name, accelerator="h200", concurrency=4, quant="int4"))


@pytest.mark.parametrize("name", ["llama-3.1-8b", "deepseek-v3", "t5-base", "zamba2-1.2b"])
def test_whole_documents_are_valid_trees_included(name: str) -> None:
    rows = lmsize.compare(name, accelerator="a100-80gb", tokens="1M")
    ROWS.validate({"rows": json.loads(json.dumps([row.as_dict() for row in rows]))})
    VALID.validate(json.loads(json.dumps(lmsize.infer(name, accelerator="h100").as_dict())))


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize(
    "name", ["llama-3.1-8b", "bert-base-uncased", "mixtral-8x7b", "t5-base", "mamba-370m"]
)
def test_the_rules_answer_in_the_same_form(name: str, method: str) -> None:
    document = check(
        lmsize.train(name, engine="rules", method=method, precision="fp16", accelerator="h100")
    )
    assert document["memory"]["components"]["activations"] is None


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
@pytest.mark.parametrize(
    "layout", [{"tp": 2}, {"pp": 3}, {"cp": 2}, {"tp": 2, "pp": 2, "sequence_parallel": True}]
)
def test_layouts_answer_in_the_same_form(layout: dict[str, Any], zero: int) -> None:
    check(lmsize.train("qwen2.5-7b", accelerator="h100", accelerators=24, zero=zero, **layout))


def test_memory_never_falls_with_more_work() -> None:
    for key in ("micro_batch", "seq_len", "lora_rank"):
        peaks = [
            lmsize.train("llama-3.2-1b", method="lora", **{key: n}).memory.peak_allocated_bytes or 0
            for n in (1, 2, 7, 64, 1000)
        ]
        assert peaks == sorted(peaks)


def test_limits_are_the_largest_that_fit() -> None:
    found = lmsize.train("llama-3.2-1b", accelerator="rtx-4090", method="lora").limits
    assert found.max_micro_batch is not None
    for n, fits in ((found.max_micro_batch, True), (found.max_micro_batch + 1, False)):
        again = lmsize.train("llama-3.2-1b", accelerator="rtx-4090", method="lora", micro_batch=n)
        assert again.verdict.fits is fits


def test_the_deadline_is_met_by_the_count_and_not_by_less() -> None:
    found = lmsize.train("llama-3.1-8b", accelerator="h100", tokens="1T", deadline="30d")
    needed, hours = found.accelerators.needed_for_deadline, found.time.accelerator_hours
    assert needed is not None
    assert hours is not None
    assert hours / needed <= 720 < hours / (needed - 1)


def test_a_stale_price_is_a_warning() -> None:
    from datetime import date

    codes = {
        day: {
            w.code
            for w in lmsize.train("gpt2", accelerator="a100-80gb", steps=1, today=day).warnings
        }
        for day in (date(2026, 9, 20), date(2027, 9, 20))
    }
    assert [("stale-price" in codes[day]) for day in sorted(codes)] == [False, True]
