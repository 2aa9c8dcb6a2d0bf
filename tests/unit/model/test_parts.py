"""Parts and the parameters they say they hold."""

from __future__ import annotations

import math

import pytest

from lmsize.model.parameter import Parameter
from lmsize.model.parts import (
    AttentionCore,
    Conv,
    Embedding,
    Experts,
    Linear,
    Norm,
    Part,
    Plain,
    Scan,
)


def held(part: Part) -> dict[str, Parameter]:
    return {parameter.name: parameter for parameter in part.parameters()}


def total(part: Part) -> int:
    return sum(parameter.n_params for parameter in part.parameters())


def test_parameter_counts_all_its_tensors() -> None:
    assert Parameter("w", (3, 5), "matrix", n_tensors=4).n_params == 60
    assert Parameter("scalar", (), "vector").n_params == 1


# -- Linear ----------------------------------------------------------------------------------


def test_linear_is_stored_output_first() -> None:
    parameters = held(Linear("fc", 3, 5, bias=True))
    assert parameters["fc.weight"].shape == (5, 3)
    assert parameters["fc.weight"].kind == "matrix"
    assert parameters["fc.bias"].shape == (5,)
    assert parameters["fc.bias"].kind == "vector"


@pytest.mark.parametrize(("bias", "n"), [(False, 15), (True, 20)])
def test_linear_counts(bias: bool, n: int) -> None:
    assert total(Linear("fc", 3, 5, bias)) == n


def test_tied_linear_holds_its_bias_alone() -> None:
    assert total(Linear("lm_head", 3, 5, tied=True)) == 0
    assert list(held(Linear("lm_head", 3, 5, True, tied=True))) == ["lm_head.bias"]


def test_linear_of_many_modules_holds_them_all() -> None:
    experts = Linear("experts.expert_*.wi", 3, 5, True, n_modules=4, per_token=0.25)
    assert total(experts) == 4 * 20
    weight = held(experts)["experts.expert_*.wi.weight"]
    assert (weight.n_tensors, weight.active_frac) == (4, 0.25)


def test_column_split_divides_the_bias_too() -> None:
    parameters = held(Linear("q", 8, 12, True, "column", n_units=3))
    assert {p.split for p in parameters.values()} == {"column"}
    assert {p.n_units for p in parameters.values()} == {3}


def test_row_split_keeps_the_bias_whole() -> None:
    parameters = held(Linear("o", 12, 8, True, "row", n_units=3))
    assert parameters["o.weight"].split == "row"
    assert parameters["o.bias"].split is None


@pytest.mark.parametrize(("split", "units"), [("column", 5), ("row", 3)])
def test_units_default_to_the_split_dimension(split: str, units: int) -> None:
    linear = Linear("fc", 3, 5, split="column" if split == "column" else "row")
    assert held(linear)["fc.weight"].n_units == units


@pytest.mark.parametrize(("per_token", "active"), [(1.0, 1.0), (3.0, 1.0), (0.5, 0.5), (0.0, 1.0)])
def test_active_share_of_a_linear(per_token: float, active: float) -> None:
    """Running more than once uses no more of it; a pooler is used, if not by every token."""
    assert held(Linear("fc", 3, 5, per_token=per_token))["fc.weight"].active_frac == active


# -- Experts ---------------------------------------------------------------------------------


def test_experts_are_one_tensor_for_each_matrix() -> None:
    experts = Experts("mlp.experts", (("gate_up_proj", 4, 12), ("down_proj", 6, 4)), 8, 2)
    parameters = held(experts)
    assert parameters["mlp.experts.gate_up_proj"].shape == (8, 12, 4)
    assert parameters["mlp.experts.down_proj"].shape == (8, 4, 6)
    assert {p.kind for p in parameters.values()} == {"expert"}
    assert {p.active_frac for p in parameters.values()} == {0.25}
    assert {p.n_units for p in parameters.values()} == {8}
    assert total(experts) == 8 * (48 + 24)


def test_biases_of_experts() -> None:
    experts = Experts("experts", (("up_proj", 4, 6),), 3, 1, bias=True)
    assert held(experts)["experts.up_proj_bias"].shape == (3, 6)
    assert total(experts) == 3 * (24 + 6)


# -- tables, norms, the rest -----------------------------------------------------------------


def test_only_the_vocabulary_is_divided() -> None:
    assert held(Embedding("wte", 10, 4, is_vocabulary=True))["wte.weight"].split == "column"
    positions = held(Embedding("wpe", 10, 4))["wpe.weight"]
    assert (positions.split, positions.kind, positions.n_params) == (None, "embedding", 40)


def test_frozen_table_is_not_trained() -> None:
    assert held(Embedding("wpe", 10, 4))["wpe.weight"].trainable
    assert not held(Embedding("wpe", 10, 4, trainable=False))["wpe.weight"].trainable


@pytest.mark.parametrize(
    ("weight", "bias", "n"),
    [(True, False, 7), (True, True, 14), (False, True, 7), (False, False, 0)],
)
def test_norm_counts(weight: bool, bias: bool, n: int) -> None:
    assert total(Norm("ln", 7, bias, weight)) == n


def test_plain_has_its_shape() -> None:
    assert total(Plain("table", (2, 3, 4))) == 24
    assert total(Plain("scale", ())) == 1
    assert not held(Plain("table", (2,), trainable=False))["table"].trainable


@pytest.mark.parametrize(
    ("n_groups", "bias", "n"),
    [(1, True, 12 * 6 * 3 + 12), (1, False, 12 * 6 * 3), (6, True, 12 * 3 + 12)],
)
def test_conv_counts(n_groups: int, bias: bool, n: int) -> None:
    assert total(Conv("conv", 6, 12, 3, n_groups, bias)) == n


@pytest.mark.parametrize("part", [AttentionCore(4, 2, 8, 8), Scan(100, 1000)])
def test_arithmetic_alone_holds_nothing(part: Part) -> None:
    assert list(part.parameters()) == []


# -- attention -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("core", "cached"),
    [
        (AttentionCore(8, 8, 16, 16), 8 * 32),
        (AttentionCore(8, 2, 16, 16), 2 * 32),
        (AttentionCore(8, 1, 16, 16), 32),
        (AttentionCore(8, 8, 24, 16), 8 * 40),
        (AttentionCore(8, 8, 24, 16, cache_width=576), 576),
        (AttentionCore(8, 8, 16, 16, cache_width=0), 0),
    ],
)
def test_numbers_cached_for_one_token(core: AttentionCore, cached: int) -> None:
    assert core.cached_per_token == cached


def test_shapes_multiply_to_the_count() -> None:
    parts: list[Part] = [
        Linear("fc", 3, 5, True, n_modules=2),
        Experts("e", (("up", 4, 6),), 3, 1, True),
        Embedding("t", 9, 4),
        Norm("n", 4, True),
        Conv("c", 4, 4, 3),
    ]
    for part in parts:
        for parameter in part.parameters():
            assert parameter.n_params == math.prod(parameter.shape) * parameter.n_tensors
