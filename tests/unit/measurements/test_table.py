"""Files as people save them: encodings, delimiters, broken lines."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmsize.errors import LmsizeError
from lmsize.measurements.table import SHIPPED, parsed, shipped, table_at

HEADER = "id,model,seq_len,measured_peak_gib"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_encodings(encoding: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes(f"{HEADER}\nzürich,llama-3.1-8b,2048,80\n".encode(encoding))
    table = table_at(file)
    assert table.kinds == ("memory",)
    assert table.rows[0] == {
        "id": "zürich", "model": "llama-3.1-8b", "seq_len": "2048", "measured_peak_gib": "80",
    }  # fmt: skip


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_delimiters_and_line_ends(mark: str, end: str) -> None:
    text = end.join((HEADER.replace(",", mark), mark.join(("a", "gpt2", "512", "3")), ""))
    assert parsed(text, name="x").rows[0]["model"] == "gpt2"


def test_headers_as_people_write_them() -> None:
    table = parsed("ID, Model ,Seq Len,Measured-Peak GiB\na,gpt2,512,3\n", name="x")
    assert table.rows[0]["seq_len"] == "512"
    assert table.kinds == ("memory",)


def test_a_quote_that_is_never_closed_costs_one_line() -> None:
    lines = [HEADER, 'a,"gpt2,512,3', *(f"r{i},gpt2,512,3" for i in range(200))]
    table = parsed("\n".join(lines), name="x")
    assert len(table.rows) == 201
    assert table.rows[-1]["id"] == "r199"


def test_ids_are_made_unique_and_missing_ones_made_up() -> None:
    table = parsed(f"{HEADER}\na,gpt2,512,3\na,gpt2,512,3\n,gpt2,512,3\n", name="x")
    assert [row["id"] for row in table.rows] == ["a", "a#2", "row-3"]


def test_lines_with_too_many_cells_are_faults_and_short_ones_are_filled() -> None:
    table = parsed(f"{HEADER}\na,gpt2,512,3,4,5\nb,gpt2\n\n,,,\nc,gpt2,512,3,,\n", name="x")
    assert [row["id"] for row in table.rows] == ["b", "c"]
    assert table.rows[0]["measured_peak_gib"] == ""
    assert table.faults[0][0] == "a"


def test_control_codes_and_formula_marks_go() -> None:
    table = parsed(f"{HEADER}\n\x1b[31ma,'=cmd(),512,3\n", name="x")
    assert table.rows[0]["id"] == "[31ma"
    assert table.rows[0]["model"] == "=cmd()"


@pytest.mark.parametrize("text", ["", "\n\n", "a,b\n1,2\n", "\x00\x00", "{}", "memory,gib\n"])
def test_files_without_a_measurement_are_refused(text: str) -> None:
    with pytest.raises(LmsizeError, match="measured_peak_gib"):
        parsed(text, name="x")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.csv", Path("\0")):
        with pytest.raises(LmsizeError):
            table_at(path)


@given(st.binary(max_size=400))
def test_any_bytes_make_rows_or_an_error(content: bytes) -> None:
    from lmsize.measurements.table import decoded

    try:
        table = parsed(f"{HEADER}\n{decoded(content)}", name="x")
    except LmsizeError:
        return
    assert all(set(row) == {"id", "model", "seq_len", "measured_peak_gib"} for row in table.rows)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_rows_have_sources_grades_and_splits(name: str) -> None:
    table = shipped(name)
    assert table.kinds
    assert not table.faults
    for row in table.rows:
        assert row["source_repo_or_url"], row["id"]
        assert row["quality"] in ("A", "B", "C"), row["id"]
        assert row.get("split", "") in ("calibration", "test", ""), row["id"]
