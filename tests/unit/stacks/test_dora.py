"""DoRA: what it adds to LoRA."""

from __future__ import annotations

import pytest

import lmsize


def test_a_magnitude_for_every_output_of_an_adapted_linear() -> None:
    lora, dora = (
        lmsize.train("llama-3.1-8b", method="lora", adapter=kind, lora_targets="q_proj,v_proj")
        for kind in ("rslora", "dora")
    )
    plain = lmsize.train("llama-3.1-8b", method="lora", lora_targets="q_proj,v_proj")
    assert lora.parameters.trainable == plain.parameters.trainable
    added = (dora.parameters.trainable or 0) - (plain.parameters.trainable or 0)
    assert added == 32 * (4096 + 1024)


def test_the_norm_of_the_summed_weights_is_taken_in_full() -> None:
    """At one token: a unit matrix and its cast, two weights in fp32, their scaled sum."""
    options = {"method": "lora", "micro_batch": 1, "seq_len": 1, "precision": "bf16"}
    lora, dora = (
        lmsize.train("llama-3.1-8b", adapter=kind, **options).memory.peak_allocated_bytes or 0
        for kind in ("lora", "dora")
    )
    widest = 4 * 4096 * 14336
    assert dora - lora > 3 * widest


def test_no_adapter_with_full_training() -> None:
    with pytest.raises(lmsize.InputError, match="--adapter"):
        lmsize.train("gpt2", adapter="dora")
