"""A tiny model, and cases of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lmsize.api.measuring import measured_case
from lmsize.measuring.case import Case

TINY: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32,
    "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 128, "max_position_embeddings": 64,
    "_name_or_path": "tiny",
}  # fmt: skip


@pytest.fixture
def tiny() -> dict[str, Any]:
    return dict(TINY)


@pytest.fixture
def tiny_case() -> Callable[..., Case]:
    """A case of the tiny model, options as given."""

    def made(**options: Any) -> Case:
        return measured_case(TINY, device="cpu", **({"precision": "fp32", "seq_len": 16} | options))

    return made


@pytest.fixture
def case(tiny_case: Callable[..., Case]) -> Case:
    return tiny_case()


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Tiny tensors are slower on many threads, most of all where tests run side by side."""
    torch.set_num_threads(1)
