"""What a factory writes down, and what an optimizer makes at once, as a real step has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import lmsize

Factory = Callable[[], dict[str, Any]]


def compared(factory: Factory, real_peak: Callable[[Callable[[], Any]], int]) -> tuple[int, int]:
    """Traced and real peak of a factory's step on the CPU."""
    from lmsize.tracing.factory import UserStep

    found = lmsize.trace(factory, trace_device="cpu").memory.peak_allocated_bytes
    return found or 0, real_peak(lambda: UserStep(factory(), foreach=False))


@pytest.mark.parametrize("n_padded", [0, 5])
def test_a_padded_mask_is_seen(
    n_padded: int, llama: dict[str, Any], real_peak: Callable[[Callable[[], Any]], int]
) -> None:
    def factory() -> dict[str, Any]:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        model = LlamaForCausalLM(LlamaConfig(**llama, use_cache=False))
        ids = torch.randint(llama["vocab_size"], (2, 160))
        mask, labels = torch.ones_like(ids), ids.clone()
        mask[:, 160 - n_padded :] = 0
        labels[:, 160 - n_padded :] = -100
        return {
            "model": model,
            "batch": {"input_ids": ids, "labels": labels, "attention_mask": mask},
        }

    traced, real = compared(factory, real_peak)
    assert traced == pytest.approx(real, rel=2e-4)


def test_states_of_what_is_never_used(real_peak: Callable[[Callable[[], Any]], int]) -> None:
    def factory() -> dict[str, Any]:
        import torch

        model = torch.nn.ModuleDict(
            {"used": torch.nn.Linear(40, 30), "idle": torch.nn.Linear(40, 30)}
        )
        return {
            "model": model,
            "batch": torch.randn(8, 40),
            "loss": lambda model, batch: model["used"](batch).sum(),
            "optimizer": torch.optim.Adagrad(model.parameters(), foreach=False),
        }

    traced, real = compared(factory, real_peak)
    assert traced == pytest.approx(real, abs=64)
