"""``lmsize validate`` as people run it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[[str | list[str]], Any]
Refused = Callable[[str | list[str]], str]

ROWS = """id,model,seq_len,micro_batch,gpu,framework,precision,measured_peak_gib,measured_step_time_s
a,gpt2,512,4,A100-80GB,transformers,fp32,4,0.1
b,=cmd|'/c calc'!A0,512,4,A100-80GB,transformers,fp32,4,0.1
c,llama-3.2-1b,2048,1,RTX 99999,axolotl,bf16,12,
"""


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows with spaces.csv"
    file.write_text(ROWS)
    return file


def test_own_rows_as_a_table(rows: Path, run: Run) -> None:
    said = run(f"validate --data {shlex.quote(str(rows))}")
    assert said.code == 0
    assert "3 rows" in said.out
    assert "2 modelled" in said.out
    assert "skipped: 1" in said.out
    assert said.err == ""


def test_own_rows_as_json(rows: Path, run: Run) -> None:
    said = run(["validate", "--data", str(rows), "--json"])
    found = json.loads(said.out)
    assert said.code == 0
    assert found["n"] == 3
    assert [s["id"] for s in found["skipped"]] == ["b"]
    assert {r["id"] for r in found["rows"]} == {"a", "c"}
    assert found["metrics"]["memory"]["n"] == 2
    assert found["by_source"]["(no source)"]["time"]["n"] == 1


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_picture(ending: str, rows: Path, run: Run, tmp_path: Path) -> None:
    picture = tmp_path / f"errors.{ending}"
    said = run(["validate", "--data", str(rows), "--plot", str(picture)])
    assert said.code == 0
    start = picture.read_bytes()[:200]
    assert start.startswith(b"\x89PNG") if ending == "png" else b"<?xml" in start


def test_several_files_and_the_packages_own(rows: Path, run: Run) -> None:
    said = run(["validate", "--data", str(rows), "--data", "fits", "--json"])
    assert said.code == 0
    assert json.loads(said.out)["n"] == 3 + 55


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--data", "nothing.csv"], "nothing.csv"), (["--data", "."], "folder"),
        (["--plot", "x.gif"], ".png or .svg"), (["--plot", "no/such/folder/x.png"], "folder"),
        (["--engine", "rules"], "analytic"), (["--worst", "many"], "--worst"),
        (["--dta", "x"], "--data"),
    ],
)  # fmt: skip
def test_bad_options(arguments: list[str], named: str, refused: Refused) -> None:
    assert named in refused(["validate", *arguments])


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"\xff\xfe\x00", b"\x00" * 100])
def test_files_without_measurements(content: bytes, tmp_path: Path, refused: Refused) -> None:
    file = tmp_path / "x.csv"
    file.write_bytes(content)
    assert "measured_peak_gib" in refused(["validate", "--data", str(file)])


def test_nothing_to_draw_is_said(tmp_path: Path, refused: Refused) -> None:
    file = tmp_path / "x.csv"
    file.write_text("model,measured_peak_gib\nnothing-7b,3\n")
    assert "nothing to draw" in refused(
        ["validate", "--data", str(file), "--plot", str(tmp_path / "x.png")]
    )
