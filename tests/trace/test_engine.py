"""``lmsize train --engine trace``: the contract, the choices, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import lmsize
from lmsize.errors import LmsizeError
from lmsize.report.schema import estimate_schema


def test_contract(llama: dict[str, Any], tmp_path: Path) -> None:
    page = tmp_path / "step.html"
    found = lmsize.train(
        llama, engine="trace", accelerator="h100-sxm", seq_len=64, timeline=str(page), tokens="1M"
    )
    plain = json.loads(json.dumps(found.as_dict()))
    jsonschema.validate(plain, estimate_schema())
    memory = plain["memory"]
    assert plain["engine"] == "trace"
    assert sum(v or 0 for v in memory["components"].values()) == memory["peak_allocated_bytes"]
    assert memory["tree"]["combine"] == "max"
    for moment in memory["tree"]["children"]:
        assert moment["value"] == sum(part["value"] for part in moment["children"])
    highest = max(memory["tree"]["children"], key=lambda moment: moment["value"])
    leaves = [leaf for part in highest["children"] for leaf in part["children"]]
    ranked = [leaf for leaf in leaves if "rank" in leaf["inputs"]]
    assert sorted(leaf["inputs"]["rank"] for leaf in ranked) == list(range(1, 11))
    assert any("float32 503 x 64" in leaf["label"] for leaf in ranked)
    assert memory["peak_allocated_bytes"] <= memory["peak_reserved_bytes"]
    assert memory["peak_reserved_bytes"] < memory["peak_device_bytes"]
    assert plain["parameters"]["total"] == plain["parameters"]["trainable"]
    assert "<html" in page.read_text()


def test_attention_kernels(llama: dict[str, Any]) -> None:
    """A V100 has no flash attention for bf16, so its scores are there whole."""
    options = {"engine": "trace", "seq_len": 512, "precision": "bf16", "micro_batch": 4}
    old = lmsize.train(llama, accelerator="v100-sxm2-32gb", **options).memory
    new = lmsize.train(llama, accelerator="a100-80gb", **options).memory
    assert (old.peak_allocated_bytes or 0) > 1.2 * (new.peak_allocated_bytes or 0)


def test_a_trained_bias_is_refused_by_cudnn_s_kernel_as_on_the_gpu() -> None:
    t5 = {
        "model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "d_model": 64, "d_kv": 32,
        "d_ff": 128, "num_layers": 1, "num_heads": 2, "vocab_size": 503, "dropout_rate": 0.0,
        "decoder_start_token_id": 0, "pad_token_id": 0,
    }  # fmt: skip
    options: dict[str, Any] = {"engine": "trace", "seq_len": 64, "precision": "bf16"}
    with pytest.raises(LmsizeError, match=r"a real run ends the same way: --attention eager"):
        lmsize.train(t5, accelerator="h100-sxm", **options)
    assert lmsize.train(t5, accelerator="a100-80gb", **options).memory.peak_allocated_bytes


def test_an_adapter_on_phimoe_s_router_is_refused_as_by_peft() -> None:
    phimoe = {
        "model_type": "phimoe", "architectures": ["PhimoeForCausalLM"], "hidden_size": 64,
        "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 503,
        "num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2,
    }  # fmt: skip
    options: dict[str, Any] = {"engine": "trace", "seq_len": 64, "method": "lora"}
    with pytest.raises(
        LmsizeError, match=r"a real run ends the same way: --lora-targets attention"
    ):
        lmsize.train(phimoe, lora_targets="all-linear", **options)
    assert lmsize.train(phimoe, lora_targets="attention", **options).memory.peak_allocated_bytes


def test_accumulation_holds_gradients(llama: dict[str, Any]) -> None:
    options = {"engine": "trace", "seq_len": 64, "precision": "bf16"}
    once = lmsize.train(llama, **options)
    many = lmsize.train(llama, grad_accum=8, **options)
    assert (many.memory.peak_allocated_bytes or 0) > (once.memory.peak_allocated_bytes or 0)
    assert many.compute.hardware_flops_per_step == 8 * (once.compute.hardware_flops_per_step or 0)
    moved, moved_once = (
        {term.label: term.value for term in found.compute.trees}["bytes moved"]
        for found in (many, once)
    )
    assert moved_once > once.parameters.total * 2  # every weight is read
    assert moved_once < moved < 8 * moved_once  # the optimizer steps once


def test_kept_outputs_take_memory(llama: dict[str, Any]) -> None:
    options = {"engine": "trace", "seq_len": 512, "precision": "bf16"}
    dropped = lmsize.train(llama, **options).memory.peak_allocated_bytes or 0
    kept = lmsize.train(llama, keep_outputs=True, **options).memory.peak_allocated_bytes or 0
    assert kept - dropped == 512 * llama["vocab_size"] * 2  # the logits


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"trace_device": "tpu"}, "cuda, cpu"),
        ({"timeline": "step.gif"}, ".html"),
        ({"zero": 1, "accelerators": 2}, "--zero"),
        ({"tp": 2, "method": "qlora"}, "--tp"),
        ({"tp": 2, "method": "lora"}, "o_proj"),
        ({"tp": 2, "method": "lora", "modules_to_save": "lm_head"}, "gets no gradient"),
        ({"pp": 2}, "--pp"),
        ({"optimizer_impl": "fast"}, "foreach"),
        ({"precision": "fp8"}, "fp8"),
        ({"lengths": "varied"}, "--lengths"),
        ({"sequence_parallel": True, "tp": 2, "accelerators": 2}, "--sequence-parallel"),
    ],
)
def test_refused(llama: dict[str, Any], options: dict[str, Any], said: str) -> None:
    with pytest.raises(LmsizeError) as caught:
        lmsize.train(llama, engine="trace", seq_len=32, **options)
    assert said in str(caught.value)


def test_options_of_the_trace_need_it(llama: dict[str, Any]) -> None:
    with pytest.raises(LmsizeError):
        lmsize.train(llama, seq_len=32, trace_device="cpu")


def test_hub_code_is_never_run(tmp_path: Path, llama: dict[str, Any]) -> None:
    config = {**llama, "model_type": "own_kind", "architectures": ["OwnForCausalLM"]}
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "modeling_own.py").write_text("raise SystemExit('the code of the Hub was run')")
    run = subprocess.run(
        [sys.executable, "-m", "lmsize", "train", str(tmp_path), "--engine", "trace"],
        capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert run.returncode == 2
    assert "no code of the Hub is run" in run.stderr
    assert "Traceback" not in run.stderr


def test_modules_trained_whole_are_refused(llama: dict[str, Any]) -> None:
    with pytest.raises(LmsizeError, match="modules-to-save"):
        lmsize.train(llama, engine="trace", method="lora", modules_to_save="lm_head", seq_len=64)
