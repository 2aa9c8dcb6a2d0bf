"""Every figure of the article, by the command that reproduces it (within its own rounding)."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest

from lmsize.cli import cli


def run(command: str, capsys: pytest.CaptureFixture[str]) -> Any:
    cli.main([*shlex.split(command), "--json"], standalone_mode=False, prog_name="lmsize")
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--precision fp32", 4e9),
        ("--precision fp16", 2e9),
        ("--quant int8", 1e9),
        ("--quant int4", 0.5e9),
    ],
)
def test_precision_table(options: str, expected: float, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(f"infer --engine rules --params 1B {options}", capsys)
    assert found["memory"]["components"]["weights"] == expected


def test_bert_parameters_and_states(capsys: pytest.CaptureFixture[str]) -> None:
    parts = run("train --engine rules --params 110M --precision fp32", capsys)["memory"][
        "components"
    ]
    assert (parts["weights"], parts["optimizer_states"], parts["gradients"]) == (
        440e6,
        880e6,
        440e6,
    )


def test_bert_time_and_count(capsys: pytest.CaptureFixture[str]) -> None:
    found = run(
        "train --engine rules --params 110M --precision fp32 --flops-per-sequence 3.3e12 --micro-batch 32 "
        "--peak-flops 312e12 --efficiency 0.8 --steps 1M --deadline 7d",
        capsys,
    )
    assert found["compute"]["model_flops_per_step"] == pytest.approx(1.056e14)
    assert found["time"]["step_s"] == pytest.approx(0.42, rel=0.01)
    assert found["time"]["total_s"] == pytest.approx(420_000, rel=0.01)
    assert found["time"]["accelerator_hours"] == pytest.approx(117, rel=0.01)
    assert found["accelerators"]["needed_for_deadline"] == 1
    fraction = next(t for t in found["time"]["trees"] if "deadline" in t["label"])
    assert fraction["value"] == pytest.approx(0.7, rel=0.01)


def test_example_1(capsys: pytest.CaptureFixture[str]) -> None:
    rows = run(
        "compare --engine rules --params 1e9 --precision fp16 --quant int8 --adapter-fraction 0.02",
        capsys,
    )["rows"]
    cells = ("weights", "gradients", "optimizer_states", "adapter_weights", "activations")
    expected = [
        ((2e9, 2e9, 8e9, None, None), 12e9),
        ((2e9, 0.04e9, 0.16e9, 0.04e9, None), 2.24e9),
        ((1e9, 0.04e9, 0.16e9, 0.04e9, None), 1.24e9),
    ]
    for row, (parts, whole) in zip(rows, expected, strict=True):
        assert tuple(row["memory"]["components"][cell] for cell in cells) == parts
        memory = row["memory"]
        assert (
            memory["peak_allocated_bytes"] == memory["low_bytes"] == memory["high_bytes"] == whole
        )


def test_example_2(capsys: pytest.CaptureFixture[str]) -> None:
    rows = run(
        "compare --engine rules --params 13e9 --by precision --leave-out gradients "
        "--activation-bytes 25e9..40e9",
        capsys,
    )["rows"]
    expected = [
        (52e9, 104e9, 80e9, 206e9, 236e9),
        (26e9, 52e9, 40e9, 103e9, 118e9),
        (13e9, None, 40e9, 38e9, 53e9),
    ]
    for row, (weights, states, activations, low, high) in zip(rows, expected, strict=True):
        memory = row["memory"]
        parts = memory["components"]
        assert parts["weights"] == weights
        assert parts.get("optimizer_states") == states
        assert parts.get("gradients") is None
        assert parts["activations"] == activations
        assert (memory["low_bytes"], memory["high_bytes"]) == (low, high)
        assert memory["peak_allocated_bytes"] == high
    factors = [row["memory"]["reduction_factor"] for row in rows]
    assert factors == pytest.approx([1, 2, 236 / 53])
    assert 3.88 < 206 / 53 < factors[2] < 206 / 38 < 5.43


@pytest.mark.parametrize(
    ("command", "low", "high"),
    [
        (
            "train --engine rules --params 13e9 --precision fp32 --leave-out gradients --activation-bytes 50e9..80e9",
            206e9,
            236e9,
        ),
        (
            "train --engine rules --params 13e9 --precision fp16 --state-precision fp16 --leave-out gradients --activation-bytes 25e9..40e9",
            103e9,
            118e9,
        ),
        (
            "infer --engine rules --params 13e9 --quant int8 --activation-bytes 25e9..40e9",
            38e9,
            53e9,
        ),
    ],
)
def test_example_2_column_by_column(
    command: str, low: float, high: float, capsys: pytest.CaptureFixture[str]
) -> None:
    memory = run(command, capsys)["memory"]
    assert (memory["low_bytes"], memory["high_bytes"]) == (low, high)
