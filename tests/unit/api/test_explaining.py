"""Every part of an answer about memory can be explained."""

from __future__ import annotations

from typing import Any

import pytest

import lmsize
from lmsize.api.explaining import COMPONENTS, explained
from lmsize.formula import Term
from lmsize.tracing.terms import ORDER

MODEL = "llama-3.1-8b"
RUNS: tuple[dict[str, Any], ...] = (
    {"method": "lora"},
    {"precision": "amp-bf16", "zero": 2, "accelerators": 8, "stack": "deepspeed"},
    {"accelerators": 2, "stack": "transformers"},
    {"stack": "deepspeed", "accelerators": 8, "zero": 0},
    {"stack": "deepspeed", "precision": "fp16", "accelerators": 8, "zero": 1},
    {"stack": "megatron", "grad_accum": 4, "stack_options": "deferred-head", "zero": 1, "accelerators": 8},
    {"stack": "torchtitan", "accelerators": 8, "zero": 3},
    {"stack": "torchtitan", "accelerators": 8, "pp": 2, "zero": 3, "grad_accum": 4},
    {"stack": "litgpt", "accelerators": 8, "zero": 3, "method": "lora"},
)  # fmt: skip


def parts(term: Term) -> set[str]:
    """The parts of every moment in a tree: what stands beside the weights."""
    own = {part.label for part in term.children}
    return (own if "weights" in own else set()).union(*map(parts, term.children))


def test_every_component_of_a_training_answer_is_explained() -> None:
    found = set(ORDER)  # those of a trace
    for options in RUNS:
        tree = lmsize.train(MODEL, seq_len=512, **options).memory.tree
        assert tree is not None
        found |= parts(tree)
    assert found >= {
        "deferred", "workspaces", "main_gradients", "main_weights", "gathered_weights", "gradient_buckets",
    }  # fmt: skip
    for name in found:
        assert name in COMPONENTS
        assert explained(name)


@pytest.mark.parametrize("name", ["workspaces", "deferred", "main_gradients", "buffers", "gathers"])
def test_a_component_has_the_pages_of_its_formulas(name: str) -> None:
    assert {page.name for page in explained(name)} == set(COMPONENTS[name])
