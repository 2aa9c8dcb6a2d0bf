"""What Megatron's switches do to a whole step."""

from __future__ import annotations

from typing import Any

import pytest

import lmsize

MODEL = "llama-3.1-8b"
RUN: dict[str, Any] = {
    "stack": "megatron", "tp": 4, "accelerators": 8, "zero": 1, "seq_len": 4096, "accelerator": "h100-80gb",
    "search": False, "sequence_parallel": True, "calibration": False,
}  # fmt: skip


def parts(**options: Any) -> dict[str, int | None]:
    return lmsize.train(MODEL, **RUN | options).memory.components


def peak(**options: Any) -> int:
    found = lmsize.train(MODEL, **RUN | options).memory.peak_allocated_bytes
    assert found is not None
    return found


def test_workspaces_are_those_of_the_accelerator() -> None:
    hopper = parts(stack_options="no-gradient-fusion,no-dataloader-mask")["workspaces"]
    gathered = 4096 * 4096 * 2
    assert hopper == 3 * 32 * 2**20 + gathered
    ampere = parts(
        accelerator="a100-80gb", stack_options="no-gradient-fusion,no-dataloader-mask"
    )["workspaces"]  # fmt: skip
    assert ampere == (2 * 8320 + 4096) * 1024 + gathered


def test_recomputing_some_layers_lies_between_none_and_all() -> None:
    none, some, full = (
        peak(recompute="none"),
        peak(recompute="full", stack_options="recompute-layers=16"),
        peak(recompute="full"),
    )
    assert full < some < none
    assert peak(recompute="full", stack_options="recompute-layers=99") == full


def test_gradients_in_bf16_take_half() -> None:
    fp32 = parts()["gradients"]
    assert parts(stack_options="grad-reduce-in-bf16")["gradients"] == (fp32 or 0) // 2


def test_a_fused_loss_takes_what_it_holds() -> None:
    logits = 4096 * 128256 // 4
    eager, native, te = (
        peak(stack_options=f"cross-entropy={kind}") for kind in ("eager", "native", "te")
    )
    assert native - eager == pytest.approx(4 * logits, abs=1024)
    assert 0 < eager - te <= 4 * logits + 1024
