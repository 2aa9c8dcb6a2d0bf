"""What an answer says that it takes for granted is so in its stack."""

from __future__ import annotations

from typing import Any

import pytest

import lmsize


def said(code: str, **options: Any) -> str:
    answer = lmsize.train("llama-3.2-1b", seq_len=256, **options)
    return next((one.text for one in answer.assumptions if one.code == code), "")


@pytest.mark.parametrize(
    ("stack", "precision", "kind", "dropout"),
    [
        ("transformers", "bf16", "fp32", "no dropout"), ("unsloth", "bf16", "fp32", "no dropout"),
        ("litgpt", "bf16", "bf16", "a dropout of 5%"), ("deepspeed", "fp16", "fp16", "no dropout"),
    ],
)  # fmt: skip
def test_adapters_are_told_as_their_stack_makes_them(
    stack: str, precision: str, kind: str, dropout: str
) -> None:
    text = said("peft-defaults", stack=stack, precision=precision, method="lora")
    assert text == f"adapters as {stack} makes them by default: {kind}, {dropout}"
    assert not said("peft-defaults", stack=stack, precision=precision)


def test_what_is_not_quantised_is_told_in_its_own_type() -> None:
    options = {"method": "qlora", "precision": "bf16"}
    by_peft = said("kbit-preparation", stack="transformers", **options)
    assert "kept in fp32, as peft's" in by_peft
    for stack in ("litgpt", "unsloth"):
        text = said("kbit-preparation", stack=stack, **options)
        assert text.endswith("kept in bf16")
    assert said("kbit-preparation", quant="gptq-int4", **options).endswith("kept in bf16")


def test_only_what_gathers_block_by_block_says_so() -> None:
    options = {"accelerators": 8, "zero": 3}
    assert said("zero3-gather", stack="deepspeed", **options)
    for stack in ("transformers", "torchtitan", "litgpt"):
        shares_units = {"method": "lora"} if stack == "litgpt" else {}
        assert not said("zero3-gather", stack=stack, **options, **shares_units)
