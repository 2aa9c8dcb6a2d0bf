"""Rows in the columns of the published measurements."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lmsize.api.measuring import grid_cases
from lmsize.catalogue import built_in
from lmsize.errors import InputError
from lmsize.measurements.columns import COLUMNS
from lmsize.measurements.settings import question
from lmsize.measuring.architecture import architecture_columns
from lmsize.measuring.case import Case
from lmsize.measuring.outcome import FAILED, Measured, Peak
from lmsize.measuring.rows import case_key, rows_of
from lmsize.measuring.store import Store, inert
from lmsize.model.count import n_params
from lmsize.validation.public import validate

ROOT = Path(__file__).parents[3]
Make = Callable[..., Case]
FOUND = Measured(
    "fits", peaks=(Peak("allocated", 3 * 2**29, "max allocated (x)"), Peak("reserved", 2**31, "r")),
    step_s=(0.5, 0.25, 1.0), device_name="NVIDIA H100 80GB HBM3", capacity_bytes=80 * 2**30,
    facts={"torch": "2.13.0", "transformers": "5.23.0"},
)  # fmt: skip


def test_columns_are_those_of_the_measurements(tiny_case: Make) -> None:
    assert len(set(COLUMNS)) == len(COLUMNS)
    assert set(rows_of(tiny_case(), FOUND)[0]) <= set(COLUMNS)


def test_one_row_a_metric_and_the_time_in_the_first(case: Case) -> None:
    allocated, reserved = rows_of(replace(case, device="cuda"), FOUND)
    assert (allocated["measured_peak_gib"], reserved["measured_peak_gib"]) == ("1.5", "2")
    assert allocated["metric_definition"] == "max allocated (x)"
    assert float(allocated["measured_step_time_s"]) == 0.5
    assert float(allocated["measured_tokens_per_s_per_gpu"]) == 32
    assert "measured_step_time_s" not in reserved
    assert allocated["id"] == f"lmsize-nvidia-h100-80gb-hbm3-{case.key}-allocated".replace(
        case.key, replace(case, device="cuda").key
    )
    assert allocated["framework"] == "transformers 5.23.0 / torch 2.13.0 (lmsize measure)"
    assert allocated["gpu"] == "NVIDIA H100 80GB HBM3"
    assert allocated["gpu_norm"]


def test_the_configuration_is_whole(case: Case, tiny_case: Make) -> None:
    row = rows_of(tiny_case(method="lora", lora_rank=4, grad_accum=2), FOUND)[0]
    expected = {
        "model": "tiny", "hidden": "32", "layers": "2", "heads": "4", "kv_heads": "2",
        "head_dim": "8", "ffn": "64", "vocab": "128", "seq_len": "16", "micro_batch": "1",
        "grad_accum": "2", "global_batch": "2", "n_gpus": "1", "sharding": "none",
        "precision": "fp32", "optimizer": "adamw", "recompute": "none", "flash_attention": "sdpa",
        "method": "lora", "lora_rank": "4", "lora_targets": "all-linear", "quality": "A",
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected
    assert "gpu_norm" not in row  # a CPU is no accelerator


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt2", {"ffn": 3072, "heads": 12, "kv_heads": 12, "vocab": 50257}),
        ("bert-base-uncased", {"ffn": 3072, "hidden": 768, "layers": 12}),
        ("t5-small", {"ffn": 2048, "heads": 8}),
        ("llama-3.1-8b", {"ffn": 14336, "kv_heads": 8, "params_b": 8.03026}),
        ("mixtral-8x7b", {"moe_experts": 8, "moe_topk": 2, "moe_ffn": 14336}),
    ],
)
def test_sizes_are_read_off_the_parts(name: str, expected: dict[str, Any]) -> None:
    from lmsize.model.read import read_config

    found = architecture_columns(read_config(built_in().model(name)[0].config, name=name))
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize(("tied", "expected"), [(True, "true"), (False, "false")])
def test_shared_embeddings_are_said(tiny: dict[str, Any], tied: bool, expected: str) -> None:
    from lmsize.api.measuring import measured_case

    case = measured_case(tiny | {"tie_word_embeddings": tied}, device="cpu")
    extra = rows_of(case, FOUND)[0]["extra_config"]
    assert f"class=LlamaForCausalLM; tied_embeddings={expected};" in extra


def test_a_key_names_what_decides_and_nothing_else(case: Case, tiny_case: Make) -> None:
    assert case.key == tiny_case(steps=50, warmup=7).key
    assert case.key != tiny_case(micro_batch=2).key
    assert case.key != tiny_case(optimizer_impl="foreach").key
    assert Case.from_json(case.as_json()) == case
    assert case_key(rows_of(case, FOUND)[0]) == case.key


def test_the_command_measures_it_again(tiny_case: Make) -> None:
    case = tiny_case(micro_batch=2, method="lora", lora_targets="q_proj,v_proj")
    assert case.command == (
        "lmsize measure tiny --precision fp32 --seq-len 16 --micro-batch 2 --method lora "
        "--lora-targets q_proj,v_proj --device cpu"
    )


def test_a_file_grows_by_whole_cases_and_is_read_again(
    tmp_path: Path, case: Case, tiny_case: Make
) -> None:
    path = tmp_path / "rows.csv"
    Store(path).append(rows_of(case, FOUND))
    other = tiny_case(micro_batch=2)
    again = Store(path)
    assert again.done == {case.key}
    again.append(rows_of(other, Measured(FAILED, reason="ended by SIGKILL")))
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["outcome"] for row in rows] == ["fits", "fits", "failed"]
    assert tuple(rows[0]) == COLUMNS
    assert rows[2]["notes"] == "ended by SIGKILL"
    assert Store(path).done == {case.key, other.key}


def test_a_torn_line_is_left_and_its_case_measured_again(tmp_path: Path, case: Case) -> None:
    path = tmp_path / "rows.csv"
    Store(path).append(rows_of(case, FOUND)[:1])
    whole = path.read_text()
    path.write_text(whole[:-200])
    store = Store(path)
    assert store.done == set()
    store.append(rows_of(case, FOUND)[:1])
    assert Store(path).done == {case.key}
    assert path.read_text().startswith(whole[:-200])


@pytest.mark.parametrize("cell", ["=1+2", "+1", "-1", "@SUM(A1)", " =1", "\t=1", "\r=1", "\n=1"])
def test_no_cell_is_a_formula(tmp_path: Path, case: Case, cell: str) -> None:
    harmless = f"'{cell.replace(cell[0], ' ') if cell[0].isspace() else cell}"
    assert inert(cell) == harmless
    path = tmp_path / "rows.csv"
    Store(path).append(rows_of(replace(case, label=cell), FOUND))
    with path.open(newline="") as file:
        assert {row["model"] for row in csv.DictReader(file)} == {harmless}


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"id,model\n1,x\n", "lacks"), (b"\xff\xfe\x00", "UTF-8"), (b"just text\n", "lacks"),
        (b'a,"b\n', "lacks"),
    ],
)  # fmt: skip
def test_other_files_are_left_alone(tmp_path: Path, content: bytes, match: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=match):
        Store(path)
    assert path.read_bytes() == content


def test_files_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "no" / "such" / "folder.csv"):
        with pytest.raises(InputError, match="--out"):
            Store(path)


READ_BACK = (
    "method", "precision", "micro_batch", "seq_len", "recompute", "attention", "lora_rank",
    "lora_targets",
)  # fmt: skip

NEAREST = {"adafactor-torch": "adafactor"}  # the word table has one Adafactor


@pytest.mark.parametrize("grid", ["accelerator", "cpu"])
def test_rows_are_read_back_as_the_runs_that_they_were(grid: str) -> None:
    """What validate makes of a row is the call that was measured, for every case that ships."""
    for case in grid_cases(ROOT / f"benchmarks/grids/{grid}.toml", device="cpu"):
        row = dict.fromkeys(COLUMNS, "") | rows_of(case, FOUND)[0]
        asked = question(row)
        assert n_params(asked.model) == n_params(case.architecture)
        spec = case.spec.as_dict()
        for name in READ_BACK:
            assert asked.options.get(name) == spec[name], (case.command, name)
        optimizer = built_in().optimizer(asked.options["optimizer"]).name
        wanted = NEAREST.get(spec["optimizer"], spec["optimizer"])
        assert optimizer.removesuffix("-fused") == wanted.removesuffix("-fused")


def test_the_rows_that_ship_are_all_modelled() -> None:
    for path in sorted((ROOT / "benchmarks/measured").glob("*.csv")):
        done = validate(data=path)
        assert done.answers
        assert done.skipped == ()


def test_columns_of_their_own_stay(tmp_path: Path, case: Case) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(",".join(["mine", *COLUMNS]) + "\n")
    Store(path).append(rows_of(case, FOUND)[:1])
    with path.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["mine"], row["model"]) == ("", "tiny")
