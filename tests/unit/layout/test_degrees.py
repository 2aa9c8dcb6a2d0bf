"""Layouts: which are legal, and what is offered in place of those that are not."""

from __future__ import annotations

import pytest

import lmsize
from lmsize.api.locate import located
from lmsize.catalogue import built_in
from lmsize.errors import LayoutError
from lmsize.layout.degrees import Layout, check, divisors, with_count
from lmsize.model.spec import ModelSpec


def model(name: str) -> ModelSpec:
    return located(name, built_in())


def test_the_count_fills_in_dp() -> None:
    assert with_count(Layout(tp=4, pp=2), 64).dp == 8
    assert with_count(Layout(tp=4, pp=2), None).n_accelerators == 8


def test_a_count_that_the_degrees_do_not_divide_offers_neighbours() -> None:
    with pytest.raises(LayoutError) as caught:
        with_count(Layout(tp=4, pp=2), 20)
    assert caught.value.nearest == (16, 24)


@pytest.mark.parametrize(("tp", "near"), [(3, (2, 4)), (5, (4, 8)), (12, (8, 16)), (64, (32,))])
def test_tp_must_divide_the_heads(tp: int, near: tuple[int, ...]) -> None:
    with pytest.raises(LayoutError) as caught:
        check(Layout(tp=tp), model("llama-3.1-8b"), seq_len=2048)
    assert caught.value.nearest == near


def test_tp_may_exceed_the_kv_heads_it_is_a_multiple_of() -> None:
    check(Layout(tp=16), model("llama-3.1-8b"), seq_len=2048)


@pytest.mark.parametrize(
    ("layout", "option"),
    [
        (Layout(pp=33), "--pp"),
        (Layout(cp=3), "--cp"),
        (Layout(dp=2, ep=2), "--ep"),
        (Layout(sequence_parallel=True), "--sequence-parallel"),
    ],
)
def test_illegal_layouts_name_their_option(layout: Layout, option: str) -> None:
    with pytest.raises(LayoutError) as caught:
        check(layout, model("llama-3.1-8b"), seq_len=2048)
    assert caught.value.what == option


@pytest.mark.parametrize(("dp", "ep"), [(8, 3), (2, 8)])
def test_ep_divides_experts_and_ranks(dp: int, ep: int) -> None:
    with pytest.raises(LayoutError) as caught:
        check(Layout(dp=dp, ep=ep), model("mixtral-8x7b"), seq_len=2048)
    assert caught.value.what == "--ep"


def test_divisors() -> None:
    assert divisors(12) == [1, 2, 3, 4, 6, 12]


def test_a_legal_run_that_is_too_big_is_an_answer() -> None:
    estimate = lmsize.train("llama-3.1-405b", accelerator="h100", seq_len=256)
    assert estimate.verdict.fits is False
    assert estimate.accelerators.min_to_fit is not None
    assert f"-n {estimate.accelerators.min_to_fit} --zero 3" in estimate.verdict.sentence
