"""``lmsize calibrate`` as people run it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[[str | list[str]], Any]
Refused = Callable[[str | list[str]], str]
HEADER = "model,seq_len,gpu,framework,precision,measured_peak_gib"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "mine.csv"
    lines = (f"gpt2,{n},a100-80gb,transformers,fp32,{9 + n / 100}" for n in (128, 256, 512, 1024))
    file.write_text("\n".join((HEADER, *lines)))
    return file


def test_what_helped_is_kept_and_mentioned(rows: Path, run: Run, no_calibration: Path) -> None:
    said = run(["calibrate", str(rows)])
    assert said.code == 0
    assert "kept" in said.out
    assert str(no_calibration) in said.out.replace("\n", "")
    asked = "train gpt2 -g a100-80gb --precision fp32 --json"
    codes = {a["code"] for a in json.loads(run(asked).out)["assumptions"]}
    assert "calibrated" in codes
    plain = json.loads(run(f"{asked} --calibration none").out)
    assert "calibrated" not in {a["code"] for a in plain["assumptions"]}


def test_as_json_and_without_writing(rows: Path, run: Run, no_calibration: Path) -> None:
    said = run(["calibrate", str(rows), "--dry-run", "--json"])
    found = json.loads(said.out)
    assert found["file"] is None
    assert found["corrections"][0]["n_rows"] == 4
    assert not no_calibration.exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [([], "ROWS"), (["nothing.csv"], "nothing.csv"), (["."], "folder")],
)
def test_bad_input(arguments: list[str], named: str, refused: Refused) -> None:
    assert named in refused(["calibrate", *arguments])


def test_a_place_that_cannot_be_written(rows: Path, refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "x.json"
    assert "cannot be written" in refused(["calibrate", str(rows), "--out", str(out)])
