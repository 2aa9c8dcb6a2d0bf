"""Fake tensors against a real step on the CPU: the traced peak is the allocator's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

CASES = [
    {"precision": "fp32"},
    {"precision": "amp-bf16"},
    {"precision": "bf16"},
    {"attention": "eager"},
    {"recompute": "full"},
    {"method": "lora"},
]


@pytest.mark.parametrize("options", CASES, ids=lambda o: "-".join(o.values()))
def test_traced_peak_is_real(
    options: dict[str, str], filled: Callable[..., Any], llama: dict[str, Any],
    real_peak: Callable[[Callable[[], Any]], int],
) -> None:  # fmt: skip
    from lmsize.step.training import built_step
    from lmsize.tracing.peaks import as_requested, peaks
    from lmsize.tracing.running import Device, traced

    def build() -> Any:
        return built_step(llama, filled(**options), device="cpu")

    log = traced(build, Device("cpu"))
    steady = [p for p in peaks(log.entries, as_requested) if p.phase.startswith("2.")]
    assert max(p.n_bytes for p in steady) == pytest.approx(real_peak(build), rel=2e-4)
