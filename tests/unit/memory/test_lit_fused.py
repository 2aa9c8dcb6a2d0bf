"""lit-gpt with flash-attn's and xformers' kernels."""

from __future__ import annotations

from typing import Any

import lmsize

RUN: dict[str, Any] = {
    "stack": "litgpt", "precision": "bf16", "seq_len": 1024, "micro_batch": 2, "attention": "flash",
    "accelerator": "a100-80gb", "search": False, "calibration": False,
}  # fmt: skip
TOKENS, WIDTH, HEADS, KEYS, INNER, VOCAB = 2048, 2048, 32, 4 * 64, 5632, 32000


def memory(**options: Any) -> Any:
    return lmsize.train("tinyllama-1.1b", **RUN | options).memory


def leaf(label: str, **options: Any) -> Any:
    return next(t for t in memory(**options).tree.walk() if t.label == label)


def test_a_layer_saves_what_its_kernels_read() -> None:
    """The stream before and after both norms, queries, keys, values and what attends, gate and other half."""
    sixteen = 4 * WIDTH + 2 * WIDTH + 2 * KEYS + 2 * INNER
    of_rows = 2 * 4 + HEADS * 4  # deviations of both norms, a log-sum-exp a head
    seed = 16
    expected = TOKENS * (2 * sixteen + of_rows) + seed
    found = leaf("22 x layer", stack_options="fused-kernels").inputs["layer_bytes"]
    assert abs(found - expected) < 1024
    assert leaf("22 x layer").inputs["layer_bytes"] > 2 * found


def test_the_loss_is_written_over_the_logits() -> None:
    """Where litgpt has log-probabilities of all tokens beside them."""
    logits = TOKENS * VOCAB * 4
    own, other = (
        max(m.value for m in memory(stack_options=options).tree.children if "loss" in m.label)
        for options in ("fused-kernels", None)
    )
    assert other - own > 0.9 * logits


def test_a_frozen_product_saves_nothing_and_an_adapted_one_its_input() -> None:
    run = {"method": "lora", "lora_rank": 8, "lora_targets": "all-linear"}
    assert memory(**run, stack_options="fused-kernels").peak_allocated_bytes < (
        memory(**run).peak_allocated_bytes
    )
