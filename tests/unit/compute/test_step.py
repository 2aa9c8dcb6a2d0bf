"""FLOPs of a step against closed forms that are found in the literature."""

from __future__ import annotations

import pytest

from lmsize.api.locate import located
from lmsize.catalogue import built_in
from lmsize.compute.arithmetic import attention_pairs
from lmsize.compute.step import StepWork, step_work
from lmsize.workload.adapters import adapter_model


def work_of(name: str, **changes: object) -> StepWork:
    model = located(name, built_in())
    asked = {"n_sequences": 1, "seq_len": 1024, "recompute": "none", "attention": "sdpa"} | changes
    return step_work(model, **asked)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("window", "causal", "expected"), [(8, 1, 36), (8, 0, 64), (3, 1, 21), (3, 0, 24), (1, 1, 8)]
)
def test_pairs_are_those_of_the_mask(window: int, causal: int, expected: int) -> None:
    """Counted by hand on a square of eight: triangle, square, bands."""
    pairs = attention_pairs(n_queries=8, n_keys=8, window=window, causal=causal)
    assert pairs == expected
    if causal:
        assert expected == sum(min(i + 1, window) for i in range(8))


def test_a_dense_decoder_is_six_times_its_matrices_and_its_triangle() -> None:
    length, width, layers = 1024, 4096, 32
    matrices = 8_030_261_248 - 128_256 * 4096 - (2 * layers + 1) * width
    triangle = length * (length + 1) / 2
    expected = 6 * matrices * length + 12 * layers * triangle * width
    assert work_of("llama-3.1-8b").model.value == pytest.approx(expected, rel=1e-12)


def test_a_tied_head_works_though_it_holds_nothing() -> None:
    length, width, vocab = 1024, 768, 50257
    matrices = 12 * 12 * width * width + vocab * width
    triangle = length * (length + 1) / 2
    expected = 6 * matrices * length + 12 * 12 * triangle * width
    assert work_of("gpt2").model.value == pytest.approx(expected, rel=1e-12)


def test_only_the_chosen_experts_work() -> None:
    found = work_of("mixtral-8x7b", seq_len=1).model.value
    layers, width, ffn = 32, 4096, 14336
    attention = width * (width + 1024 + 1024 + width)
    each = attention + width * 8 + 2 * 3 * width * ffn
    assert found == pytest.approx(6 * (layers * each + 32000 * width) + 12 * layers * width)


def test_a_window_bounds_what_attention_costs() -> None:
    short, long = (work_of("mistral-7b-v0.1", seq_len=n).model.value for n in (4096, 16384))
    per_token = [short / 4096, long / 16384]
    full = [work_of("llama-2-7b", seq_len=n).model.value / n for n in (4096, 16384)]
    assert per_token[1] / per_token[0] < full[1] / full[0]


def test_recompute_repeats_the_layers_once() -> None:
    plain, full = (work_of("llama-3.1-8b", recompute=r) for r in ("none", "full"))
    assert plain.model.value == full.model.value
    again = full.hardware.value - plain.hardware.value
    assert 0.24 < again / plain.hardware.value < 0.34
    selective = work_of("llama-3.1-8b", recompute="selective").hardware.value
    assert plain.hardware.value < selective < full.hardware.value


def test_eager_attention_computes_the_masked_half_too() -> None:
    assert (
        work_of("llama-3.1-8b", attention="eager").hardware.value
        > work_of("llama-3.1-8b").hardware.value
    )


def test_a_frozen_base_needs_no_gradient_of_its_weights() -> None:
    model = located("llama-3.1-8b", built_in())
    adapters = adapter_model(model, rank=16, targets="all-linear")
    lora = work_of("llama-3.1-8b", adapters=adapters).model.value
    assert 0.66 < lora / work_of("llama-3.1-8b").model.value < 0.72


def test_encoder_decoders_run_both_towers() -> None:
    found = {t.label for t in work_of("t5-base", seq_len=512).model.walk()}
    assert any("encoder" in label for label in found)
    assert any("decoder" in label or "layer" in label for label in found)
