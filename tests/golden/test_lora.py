"""LoRA sizes against peft's own (peft 0.21), and the weights that bitsandbytes replaces."""

from __future__ import annotations

import pytest

import lmsize
from lmsize.catalogue import built_in
from lmsize.model.count import n_params
from lmsize.model.parts import Linear
from lmsize.model.read import read_config
from lmsize.model.spec import ModelSpec
from lmsize.workload.adapters import adapter_model


def spec(name: str) -> ModelSpec:
    return read_config(built_in().model(name)[0].config, name=name)


@pytest.mark.parametrize(
    ("model", "rank", "targets", "expected"),
    [
        ("llama-2-7b", 8, "q_proj,v_proj", 4_194_304),
        ("llama-3.1-8b", 16, "attention", 13_631_488),
        ("llama-3.1-8b", 16, "q_proj,k_proj,v_proj,o_proj", 13_631_488),
        ("llama-3.1-8b", 16, "all-linear", 41_943_040),
        ("llama-3.1-70b", 16, "all-linear", 207_093_760),
        ("qwen2.5-7b", 64, "all-linear", 161_480_704),
        ("gpt2", 8, "c_attn", 294_912),
    ],
)
def test_adapter_parameters_equal_peft(model: str, rank: int, targets: str, expected: int) -> None:
    assert n_params(adapter_model(spec(model), rank=rank, targets=targets)) == expected
    estimate = lmsize.train(model, method="lora", lora_rank=rank, lora_targets=targets)
    assert estimate.parameters.trainable == expected


def test_bitsandbytes_replaces_the_linears_of_the_layers() -> None:
    linears = [
        (part.n_in * part.n_out, run.n_copies)
        for _, run in spec("llama-3.1-8b").runs()
        for part in run.block.parts
        if isinstance(part, Linear) and part.adaptable
    ]
    assert sum(copies for _, copies in linears) == 224
    assert sum(size * copies for size, copies in linears) == 6_979_321_856


def test_expert_adapters_are_their_own_switch() -> None:
    mixtral = spec("mixtral-8x7b")
    without = n_params(adapter_model(mixtral, rank=8, targets="all-linear"))
    with_experts = n_params(adapter_model(mixtral, rank=8, targets="all-linear", experts=True))
    # 32 layers x 8 experts x (gate_up: 4096 -> 28672, down: 14336 -> 4096) at rank 8
    assert with_experts - without == 32 * 8 * 8 * ((4096 + 28672) + (14336 + 4096))


@pytest.mark.parametrize("targets", ["k_porj", "c_attn", "", "q_proj,nothing"])
def test_targets_that_match_nothing_are_refused(targets: str) -> None:
    with pytest.raises(lmsize.InputError):
        lmsize.train("llama-3.1-8b", method="lora", lora_targets=targets)


def test_the_nearest_module_is_offered() -> None:
    with pytest.raises(lmsize.InputError, match="k_proj"):
        lmsize.train("llama-3.1-8b", method="lora", lora_targets="k_porj")
