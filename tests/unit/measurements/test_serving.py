"""Rows of serving measurements as questions: every spelling by its words, every gap stated."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from lmsize.catalogue import built_in
from lmsize.measurements.engines import serving_engine, serving_engines
from lmsize.measurements.serving import STORED, serving_question
from lmsize.measurements.unmodelled import UnmodelledError
from lmsize.measurements.words import read, tables
from lmsize.workload.serving import KV_PRECISIONS, PRECISIONS

ROW = {"model": "llama-3.1-8b", "engine": "vLLM 0.9", "precision": "bf16", "kv_cache_dtype": "bf16",
       "batch_size": "4", "prompt_len": "1000", "output_len": "24", "gpu": "H100"}  # fmt: skip


def options(**cells: str) -> dict[str, Any]:
    return dict(serving_question({**ROW, **cells}).options)


def codes(**cells: str) -> set[str]:
    return {one.code for one in serving_question({**ROW, **cells}).stated}


def test_a_whole_row_takes_nothing_for_granted() -> None:
    asked = serving_question(ROW)
    assert asked.model.name == "llama-3.1-8b"
    assert asked.accelerator == "H100"
    assert not asked.stated
    assert asked.options == {"precision": "bf16", "kv_precision": "bf16", "accelerators": 1,
                             "concurrency": 4, "prompt": 1000, "output": 24}  # fmt: skip


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        ("vLLM v0.11.2 (V1)", "vllm"), ("VLLM-nightly", "vllm"), ("SGLang 0.4", "sglang"),
        ("TRT-LLM 0.20", "tensorrt-llm"), ("NVIDIA TensorRT-LLM", "tensorrt-llm"),
        ("text-generation-inference 2.0", "tgi"), ("llama.cpp b4000", "llama-cpp"),
        ("Ollama 0.5", "llama-cpp"), ("ExLlamaV2", "exllama"), ("lmdeploy-turbomind", "lmdeploy"),
        ("Hugging Face Transformers", "transformers"), ("DeepSpeed-MII", "deepspeed-inference"),
        ("HF accelerate", "accelerate"), ("FasterTransformer/Triton", "fastertransformer"),
        ("My Server 3000", "other"), ("", "other"),
    ],
)  # fmt: skip
def test_engines_are_read_by_their_words(cell: str, name: str) -> None:
    assert serving_engine(cell).name == name


def test_every_engine_has_words_and_every_word_an_engine() -> None:
    assert set(tables()["serving_engine"].meanings) == set(serving_engines()) - {"other"}


@pytest.mark.parametrize(
    ("quant", "precision", "stored"),
    [
        ("FP8", "fp8", None), ("float8_e4m3fn", "fp8", None), ("W8A8-FP8", "fp8", None),
        ("FP8 weights + activations", "fp8", None), ("fp8 (128x128)", "fp8", "fp8-block128"),
        ("FP8 blockwise", "fp8", "fp8-block128"), ("NVFP4", "fp8", "nvfp4"),
        ("MXFP4", "bf16", "mxfp4"), ("GPTQ-4bit", "bf16", "gptq-int4"), ("gptq", "bf16", "gptq-int4"),
        ("GPTQ int8", "bf16", "gptq-int8"), ("AutoAWQ (Marlin)", "bf16", "awq-int4"),
        ("W4A16 g128", "bf16", "int4"), ("4-bit", "bf16", "int4"), ("bnb 4bit", "bf16", "nf4-single"),
        ("nf4 double quant", "bf16", "nf4"), ("int8 weight only", "bf16", "int8"),
        ("SmoothQuant", "bf16", "int8"), ("INT8 W8A8", "bf16", "int8"),
        ("Q4_K_M", "bf16", "gguf-q4-k-m"), ("q8_0", "bf16", "gguf-q8-0"),
        ("none", "bf16", None), ("gemm ; moe", "bf16", None),
    ],
)  # fmt: skip
def test_ways_of_quantising(quant: str, precision: str, stored: str | None) -> None:
    asked = options(quant=quant)
    assert (asked["precision"], asked.get("quant")) == (precision, stored)


@pytest.mark.parametrize(
    ("precision", "computed", "stored"),
    [
        ("bfloat16", "bf16", None), ("float16", "fp16", None), ("fp32", "fp32", None),
        ("FP8 (E4M3)", "fp8", None), ("int4", "bf16", "int4"), ("AWQ", "bf16", "awq-int4"),
        ("FP4", "fp8", "nvfp4"), ("Q5_K_M", "bf16", "gguf-q5-k-m"), ("bf16-mixed", "fp32", None),
    ],
)  # fmt: skip
def test_a_precision_may_name_how_weights_are_stored(
    precision: str, computed: str, stored: str | None
) -> None:
    asked = options(precision=precision)
    assert (asked["precision"], asked.get("quant")) == (computed, stored)


def test_what_is_taken_for_another_type_is_said() -> None:
    assert codes(quant="nvfp4") == {"row-fp4"}
    assert codes(quant="w8a8 int8") == {"row-int8"}
    assert codes(precision="bf16-mixed") == {"row-autocast"}
    assert codes(precision="") == {"row-precision"}


@pytest.mark.parametrize(
    ("cell", "kind"),
    [("fp8_e5m2", "fp8"), ("FP8", "fp8"), ("INT8 KV", "int8"), ("q8_0", "int8"), ("q4_0", "int4"),
     ("bfloat16", "bf16"), ("float16", "fp16"), ("auto", None), ("", None)],
)  # fmt: skip
def test_types_of_the_cache(cell: str, kind: str | None) -> None:
    assert options(kv_cache_dtype=cell).get("kv_precision") == kind
    assert ("row-kv-precision" in codes(kv_cache_dtype=cell)) == (cell == "")


def test_every_meaning_is_a_value_of_the_options() -> None:
    for meaning in tables()["serving_quant"].meanings:
        computed, stored = STORED.get(meaning, (None, meaning))
        assert computed in (None, *PRECISIONS)
        assert stored is None or built_in().precision(stored, "--quant").name == stored
    assert set(tables()["kv"].meanings) <= {"auto", *KV_PRECISIONS}
    assert {one.precision for one in serving_engines().values()} <= set(PRECISIONS)


@pytest.mark.parametrize(
    ("cells", "wanted"),
    [
        ({"n_gpus": "4", "tp": "2"}, {"accelerators": 4, "tp": 2}),
        ({"n_gpus": "4"}, {"accelerators": 4, "tp": 4}),
        ({"n_gpus": "4", "engine": "transformers"}, {"accelerators": 4, "pp": 4}),
        ({"tp": "2", "pp": "4"}, {"accelerators": 8, "tp": 2, "pp": 4}),
        ({"n_gpus": "4", "dp": "4"}, {"accelerators": 4}),
        ({"n_gpus": "4", "tp": "1"}, {"accelerators": 4}),
        ({}, {"accelerators": 1}),
    ],
)
def test_accelerators_that_no_degree_spreads(cells: dict[str, str], wanted: dict[str, int]) -> None:
    asked = options(**cells)
    degrees = ("accelerators", "tp", "pp", "ep")
    assert {name: asked[name] for name in degrees if name in asked} == wanted


@pytest.mark.parametrize(
    ("cells", "ep"),
    [
        ({"n_gpus": "8", "tp": "8", "notes": "attention_dp 1; moe_tp 1 moe_ep 8"}, None),
        ({"n_gpus": "8", "tp": "1", "notes": "attention_dp 8; moe_tp 1 moe_ep 8"}, 8),
        ({"n_gpus": "16", "tp": "4", "notes": "attention_dp=4, moe_tp=1, moe_ep=16"}, 4),
        ({"n_gpus": "4", "tp": "4", "notes": "moe_tp 2 moe_ep 2"}, None),
        ({"n_gpus": "8", "tp": "1", "ep": "8"}, 8),
        ({"n_gpus": "4", "tp": "4", "notes": "moe_tp 0 moe_ep 0"}, None),
    ],
)
def test_experts_lie_over_as_many_ranks_as_stated(cells: dict[str, str], ep: int | None) -> None:
    assert options(model="mixtral-8x7b", **cells).get("ep") == ep


@pytest.mark.parametrize(
    ("cells", "wanted"),
    [
        ({"prompt_len": "0"}, (1, 24)),
        ({"output_len": "290.6"}, (1000, 291)),
        ({"prompt_len": ""}, (1, 24)),
        ({"output_len": ""}, (1000, None)),
        ({"prompt_len": "", "output_len": ""}, (None, None)),
        ({"prompt_len": "", "output_len": "", "engine": "litgpt"}, (8, 50)),
        ({"prompt_len": "n/a", "output_len": "-3"}, (None, None)),
        ({"prompt_len": "1k"}, (1000, 24)),
    ],
)
def test_lengths(cells: dict[str, str], wanted: tuple[int | None, int | None]) -> None:
    asked = options(**cells)
    assert (asked.get("prompt"), asked.get("output")) == wanted


def test_gaps_are_stated() -> None:
    said = codes(prompt_len="", output_len="", batch_size="", engine="")
    assert said == {"row-engine", "row-lengths", "row-batch"}
    assert codes(prompt_len="") == {"row-prompt"}
    assert codes(n_gpus="2") == {"row-tensors-split"}


@pytest.mark.parametrize(
    "cells",
    [
        {"precision": "posit16"}, {"quant": "ternary magic"}, {"kv_cache_dtype": "telepathy"},
        {"model": "nobody-knows-9b"}, {"n_gpus": "3", "tp": "2"}, {"offload": "cpu"},
        {"notes": "CPU/disk offload 24.4 GB"}, {"notes": "GPU0 20, CPU 0.5"},
        {"notes": "lowest offloading device: disk"},
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(cells: dict[str, str]) -> None:
    with pytest.raises(UnmodelledError):
        serving_question({**ROW, **cells})


@pytest.mark.parametrize(
    "notes", ["CPU/disk offload 0 GB", "GPU0 20, CPU 0; exact", "2x Xeon CPUs", "CPU 0.0"]
)
def test_nothing_on_the_host_is_no_offload(notes: str) -> None:
    assert options(notes=notes)


def test_absent_columns_are_empty_cells() -> None:
    assert serving_question({"model": "gpt2"}).options["accelerators"] == 1


@pytest.mark.parametrize(
    "cell", ["\x00", "=cmd|'/c'!A1", "9" * 500, "🦙" * 50, "((((", "nan", "inf"]
)
def test_broken_cells_never_crash(cell: str) -> None:
    for column in ROW:
        with contextlib.suppress(UnmodelledError):
            serving_question({**ROW, column: cell})


def test_words_keep_their_meaning_whatever_their_spelling() -> None:
    for spelling in ("per-token latency", "PER_TOKEN_LATENCY", "latency per token"):
        assert read("serving_metric", spelling).meaning == "token"
