"""The published formula for activations, where the rules of thumb are asked for it."""

from __future__ import annotations

from typing import Any

import pytest

import lmsize
from lmsize.errors import InputError


def asked(model: str | None = "gpt2", **more: Any) -> Any:
    return lmsize.train(
        model, engine="rules", precision="fp16", seq_len=1024, micro_batch=2,
        activation_bytes="textbook", **more,
    )  # fmt: skip


def test_a_model_has_the_activations_of_the_formula() -> None:
    """12 layers of ``s b h (34 + 5 a s / h)`` with eager attention, and the output layer."""
    found = asked(attention="eager")
    s, b, h, a, v = 1024, 2, 768, 12, 50257
    layers = 12 * s * b * h * (34 + 5 * a * s / h)
    assert found.memory.components["activations"] == layers + s * b * (2 * h * 2 + 4 * v)
    assert "activations-textbook" in {one.code for one in found.assumptions}
    assert not [one for one in found.warnings if one.code == "activations-missing"]


def test_other_engines_and_questions_have_none() -> None:
    with pytest.raises(InputError, match="--params has no layers"):
        asked(None, params="7B")
    with pytest.raises(InputError, match="of training"):
        lmsize.infer("gpt2", engine="rules", activation_bytes="textbook")
    with pytest.raises(InputError, match="of training"):
        lmsize.compare("gpt2", engine="rules", by="precision", activation_bytes="textbook")
    with pytest.raises(InputError, match="engine rules"):
        lmsize.train("gpt2", activation_bytes="textbook")
