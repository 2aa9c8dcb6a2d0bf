"""Rows of serving measurements beside the calls that users would make."""

from __future__ import annotations

import pytest

import lmsize
from lmsize.estimate.ranges import ANY, spread_for
from lmsize.measurements.table import parsed
from lmsize.validation.result import Answer
from lmsize.validation.run import Validation, validated

HEADER = (
    "id,model,gpu,n_gpus,tp,engine,precision,kv_cache_dtype,batch_size,prompt_len,output_len,"
    "metric,value,unit,metric_definition"
)
SERVED = "llama-3.1-8b,h100-sxm,1,1,vLLM,bf16,bf16,16,1000,200"
MINE = lmsize.infer(
    "llama-3.1-8b", accelerator="h100-sxm", precision="bf16", kv_precision="bf16", concurrency=16,
    prompt=1000, output=200,
)  # fmt: skip


def done(*lines: str) -> Validation:
    return validated([parsed("\n".join((HEADER, *lines)), name="x")])


def answer(cells: str, served: str = SERVED) -> Answer:
    found = done(f"a,{served},{cells}")
    assert not found.skipped, found.skipped
    return found.answers[0]


def test_memory_is_what_lmsize_infer_says() -> None:
    memory = MINE.memory
    for said, predicted in (
        ("nvidia-smi", memory.peak_device_bytes), ("max allocated", memory.peak_allocated_bytes),
        ("max reserved", memory.peak_reserved_bytes),
    ):  # fmt: skip
        one = answer(f"peak_memory,30,GiB,{said}")
        assert (one.quantity, one.measured, one.predicted) == (
            "inference_memory", 30 * 2**30, predicted)  # fmt: skip
    assert answer("weights,15,GiB,").predicted == memory.components["weights"]
    driver = answer("peak_memory,30,GiB,nvidia-smi")
    assert driver.low == pytest.approx(memory.low_bytes, abs=1)
    assert driver.high == pytest.approx(memory.high_bytes, abs=1)


def test_the_first_token_of_a_batch_waits_for_every_prompt() -> None:
    first = MINE.serving.prefill_s
    assert first is not None
    assert answer("ttft,1,s,static batch").predicted == pytest.approx(16 * first)
    assert answer("ttft,1,s,fixed concurrency").predicted == pytest.approx(first)


def test_a_token_under_load_waits_for_the_prompts_of_others() -> None:
    first, each = MINE.serving.prefill_s, MINE.serving.decode_s_per_token
    assert first is not None
    assert each is not None
    assert answer("tpot,1,s,static batch").predicted == each
    loaded = answer("tpot,1,s,fixed concurrency")
    assert loaded.predicted == pytest.approx(each + 15 * first / 200)
    assert loaded.group["metric"] == "token under load"


def test_throughput_is_the_rate_that_lmsize_infer_says() -> None:
    rate = MINE.serving.tokens_per_s
    assert rate is not None
    one = answer(f"output_throughput,{rate},tokens/s,")
    assert one.measured == pytest.approx(one.predicted)
    assert one.quantity == "latency"


def test_replicas_share_the_sequences() -> None:
    one = answer("output_throughput,100,tokens/s/GPU,")
    two = answer("output_throughput,100,tokens/s/GPU,",
                 "llama-3.1-8b,h100-sxm,2,1,vLLM,bf16,bf16,32,1000,200")  # fmt: skip
    assert two.predicted == pytest.approx(one.predicted)
    assert two.measured == pytest.approx(one.measured)


def test_answers_are_grouped_by_engine() -> None:
    group = answer("tpot,1,s,").group
    assert (group["stack"], group["method"], group["framework"]) == ("vllm", "infer", "vLLM")


def test_one_bad_row_never_stops_the_rest() -> None:
    found = done(
        f"good,{SERVED},ttft,1,s,",
        "tp,llama-3.1-8b,h100-sxm,5,5,vLLM,bf16,bf16,16,1000,200,ttft,1,s,",
        "long,gpt2,h100-sxm,1,1,vLLM,bf16,bf16,16,99999,200,ttft,1,s,",
        "gpu,llama-3.1-8b,abacus,1,1,vLLM,bf16,bf16,16,1000,200,ttft,1,s,",
        "huge,llama-3.1-8b,h100-sxm,1,1,vLLM,bf16,bf16,999999999999999,1000,200,ttft,1,s,",
        f"value,{SERVED},ttft,=cmd,s,",
        f"more,{SERVED},ttft,1,s,,,surplus",
    )
    assert {a.id for a in found.answers} == {"good"}
    assert {s.id for s in found.skipped} == {"tp", "long", "gpu", "huge", "value", "more"}


def test_no_accelerator_still_has_memory() -> None:
    one = answer("peak_memory,30,GiB,", "llama-3.1-8b,,1,1,vLLM,bf16,bf16,16,1000,200")
    assert one.quantity == "inference_memory"


def test_an_engine_that_does_not_chunk_prefills_prompts_whole() -> None:
    served = "llama-3.1-8b,h100-sxm,1,1,{},bf16,bf16,2,30000,200"
    sizes = {}
    for engine in ("HF transformers 4.46", "HF transformers 4.38.2", "vLLM"):
        sizes[engine] = answer("peak_memory,30,GiB,allocated", served.format(engine)).predicted
    whole = lmsize.infer("llama-3.1-8b", precision="bf16", kv_precision="bf16", concurrency=2,
                         prompt=30000, output=200, prefill_chunk=60000)  # fmt: skip
    assert sizes["HF transformers 4.46"] == whole.memory.peak_allocated_bytes
    logits = 60000 * 128256 * (2 + 4) - 2 * 128256 * 2
    assert sizes["HF transformers 4.38.2"] == sizes["HF transformers 4.46"] + logits
    assert sizes["vLLM"] < sizes["HF transformers 4.46"]


def test_an_estimate_of_serving_has_a_range_and_odds() -> None:
    memory = MINE.memory
    assert memory.low_bytes is not None
    assert memory.high_bytes is not None
    assert memory.peak_device_bytes is not None
    assert memory.low_bytes <= memory.peak_device_bytes <= memory.high_bytes
    assert MINE.verdict.probability is not None
    assert "range-serving" in {one.code for one in MINE.assumptions}


def test_odds_are_those_of_serving_not_of_training() -> None:
    known = spread_for("analytic", "inference_memory", ANY, "infer", "peak")
    memory = MINE.memory
    assert known is not None
    assert memory.capacity_bytes is not None
    assert memory.peak_device_bytes is not None
    assert MINE.verdict.probability == known.probability_below(
        memory.capacity_bytes, memory.peak_device_bytes
    )


def test_without_a_search_nothing_else_changes() -> None:
    quick = lmsize.infer(
        "llama-3.1-8b", accelerator="h100-sxm", precision="bf16", kv_precision="bf16",
        concurrency=16, prompt=1000, output=200, search=False,
    )  # fmt: skip
    assert quick.memory == MINE.memory
    assert quick.serving.max_concurrency is None
    assert quick.verdict.probability == MINE.verdict.probability
