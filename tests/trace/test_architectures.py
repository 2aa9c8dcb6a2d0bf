"""Fake tensors against real steps for more architectures; benchmarks/fake_vs_real.py has them all."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

MODELS = Path(__file__).parent / "small_models.toml"
FP32, BF16, EAGER = {"precision": "fp32"}, {"precision": "bf16"}, {"attention": "eager"}
CKPT, LORA = {"recompute": "full"}, {"method": "lora"}
CASES = [
    ("qwen2", LORA | CKPT | BF16),  # sums of several types, which the CPU copies to one
    ("phi", {}),  # layer norms over 16 bits with fp32 weights
    ("qwen3_moe", CKPT | FP32),  # zeros filled in the backward of an index
    ("deepseek_v3", CKPT), ("deepseek_v2", FP32 | LORA), ("dbrx", BF16 | EAGER),
    ("gpt_oss", FP32 | EAGER), ("mamba2", BF16 | EAGER), ("qwen3_next", FP32),
    ("modernbert", BF16), ("gemma3", {}), ("mt5", FP32 | {"grad_accum": 2}), ("albert", {}),
    ("deberta-v2", EAGER), ("olmo2", FP32 | {"micro_batch": 1, "seq_len": 1}),
]  # fmt: skip


def config(model: str) -> dict[str, Any]:
    table = tomllib.loads(MODELS.read_text("utf-8"))
    own = table["models"][model]
    usual = {} if own.pop("only", False) else table["usual"]
    return {"model_type": model, **usual, **own}


@pytest.mark.parametrize(("model", "options"), CASES, ids=lambda o: str(o).replace(" ", ""))
def test_traced_peak_is_real(
    model: str, options: dict[str, Any], filled: Callable[..., Any],
    real_peak: Callable[[Callable[[], Any]], int],
) -> None:  # fmt: skip
    from lmsize.step.training import built_step
    from lmsize.tracing.peaks import as_requested, peaks
    from lmsize.tracing.pretence import weights_left_blank
    from lmsize.tracing.running import Device, traced

    spec = filled(**({"micro_batch": 4, "seq_len": 72} | options))

    def build() -> Any:
        return built_step(config(model), spec, device="cpu")

    def blank() -> Any:
        with weights_left_blank():
            return build()

    found = peaks(traced(blank, Device("cpu")).entries, as_requested)
    traced_bytes = max(p.n_bytes for p in found if p.phase.startswith("2."))
    assert traced_bytes == pytest.approx(real_peak(build), rel=2e-4)
