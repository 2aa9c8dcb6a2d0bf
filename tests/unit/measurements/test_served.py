"""What rows of serving measured: bytes and seconds by their own definitions."""

from __future__ import annotations

import pytest

from lmsize.measurements.served import Load, served
from lmsize.measurements.unmodelled import UnmodelledError

LOAD = Load(n_sequences=8, n_accelerators=4, prompt=1000, output=100)
GIB = 2**30


def row(metric: str, unit: str, definition: str = "", **cells: str) -> dict[str, str]:
    base = {"metric": metric, "value": "10", "unit": unit, "metric_definition": definition}
    return base | {"batch_size": "8", "engine": "vllm", **cells}


@pytest.mark.parametrize(
    ("metric", "unit", "definition", "seconds", "what"),
    [
        ("ttft_mean", "ms", "", 0.01, "first token"),
        ("Time to first token", "s", "", 10.0, "first token"),
        ("prefill_latency", "us", "", 1e-5, "first token"),
        ("TPOT", "ms", "", 0.01, "token"),
        ("inter-token latency", "milliseconds", "", 0.01, "token"),
        ("per_token_latency", "s/token", "", 10.0, "token"),
        ("e2e_latency", "ms", "", 0.01, "request"),
        # Rates: tokens of all sequences a second.
        ("decode_tokens_per_s", "tokens/s", "", 0.8, "token"),
        ("decode_tokens_per_s", "tokens/s/user", "", 0.1, "token"),
        ("decode_tokens_per_s_per_gpu", "tokens/s/GPU", "", 0.2, "token"),
        ("decode_tokens_per_s", "tok/s", "incl. the prompt's time", 80.0, "request"),
        ("decode_tokens_per_s", "tokens/s", "total tokens / time of generate", 880.0, "request"),
        ("output_throughput", "tokens per second", "", 80.0, "request"),
        ("output_throughput", "tokens/s/GPU", "", 20.0, "request"),
        ("output_throughput", "tokens/s (whole TP group)", "", 80.0, "request"),
        ("prefill_tokens_per_s", "tps", "", 800.0, "first token"),
    ],
)
def test_seconds(metric: str, unit: str, definition: str, seconds: float, what: str) -> None:
    found = served(row(metric, unit, definition), LOAD)
    assert found.value == pytest.approx(seconds)
    assert found.what == what
    assert found.is_time


@pytest.mark.parametrize(
    ("metric", "unit", "definition", "n_bytes", "what"),
    [
        ("peak_memory", "GiB", "torch.cuda.max_memory_allocated()", 10 * GIB, "allocated"),
        ("peak_memory", "GiB", "max reserved", 10 * GIB, "reserved"),
        ("gpu_memory", "GB", "nvidia-smi", 10e9, "driver"),
        ("gpu memory", "GB", "", 10e9, "driver"),
        ("weights_per_gpu", "GB", "vLLM prints GB = GiB of 2**30", 10 * GIB, "weights"),
        ("weight_size", "MiB", "", 10 * 2**20, "weights"),
        ("non_torch_per_gpu", "GiB", "", 10 * GIB, "context"),
        ("peak_memory", "bytes", "", 10, "driver"),
    ],
)
def test_bytes(metric: str, unit: str, definition: str, n_bytes: float, what: str) -> None:
    found = served(row(metric, unit, definition), LOAD)
    assert found.value == n_bytes
    assert found.what == what
    assert not found.is_time


def test_sums_are_divided() -> None:
    for metric, said in (("peak_memory_total", ""), ("peak_memory", "SUM over GPUs")):
        assert served(row(metric, "GiB", said, n_gpus="2"), LOAD).value == 5 * GIB
        assert served(row(metric, "GiB", said, n_gpus="1"), LOAD).value == 10 * GIB
    assert served(row("peak_memory", "GiB", "max over GPUs", n_gpus="2"), LOAD).value == 10 * GIB


def test_an_engines_own_figure_of_memory() -> None:
    assert served(row("peak_memory", "GiB", engine="litgpt"), LOAD).what == "allocated"


@pytest.mark.parametrize(
    ("definition", "n_sequences", "steady"),
    [
        ("serving benchmark at fixed concurrency", 8, True),
        ("Poisson arrivals", 8, True),
        ("static batch", 8, False),
        ("", 8, False),
        ("serving benchmark at fixed concurrency", 1, False),
    ],
)
def test_requests_that_come_and_go(definition: str, n_sequences: int, *, steady: bool) -> None:
    load = Load(n_sequences, 1, 1000, 100)
    assert served(row("ttft", "ms", definition), load).comes_and_goes is steady


@pytest.mark.parametrize(
    "cells",
    [
        {"metric": "goodness"}, {"metric": ""}, {"metric": "p99_ttft"}, {"metric": "kv_cache_tokens"},
        {"metric": "activation_peak_per_gpu"}, {"unit": "furlongs"}, {"unit": ""}, {"unit": "GiB"},
        {"unit": "OOM"}, {"value": ""}, {"value": "fast"}, {"value": "-3"}, {"value": "0"},
        {"value": "nan"}, {"batch_size": ""}, {"unit": "tokens/s"}, {"metric": "peak_memory"},
    ],
)  # fmt: skip
def test_what_has_no_estimate_or_makes_no_sense_is_refused(cells: dict[str, str]) -> None:
    with pytest.raises(UnmodelledError):
        served({**row("ttft", "ms"), **cells}, LOAD)


def test_a_whole_request_needs_its_lengths() -> None:
    unknown = Load(8, 1, 3840, 256, is_stated=False)
    with pytest.raises(UnmodelledError):
        served(row("e2e_latency", "ms"), unknown)
    assert served(row("tpot", "ms"), unknown).what == "token"


def test_a_peak_needs_sequences_or_lengths() -> None:
    unknown = Load(1, 1, 3840, 256, is_stated=False)
    with pytest.raises(UnmodelledError):
        served(row("peak_memory", "GiB", batch_size=""), unknown)
    assert served(row("peak_memory", "GiB", batch_size="1"), unknown).what == "driver"
    assert served(row("weights", "GiB", batch_size=""), unknown).what == "weights"
