"""The engine ``rules``: what is multiplied, what is summed, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lmsize
from lmsize.errors import InputError

TRAINING = {"engine": "rules", "params": "7e9", "precision": "fp16"}
CONTRACT = {
    "weights",
    "gradients",
    "optimizer_states",
    "activations",
    "adapter_weights",
    "temporaries",
}


def summed(estimate: lmsize.Estimate) -> int:
    return sum(size or 0 for size in estimate.memory.components.values())


def test_what_is_missing_is_null_and_not_summed() -> None:
    memory = lmsize.train(**TRAINING).as_dict()["memory"]
    assert set(memory["components"]) == CONTRACT
    assert memory["components"]["activations"] is None
    assert memory["components"]["adapter_weights"] is None
    assert memory["peak_allocated_bytes"] == 7e9 * (2 + 2 + 8)


def test_what_is_left_out_is_null_and_not_summed() -> None:
    memory = lmsize.train(**TRAINING, leave_out="gradients").as_dict()["memory"]
    assert memory["components"]["gradients"] is None
    assert memory["peak_allocated_bytes"] == 7e9 * (2 + 8)


def test_a_part_that_is_nothing_is_zero_and_not_null() -> None:
    memory = lmsize.train(**TRAINING, optimizer="sgd", activation_bytes=0).as_dict()["memory"]
    assert memory["components"]["optimizer_states"] == 0
    assert memory["components"]["activations"] == 0


def test_inference_has_the_same_names_with_null() -> None:
    memory = lmsize.infer(engine="rules", params="1B", quant="int4").as_dict()["memory"]
    known = {name: size for name, size in memory["components"].items() if size is not None}
    assert set(memory["components"]) >= CONTRACT
    assert known == {"weights": 500_000_000}


def test_a_range_of_activations_gives_both_ends_and_the_upper_peak() -> None:
    memory = lmsize.train(**TRAINING, activation_bytes="25e9..40e9").memory
    assert memory.low_bytes == 7e9 * 12 + 25e9
    assert memory.high_bytes == memory.peak_allocated_bytes == 7e9 * 12 + 40e9
    assert memory.components["activations"] == 40e9


@pytest.mark.parametrize("options", [{}, {"activation_bytes": "3GB"}])
def test_without_a_range_both_ends_are_the_peak(options: dict[str, Any]) -> None:
    memory = lmsize.train(**TRAINING, **options).memory
    assert memory.low_bytes == memory.high_bytes == memory.peak_allocated_bytes


@given(
    params=st.integers(1, 10**13), share=st.floats(1e-6, 1), quant=st.sampled_from(["int4", "int8"])
)
def test_components_are_whole_bytes_that_sum_to_the_peak(
    params: int, share: float, quant: str
) -> None:
    estimate = lmsize.train(
        engine="rules", params=params, method="qlora", quant=quant, adapter_fraction=share
    )
    assert all(isinstance(size, int) for size in estimate.memory.components.values() if size)
    assert summed(estimate) == estimate.memory.peak_allocated_bytes
    assert isinstance(estimate.parameters.trainable, int)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "amp-bf16", "amp-fp16"])
def test_autocast_and_tf32_store_fp32(precision: str) -> None:
    parts = lmsize.train(engine="rules", params=1000, precision=precision).memory.components
    assert (parts["weights"], parts["gradients"], parts["optimizer_states"]) == (4000, 4000, 8000)


@pytest.mark.parametrize(("name", "bits"), [("fp32", 64), ("fp16", 32)])
def test_states_take_the_type_asked_for(name: str, bits: int) -> None:
    parts = lmsize.train(**TRAINING, state_precision=name).memory.components
    assert parts["optimizer_states"] == 7e9 * bits / 8


def test_a_catalogue_model_is_multiplied_by_its_own_count() -> None:
    rules, exact = (
        lmsize.train("llama-3.1-8b", engine=engine, precision="bf16", seq_len=128)
        for engine in ("rules", "analytic")
    )
    assert rules.parameters == exact.parameters
    assert rules.memory.components["weights"] == exact.memory.components["weights"]
    assert rules.compute.model_flops_per_step == 6 * 128 * (exact.parameters.total or 0)


def test_a_mixture_of_experts_computes_with_its_active_parameters() -> None:
    found = lmsize.train("mixtral-8x7b", engine="rules", seq_len=100)
    counts = found.parameters
    assert (counts.active_per_token or 0) < (counts.total or 0)
    assert found.compute.model_flops_per_step == 6 * 100 * (counts.active_per_token or 0)
    assert found.memory.components["weights"] == 4 * (counts.total or 0)


def test_a_frozen_base_costs_four_flops_and_its_adapters_six() -> None:
    found = lmsize.train(**TRAINING, method="lora", adapter_fraction=0.1, seq_len=1)
    assert found.compute.model_flops_per_step == pytest.approx(7e9 * 4 + 7e8 * 6)


def test_inference_takes_the_peak_that_was_given() -> None:
    found = lmsize.infer(
        engine="rules", params="1e9", prompt=500, peak_flops="1e15", efficiency=0.5
    )
    assert found.compute.model_flops_per_step == 2 * 500 * 1e9
    assert found.serving.prefill_s == pytest.approx(1e12 / 0.5e15)


def test_a_figure_for_a_sequence_stands_instead_of_the_rule() -> None:
    found = lmsize.infer(engine="rules", params="1e9", prompt=500, flops_per_sequence="3e12")
    assert found.compute.model_flops_per_step == 3e12


def test_the_deadline_is_met_by_whole_accelerators_without_naming_one() -> None:
    run = {"flops_per_sequence": "1e12", "peak_flops": "1e12", "efficiency": 1, "steps": 100}
    needed = [
        lmsize.train(**TRAINING, **run, deadline=deadline).accelerators.needed_for_deadline
        for deadline in ("200s", "100s", "99s", "33s")
    ]
    assert needed == [1, 1, 2, 4]


def test_a_comparison_of_precisions_takes_a_catalogue_model() -> None:
    rows = lmsize.compare("llama-2-13b", engine="rules", by="precision")
    assert [row.task for row in rows] == ["train", "train", "infer"]
    total = rows[0].parameters.total or 0
    assert [row.memory.components["weights"] for row in rows] == [4 * total, 2 * total, total]


@pytest.mark.parametrize(
    ("model", "options", "named"),
    [
        (None, {}, "MODEL"),
        ("llama-3.1-8b", {"params": "7e9"}, "MODEL"),
        (None, {"params": "7e9", "leave_out": "weights"}, "--leave-out"),
        (None, {"params": "7e9", "state_precision": "bf16"}, "--state-precision"),
        (None, {"params": "7e9", "adapter_fraction": 2}, "--adapter-fraction"),
        (None, {"params": "7e9", "activation_bytes": "40e9..25e9"}, "--activation-bytes"),
        (None, {"params": "0"}, "--params"),
    ],
)
def test_senseless_input_is_refused_by_name(
    model: str | None, options: dict[str, Any], named: str
) -> None:
    with pytest.raises(InputError, match=named):
        lmsize.train(model, engine="rules", **options)


@pytest.mark.parametrize(
    "options", [{"params": "7e9"}, {"efficiency": 0.5}, {"leave_out": "gradients"}]
)
def test_other_engines_refuse_what_only_the_rules_take(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="--engine rules"):
        lmsize.train("llama-3.1-8b", **options)
