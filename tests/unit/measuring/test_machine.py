"""What an accelerator's counters and its driver's tool say, with stand-ins for both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lmsize.measuring import machine, meters, parallel
from lmsize.measuring.case import Case
from lmsize.measuring.rows import rows_of
from lmsize.measuring.running import _worst, measured
from lmsize.step.training import built_step

SMI = """#!/bin/sh
case "$1" in
  *memory.used*) echo 1024 ;;
  *driver_version*) echo "570.86, 1980, 2619, 312.5, 700.00, [N/A]" ;;
  *) echo unknown field >&2; exit 2 ;;
esac
"""


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(SMI)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")


@pytest.mark.usefixtures("smi")
def test_the_drivers_tool_is_read() -> None:
    assert machine.device_used_bytes() == 2**30
    assert machine.clocks() == {
        "driver": "570.86", "clock_sm_mhz": "1980", "clock_memory_mhz": "2619",
        "power_w": "312.5", "power_limit_w": "700.00",
    }  # fmt: skip
    assert machine.nvidia_smi(["no.such.field"]) is None


def test_without_the_tool_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert machine.device_used_bytes() is None
    assert machine.clocks() == {}


@pytest.mark.parametrize(
    ("visible", "local", "expected"),
    [("", "", "0"), ("", "3", "3"), ("4,6", "1", "6"), ("4", "1", "1"), ("GPU-ab", "0", "GPU-ab")],
)
def test_the_device_of_a_rank(
    monkeypatch: pytest.MonkeyPatch, visible: str, local: str, expected: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setenv("LOCAL_RANK", local)
    assert machine._device_id() == expected


def test_counters_of_an_accelerator(monkeypatch: pytest.MonkeyPatch, case: Case) -> None:
    """The step runs on the CPU; the counters are reset after the warm-up and read at the end."""
    seen: list[str] = []
    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda name=name: seen.append(name))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 5)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 7)
    monkeypatch.setattr(meters, "device_used_bytes", lambda: 100)
    reading = meters.cuda_reading(
        lambda: built_step(case.config, case.spec), n_warmup=2, n_steps=2, tell=seen.append,
        used_before=60,
    )  # fmt: skip
    assert seen == [
        "warm-up 1/2", "warm-up 2/2", "synchronize", "reset_peak_memory_stats", "timed step 1/2",
        "synchronize", "timed step 2/2", "synchronize",
    ]  # fmt: skip
    peaks = {peak.kind: peak.n_bytes for peak in reading.peaks}
    assert peaks == {"allocated": 5, "reserved": 7, "driver": 40}
    assert len(reading.step_s) == 2


def test_the_worst_rank_counts() -> None:
    a = (meters.Peak("allocated", 3, "max allocated (x)"), meters.Peak("driver", 9, "driver (y)"))
    b = (meters.Peak("allocated", 4, "max allocated (x)"), meters.Peak("driver", 8, "driver (y)"))
    worst = _worst([(a, ()), (b, ())])
    assert [(peak.n_bytes, peak.definition) for peak in worst] == [
        (4, "max allocated (x, largest of 2 ranks)"), (9, "driver (y, largest of 2 ranks)"),
    ]  # fmt: skip


def test_strange_surroundings_are_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "many")
    assert (parallel.world_size(), parallel.rank(), parallel.local_rank()) == (1, 0, 0)


def test_progress_is_told(tiny_case: Callable[..., Case]) -> None:
    seen: list[str] = []
    case = tiny_case(warmup=1, steps=1)
    found = measured(case, tell=seen.append)
    assert seen == ["building tiny on cpu", "warm-up 1/1", "the step that counts", "timed step 1/1"]
    assert rows_of(case, found)[0]["outcome"] == "fits"
