"""Laws over forty layouts of Megatron: dense and mixtures, every kind of parallelism and recompute."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

import lmsize

DENSE, LARGE = "llama-3.1-8b", "llama-3.1-70b"
MIXTRAL, QWEN, DEEPSEEK = "mixtral-8x7b", "qwen3-30b-a3b", "deepseek-v3"
FUSED = "permute-fusion,router-fusion,dispatcher=alltoall"
LAYOUTS: dict[str, dict[str, Any]] = {
    "one": {"model": DENSE},
    "dp8": {"model": DENSE, "accelerators": 8, "zero": 1},
    "tp2": {"model": DENSE, "accelerators": 8, "tp": 2, "zero": 1},
    "tp2 sp": {"model": DENSE, "accelerators": 8, "tp": 2, "sequence_parallel": True, "zero": 1},
    "tp8 sp": {"model": DENSE, "accelerators": 8, "tp": 8, "sequence_parallel": True},
    "pp2": {"model": DENSE, "accelerators": 8, "pp": 2, "grad_accum": 8, "zero": 1},
    "pp4": {"model": DENSE, "accelerators": 8, "pp": 4, "grad_accum": 16, "zero": 1},
    "pp8": {"model": DENSE, "accelerators": 8, "pp": 8, "grad_accum": 32},
    "pp4 vp2": {"model": DENSE, "accelerators": 8, "pp": 4, "vp": 2, "grad_accum": 16, "zero": 1},
    "pp4 vp8": {"model": DENSE, "accelerators": 8, "pp": 4, "vp": 8, "grad_accum": 16, "zero": 1},
    "uneven": {
        "model": DENSE, "accelerators": 8, "pp": 4, "grad_accum": 16,
        "stack_options": "first-stage-layers=7,last-stage-layers=7",
    },
    "accounted": {
        "model": DENSE, "accelerators": 8, "pp": 2, "grad_accum": 16,
        "stack_options": "stage-layers=9+8+8+7", "vp": 2,
    },
    "cp2": {"model": DENSE, "accelerators": 8, "cp": 2, "seq_len": 16384, "zero": 1},
    "cp4 tp2": {
        "model": DENSE, "accelerators": 8, "cp": 4, "tp": 2, "sequence_parallel": True,
        "seq_len": 32768, "zero": 1,
    },
    "70b tp8": {"model": LARGE, "accelerators": 8, "tp": 8, "sequence_parallel": True},
    "70b tp4 pp4": {
        "model": LARGE, "accelerators": 64, "tp": 4, "pp": 4, "sequence_parallel": True,
        "grad_accum": 32, "zero": 1,
    },
    "70b vp5": {
        "model": LARGE, "accelerators": 64, "tp": 4, "pp": 4, "vp": 5, "sequence_parallel": True,
        "grad_accum": 32, "zero": 1,
    },
    "70b cp2": {
        "model": LARGE, "accelerators": 64, "tp": 4, "pp": 4, "cp": 2, "sequence_parallel": True,
        "grad_accum": 32, "zero": 1, "seq_len": 8192,
    },
    "full": {"model": LARGE, "accelerators": 16, "tp": 8, "sequence_parallel": True, "recompute": "full"},
    "block": {
        "model": LARGE, "accelerators": 16, "tp": 8, "sequence_parallel": True, "recompute": "full",
        "stack_options": "recompute-layers=40",
    },
    "chunks": {
        "model": LARGE, "accelerators": 16, "tp": 8, "sequence_parallel": True, "recompute": "full",
        "stack_options": "recompute-chunk=4",
    },
    "mlp again": {
        "model": LARGE, "accelerators": 16, "tp": 8, "sequence_parallel": True,
        "recompute": "selective", "stack_options": "recompute-modules=mlp",
    },
    "te loss": {"model": DENSE, "accelerators": 8, "stack_options": "cross-entropy=te", "zero": 1},
    "deferred": {
        "model": DENSE, "accelerators": 8, "pp": 4, "grad_accum": 16, "stack_options": "deferred-head",
    },
    "fp8": {"model": DENSE, "accelerators": 8, "precision": "fp8", "zero": 1},
    "fp8 blockwise": {
        "model": LARGE, "accelerators": 16, "tp": 8, "sequence_parallel": True, "precision": "fp8",
        "stack_options": "fp8-recipe=blockwise,fp8-param-gather,bf16-first-layers=1,bf16-last-layers=1",
    },
    "mxfp8": {
        "model": LARGE, "accelerators": 16, "tp": 4, "pp": 4, "sequence_parallel": True,
        "precision": "fp8", "stack_options": "fp8-recipe=mxfp8", "grad_accum": 16,
    },
    "precision-aware": {
        "model": DENSE, "accelerators": 8, "zero": 1,
        "stack_options": "precision-aware,exp-avg-dtype=bf16,exp-avg-sq-dtype=bf16",
    },
    "offload": {"model": DENSE, "accelerators": 8, "zero": 1, "stack_options": "optimizer-offload=0.5"},
    "mixtral ep8": {"model": MIXTRAL, "accelerators": 8, "ep": 8, "zero": 1},
    "mixtral ep4 tp2": {
        "model": MIXTRAL, "accelerators": 8, "ep": 4, "tp": 2, "sequence_parallel": True, "zero": 1,
        "etp": 1,
    },
    "mixtral etp2": {
        "model": MIXTRAL, "accelerators": 16, "ep": 4, "tp": 2, "etp": 2, "sequence_parallel": True,
        "zero": 1,
    },
    "mixtral gather": {
        "model": MIXTRAL, "accelerators": 8, "ep": 8, "stack_options": "dispatcher=allgather",
    },
    "mixtral padded": {
        "model": MIXTRAL, "accelerators": 8, "ep": 8,
        "stack_options": "capacity-factor=1.25,pads-to-capacity",
    },
    "qwen ep8": {"model": QWEN, "accelerators": 8, "ep": 8, "zero": 1, "stack_options": FUSED},
    "qwen pp2 act": {
        "model": QWEN, "accelerators": 16, "ep": 8, "pp": 2, "grad_accum": 8, "zero": 1,
        "recompute": "selective", "stack_options": f"{FUSED},recompute-modules=moe_act+layernorm",
    },
    "qwen full": {"model": QWEN, "accelerators": 8, "ep": 8, "recompute": "full", "zero": 1},
    "deepseek": {
        "model": DEEPSEEK, "accelerators": 1024, "pp": 16, "ep": 64, "zero": 1, "grad_accum": 64,
        "stack_options": f"{FUSED},router-score=sigmoid,first-stage-layers=3,last-stage-layers=2",
    },
    "deepseek tp": {
        "model": DEEPSEEK, "accelerators": 1024, "pp": 8, "tp": 2, "ep": 64, "etp": 1, "zero": 1,
        "sequence_parallel": True, "grad_accum": 64, "recompute": "selective",
        "stack_options": f"{FUSED},router-score=sigmoid,last-stage-layers=5,recompute-modules=mla_up_proj+mlp+layernorm",
    },
    "deepseek mtp": {
        "model": DEEPSEEK, "accelerators": 1024, "pp": 8, "tp": 2, "ep": 64, "etp": 1, "zero": 1,
        "sequence_parallel": True, "grad_accum": 64, "precision": "fp8", "recompute": "full",
        "stack_options": f"{FUSED},router-score=sigmoid,last-stage-layers=5,mtp-layers=1,fp8-recipe=blockwise",
    },
}  # fmt: skip
NAMES = list(LAYOUTS)


@cache
def _asked(name: str, changes: tuple[tuple[str, Any], ...]) -> Any:
    options = {
        "stack": "megatron", "seq_len": 4096, "accelerator": "b200", "search": False,
        "calibration": False,
    } | LAYOUTS[name] | dict(changes)  # fmt: skip
    return lmsize.train(options.pop("model"), **options)


def memory(name: str, **changes: Any) -> Any:
    return _asked(name, tuple(sorted(changes.items()))).memory


def peak(name: str, **changes: Any) -> int:
    return int(memory(name, **changes).peak_allocated_bytes)


def test_there_are_forty() -> None:
    assert len(NAMES) == 40


@pytest.mark.parametrize("name", NAMES)
def test_every_layout_is_taped_and_its_components_make_the_peak(name: str) -> None:
    estimate = _asked(name, ())
    assert "activations-textbook" not in {one.code for one in estimate.assumptions}
    parts = estimate.memory.components
    total = sum(value for value in parts.values() if value)
    assert total == pytest.approx(estimate.memory.peak_allocated_bytes, rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_more_tokens_never_take_less(name: str) -> None:
    assert peak(name, micro_batch=2) > peak(name)


@pytest.mark.parametrize("name", NAMES)
def test_full_recomputation_never_takes_more(name: str) -> None:
    if LAYOUTS[name].get("recompute", "none") == "none":
        assert peak(name, recompute="full") <= peak(name)


@pytest.mark.parametrize("name", NAMES)
def test_the_worst_stage_is_at_least_the_first_and_the_last(name: str) -> None:
    if LAYOUTS[name].get("pp", 1) > 1:
        ends = [peak(name, pipeline_stage=stage) for stage in ("first", "last")]
        assert peak(name) >= max(ends)
        assert "on stage" in memory(name).tree.label


@pytest.mark.parametrize("name", [n for n in NAMES if LAYOUTS[n].get("accelerators", 1) > 1])
def test_sharded_states_never_take_more(name: str) -> None:
    assert peak(name, zero=1) <= peak(name, zero=0)


@pytest.mark.parametrize(
    "name", [n for n in NAMES if LAYOUTS[n].get("pp", 1) > 1 and "vp" not in LAYOUTS[n]]
)
def test_more_micro_batches_fill_the_pipeline_and_no_more(name: str) -> None:
    pp = LAYOUTS[name]["pp"]
    kept = {n: memory(name, grad_accum=n).components["activations"] for n in (1, pp, 4 * pp)}
    assert kept[1] <= kept[pp]
    if "deferred" not in LAYOUTS[name].get("stack_options", ""):
        assert kept[pp] == kept[4 * pp]
