"""Rows put as calls: one bad row never stops the rest."""

from __future__ import annotations

import pytest

import lmsize
from lmsize.measurements.table import Table, parsed
from lmsize.validation.document import document
from lmsize.validation.run import validated

HEADER = "id,model,seq_len,micro_batch,gpu,framework,precision,measured_peak_gib,measured_tokens_per_s_per_gpu"


def table(*lines: str, header: str = HEADER) -> Table:
    return parsed("\n".join((header, *lines)), name="x")


def test_a_row_is_the_call_that_a_user_would_make() -> None:
    done = validated([table("a,llama-3.1-8b,2048,1,a100-80gb,transformers,bf16-true,90,2000")])
    mine = lmsize.train("llama-3.1-8b", accelerator="a100-80gb", seq_len=2048, micro_batch=1,
                        precision="bf16", optimizer="adamw", accelerators=1)  # fmt: skip
    memory, time = done.answers
    assert memory.predicted == mine.memory.peak_device_bytes
    assert memory.measured == 90 * 2**30
    assert time.predicted == mine.time.step_s
    assert time.measured == pytest.approx(2048 / 2000)
    assert (memory.low, memory.high) == (mine.memory.low_bytes, mine.memory.high_bytes)


def test_rows_that_make_no_sense_are_skipped_with_a_reason() -> None:
    done = validated([table(
        "good,gpt2,512,1,a100-80gb,transformers,fp32,3,",
        "who,nothing-7b,512,1,a100-80gb,transformers,fp32,3,",
        "size,gpt2,512,1,a100-80gb,transformers,fp32,-3,",
        "long,gpt2,99999999999999,1,a100-80gb,transformers,fp32,3,",
        "bits,gpt2,512,1,a100-80gb,transformers,posit,3,",
        "none,gpt2,512,1,a100-80gb,transformers,fp32,,",
        "many,gpt2,512,1,a100-80gb,transformers,fp32,3,4,5,6",
    )])  # fmt: skip
    assert {a.id for a in done.answers} == {"good"}
    assert {s.id for s in done.skipped} == {"who", "size", "long", "bits", "none", "many"}
    assert all(s.reason for s in done.skipped)
    assert done.n_rows == 7


def test_an_unknown_accelerator_still_has_memory() -> None:
    done = validated([table("a,gpt2,512,1,RTX 99999,transformers,fp32,3,1000")])
    assert [a.quantity for a in done.answers] == ["memory"]


def test_the_last_stage_is_compared_with_the_last_rank() -> None:
    header = "id,model,seq_len,pp,n_gpus,grad_accum,framework,measured_peak_gib,metric_definition"
    first, last = (
        validated([table(f"a,gpt2-xl,1024,4,4,8,megatron,9,{said}", header=header)]).answers[0]
        for said in ("max_allocated on the first rank", "max_allocated on the LAST rank")
    )
    assert first.predicted != last.predicted


def test_fits_are_asked_with_their_own_capacity() -> None:
    header = "id,model,seq_len,micro_batch,gpu_memory_gib,framework,precision,outcome"
    done = validated([table(
        "small,gpt2,512,1,24,transformers,bf16-true,fits",
        "large,llama-3.1-70b,2048,1,24,transformers,bf16-true,OOM",
        "edge,llama-3.2-1b,4096,1,24,transformers,bf16-true,max_fit",
        "odd,gpt2,512,1,24,transformers,bf16-true,perhaps",
        header=header,
    )])  # fmt: skip
    by_id = {a.id: a for a in done.answers}
    assert by_id["small"].right
    assert by_id["large"].right
    assert {"edge", "edge x1.5"} <= set(by_id)
    assert by_id["edge"].predicted > by_id["edge x1.5"].predicted
    assert [s.id for s in done.skipped] == ["odd"]


def test_runs_are_compared_over_their_whole_length() -> None:
    header = "id,model,tokens_b,gpu,n_gpus,gpu_hours,days,framework"
    done = validated([table("a,llama-2-7b,2000,A100-80GB,1024,184320,,torch", header=header)])
    (run,) = done.answers
    assert run.quantity == "run_s"
    assert run.measured == pytest.approx(184320 * 3600 / 1024)
    assert 0.2 < run.predicted / run.measured < 5


def test_the_document_has_the_keys_of_the_contract() -> None:
    found = document(
        validated([table("a,gpt2,512,1,a100-80gb,transformers,fp32,3,1000", "b,,,,,,,,")])
    )
    assert {"n", "skipped", "metrics", "by_source", "rows"} <= set(found)
    figures = {"n", "median_abs", "mean_abs", "p90_abs", "bias", "coverage90"}
    assert set(found["metrics"]["memory"]) == set(found["metrics"]["time"]) == figures
    row = {"id", "quantity", "measured", "predicted", "low", "high", "relative_error"}
    assert all(row <= set(one) for one in found["rows"])
    assert {"id", "reason"} <= set(found["skipped"][0]) if found["skipped"] else True
    memory = found["rows"][0]
    assert memory["relative_error"] == pytest.approx(memory["predicted"] / memory["measured"] - 1)
