"""A user's rows as corrections: what helps is kept, and estimates apply and name it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import lmsize
from lmsize.errors import LmsizeError

HEADER = "id,model,seq_len,micro_batch,gpu,framework,precision,measured_peak_gib,metric_definition,measured_step_time_s"
LENGTHS = (256, 512, 1024, 768)


def rows(tmp_path: Path, memory: list[float], time: list[float], *, gpu: str = "a100-80gb") -> Path:
    """Rows that measured these multiples of what is predicted."""
    lines = [HEADER]
    for i, (m, t, length) in enumerate(zip(memory, time, LENGTHS, strict=True)):
        found = lmsize.train(
            "gpt2", accelerator=gpu, precision="fp32", seq_len=length, calibration=False
        )
        gib = (found.memory.peak_device_bytes or 0) * m / 2**30
        lines.append(
            f"r{i},gpt2,{length},1,{gpu},transformers,fp32,{gib},nvidia-smi,{(found.time.step_s or 0) * t}"
        )
    file = tmp_path / "mine.csv"
    file.write_text("\n".join(lines))
    return file


def test_corrections_are_medians_and_later_estimates_apply_them(
    tmp_path: Path, no_calibration: Path
) -> None:
    done = lmsize.calibrate(rows(tmp_path, [1.2, 1.2, 1.2, 1.3], [2.0, 2.0, 2.1, 1.9]))
    by_quantity = {one.quantity: (one, kept) for one, kept in done.found}
    memory, kept = by_quantity["memory"]
    assert kept
    assert memory.factor == pytest.approx(1.2, rel=1e-3)
    assert memory.error_after < memory.error_before
    assert done.path == no_calibration
    plain = lmsize.train(
        "gpt2", accelerator="a100-80gb", precision="fp32", seq_len=512, calibration=False
    )
    mine = lmsize.train("gpt2", accelerator="a100-80gb", precision="fp32", seq_len=512)
    assert mine.memory.peak_device_bytes == pytest.approx(
        plain.memory.peak_device_bytes * 1.2, rel=1e-3
    )  # type: ignore[operator]
    assert mine.memory.peak_allocated_bytes == plain.memory.peak_allocated_bytes
    assert mine.time.step_s == pytest.approx(plain.time.step_s * 2.0, rel=1e-3)  # type: ignore[operator]
    assert [a.code for a in mine.assumptions].count("calibrated") == 2
    other = lmsize.train("gpt2", accelerator="h100", precision="fp32", seq_len=512)
    assert "calibrated" not in {a.code for a in other.assumptions}


def test_a_correction_that_would_not_help_is_left_out(tmp_path: Path, no_calibration: Path) -> None:
    done = lmsize.calibrate(rows(tmp_path, [0.5, 2.0, 0.9, 1.1], [1.0, 1.0, 1.0, 1.0]))
    assert not any(kept for _, kept in done.found)
    assert json.loads(no_calibration.read_text())["corrections"] == []


def test_groups_that_rows_do_not_speak_of_stay(tmp_path: Path, no_calibration: Path) -> None:
    lmsize.calibrate(rows(tmp_path, [1.2] * 4, [2.0] * 4))
    lmsize.calibrate(rows(tmp_path, [1.4] * 4, [3.0] * 4, gpu="h100-sxm"))
    kept = json.loads(no_calibration.read_text())["corrections"]
    assert len(kept) == 4
    assert len({one["accelerator"] for one in kept}) == 2


def test_two_rows_say_nothing_and_a_dry_run_writes_nothing(
    tmp_path: Path, no_calibration: Path
) -> None:
    file = rows(tmp_path, [1.2] * 4, [2.0] * 4)
    assert lmsize.calibrate(file, write=False).path is None
    file.write_text("\n".join(file.read_text().splitlines()[:3]))
    assert lmsize.calibrate(file).found == ()
    assert not no_calibration.exists()


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"schema": "other"}', '{"schema": "lmsize/calibration/1", "corrections": [{}]}',
     json.dumps({"schema": "lmsize/calibration/1", "corrections": [{
         "quantity": "memory", "stack": "s", "accelerator": "", "factor": 1e9, "n_rows": 3,
         "error_before": 1, "error_after": 0}]})],
)  # fmt: skip
def test_a_file_that_is_none_is_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    file.write_text(content)
    with pytest.raises(LmsizeError):
        lmsize.train("gpt2", calibration=str(file))


def test_a_named_file_must_be_there_and_the_usual_one_need_not(no_calibration: Path) -> None:
    with pytest.raises(LmsizeError, match="cannot be read"):
        lmsize.train("gpt2", calibration="nothing.json")
    assert not no_calibration.exists()
    lmsize.train("gpt2")


def test_validation_is_of_the_package_not_of_ones_corrections(tmp_path: Path) -> None:
    file = rows(tmp_path, [1.2] * 4, [2.0] * 4)
    before = [a.predicted for a in lmsize.validate(file).answers]
    lmsize.calibrate(file)
    assert [a.predicted for a in lmsize.validate(file).answers] == before
