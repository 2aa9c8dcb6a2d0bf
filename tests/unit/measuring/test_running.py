"""A real step on the CPU: what is measured is what the tensors take."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import lmsize
from lmsize.errors import InputError, LmsizeError
from lmsize.measuring import running
from lmsize.measuring.limit import is_out_of_memory
from lmsize.measuring.outcome import FAILED, FITS, OOM
from lmsize.model.count import n_params
from lmsize.model.read import read_config

QUICK = {"precision": "fp32", "seq_len": 16, "device": "cpu", "steps": 3, "warmup": 1}


def peak_bytes(config: dict[str, Any], **options: Any) -> int:
    found = lmsize.measure(config, **(QUICK | {"steps": 1} | options)).found
    assert found.outcome == FITS, found.reason
    return found.peaks[0].n_bytes


def test_a_peak_lies_between_what_must_be_there_and_what_fits(tiny: dict[str, Any]) -> None:
    """Weights, gradients and both states are all alive when the optimizer steps."""
    weights = 4 * n_params(read_config(tiny, name="tiny"))
    assert 4 * weights < peak_bytes(tiny) < 6 * weights + 2**20


def test_states_are_what_the_optimizer_keeps(tiny: dict[str, Any]) -> None:
    """One sequence of one token, so that the optimizer's step is the peak: two states apart."""
    weights = 4 * n_params(read_config(tiny, name="tiny"))
    small = {"seq_len": 2, "optimizer_impl": "foreach"}
    apart = peak_bytes(tiny, **small) - peak_bytes(tiny, optimizer="sgd", **small)
    # AdamW keeps two states and takes one temporary copy; plain SGD has neither.
    assert apart == pytest.approx(3 * weights, rel=0.02)


def test_the_peak_repeats_to_the_byte(tiny: dict[str, Any]) -> None:
    assert peak_bytes(tiny) == peak_bytes(tiny, warmup=3)


def test_activations_grow_with_the_batch_and_fall_with_recomputation(tiny: dict[str, Any]) -> None:
    long = {"seq_len": 64, "micro_batch": 4, "optimizer": "sgd"}
    assert peak_bytes(tiny, **long) > 1.5 * peak_bytes(tiny, **(long | {"micro_batch": 1}))
    assert peak_bytes(tiny, recompute="full", **long) < peak_bytes(tiny, **long)


def test_accumulation_takes_no_more_activations(tiny: dict[str, Any]) -> None:
    more = peak_bytes(tiny, grad_accum=4, micro_batch=1, seq_len=64)
    assert more < peak_bytes(tiny, micro_batch=4, seq_len=64)


def test_times_and_circumstances(tiny: dict[str, Any]) -> None:
    found = lmsize.measure(tiny, **QUICK).found
    assert len(found.step_s) == 3
    assert found.median_step_s == sorted(found.step_s)[1] > 0
    assert found.device_name.startswith("CPU (")
    assert found.facts["torch"].startswith(torch.__version__.split("+")[0])
    assert found.facts["optimizer_impl"] == "loop"


def test_memory_alone(tiny: dict[str, Any]) -> None:
    measurement = lmsize.measure(tiny, **(QUICK | {"steps": 0}))
    assert measurement.found.peaks[0].n_bytes == peak_bytes(tiny)
    assert "measured_step_time_s" not in measurement.rows[0]


def test_memory_that_runs_out_is_an_outcome(tiny: dict[str, Any]) -> None:
    measurement = lmsize.measure(
        tiny, **(QUICK | {"micro_batch": 20_000, "memory_limit": "100MiB"})
    )
    assert measurement.found.outcome == OOM
    (row,) = measurement.rows
    assert row["outcome"] == "OOM"
    assert "measured_peak_gib" not in row
    assert float(row["gpu_memory_gib"]) == pytest.approx(100 / 1024, rel=1e-4)
    assert peak_bytes(tiny) > 0  # the limit is gone


def test_an_error_of_the_software_is_an_outcome(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("shapes\n do not match")

    monkeypatch.setattr(running, "built_model", broken)
    found = lmsize.measure(tiny, **QUICK).found
    assert (found.outcome, found.reason) == (FAILED, "RuntimeError: shapes do not match")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)  # fmt: skip
def test_out_of_memory_is_told_from_other_errors(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) == expected


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"device": "tpu"}, "--device"), ({"zero": 3}, "--zero"), ({"zero": 1}, "--zero"),
        ({"precision": "fp8"}, "--precision"), ({"warmup": 0}, "--warmup"),
        ({"steps": "many"}, "--steps"), ({"tp": 2}, "--tp"), ({"optimizer": "adamwx"}, "adamw"),
        ({"micro_batchs": 2}, "micro-batch"), ({"deadline": "1d"}, "deadline"),
        ({"optimizer_impl": "quick"}, "--optimizer-impl"), ({"memory_limit": "lots"}, "--memory-limit"),
        ({"optimizer": "lion"}, "--optimizer"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(
    tiny: dict[str, Any], options: dict[str, Any], match: str
) -> None:
    with pytest.raises(LmsizeError, match=match):
        lmsize.measure(tiny, **(QUICK | options))


def test_a_spec_is_no_model_to_run(tiny: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="MODEL"):
        lmsize.measure(read_config(tiny, name="tiny"), **QUICK)
