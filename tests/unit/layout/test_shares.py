"""What one rank holds: the ranks together hold the whole."""

from __future__ import annotations

import math

import pytest

from lmsize.api.locate import located
from lmsize.catalogue import built_in
from lmsize.layout.degrees import Layout
from lmsize.layout.schedule import Schedule
from lmsize.layout.shares import rank_shape, stages, stored_parts
from lmsize.layout.split import EVEN, Split
from lmsize.model.count import n_params
from lmsize.model.parameter import Parameter

MODELS = ["llama-3.1-8b", "mixtral-8x7b", "deepseek-v3", "gpt2", "t5-base", "zamba2-1.2b"]


def on_ranks(name: str, layout: Layout) -> int:
    model = located(name, built_in())
    return sum(
        stored.n_params
        for stage in stages(model, layout.pp)
        for stored in stored_parts(stage, layout, trainable=True)
    )


@pytest.mark.parametrize("name", MODELS)
def test_one_rank_holds_the_model(name: str) -> None:
    assert on_ranks(name, Layout()) == n_params(located(name, built_in()))


@pytest.mark.parametrize("pp", [2, 3, 5, 32])
def test_stages_hold_the_model_between_them(pp: int) -> None:
    assert on_ranks("llama-3.1-8b", Layout(pp=pp)) == n_params(located("llama-3.1-8b", built_in()))


def test_a_tied_head_is_a_copy_on_the_last_stage() -> None:
    extra = on_ranks("gpt2", Layout(pp=2)) - n_params(located("gpt2", built_in()))
    assert extra == 50257 * 768


@pytest.mark.parametrize("tp", [2, 4, 8])
def test_tensor_ranks_hold_the_matrices_between_them(tp: int) -> None:
    model = located("llama-3.1-8b", built_in())
    norms = 32 * 2 * 4096 + 4096
    each = on_ranks("llama-3.1-8b", Layout(tp=tp))
    assert tp * (each - norms) + norms == n_params(model)


def test_uneven_division_rounds_up_in_whole_units() -> None:
    table = Parameter("embed", (50257, 768), "embedding", "column", 50257)
    assert rank_shape(table, tp=8, ep=1) == (math.ceil(50257 / 8), 768)
    kv = Parameter("k_proj", (2 * 128, 4096), "matrix", "column", 2)
    assert rank_shape(kv, tp=8, ep=1) == (128, 4096)  # fewer kv heads than ranks: one each


def test_experts_live_where_they_live() -> None:
    whole = Parameter("experts", (64, 2048, 1024), "expert", n_units=64)
    assert rank_shape(whole, tp=1, ep=8) == (8, 2048, 1024)


@pytest.mark.parametrize(
    ("pp", "sizes"), [(4, [8, 8, 8, 8]), (3, [11, 11, 10]), (5, [7, 7, 6, 6, 6])]
)
def test_layers_are_spread_evenly(pp: int, sizes: list[int]) -> None:
    made = stages(located("llama-3.1-8b", built_in()), pp)
    layers = [sum(r.n_layers for _, r in s.runs if r.block.role == "layer") for s in made]
    assert layers == sizes
    assert [s.n_in_flight(100) for s in made] == list(range(pp, 0, -1))


def test_idle_towers_lie_on_the_first_stage_and_are_no_layers() -> None:
    made = stages(located("gemma-3-4b", built_in()), 2)
    assert {tower.stream for tower, _ in made[1].runs} == {"input"}
    text = [
        sum(r.n_layers for t, r in s.runs if t.stream == "input" and r.block.role == "layer")
        for s in made
    ]
    assert text == [17, 17]


def test_a_forward_and_a_backward_in_turns_keep_a_layer_more() -> None:
    stage = stages(located("llama-3.1-8b", built_in()), 4)[3]
    turns = Schedule(overlaps=True)
    assert stage.n_in_flight(8, turns) == 1 + 1 / 8
    assert stage.n_in_flight(8, turns, at_loss=True) == stage.n_in_flight(1, turns) == 1


def test_a_stage_of_several_parts_has_every_ppth() -> None:
    # DeepSeek-V3 begins with three dense layers: one, and then two a part.
    split = Split(parts=(1, *[2] * 30, 0))
    made = stages(located("deepseek-v3", built_in()), 8, split, 4)
    layers = [[run.n_layers for _, run in s.ordered if run.block.role == "layer"] for s in made[:3]]
    assert layers == [[1, 6], [2, 6], [8]]


def test_first_parts_of_a_stage_run_ahead() -> None:
    stage = stages(located("llama-3.1-8b", built_in()), 4, EVEN, 2)[0]
    kept = stage.kept_of([(0, 1), (1, 4), (4, 8)], 16, Schedule(2))
    # Eleven passes: four of each part, three of the first; then one is undone and another one runs.
    assert kept[10] == (7, 7, 4)
    assert max(kept) == (8, 8, 3)
    assert max(first + 3 * rest + 4 * last for first, rest, last in kept) == 44
    assert stage.n_in_flight(16, Schedule(2)) * 8 == 44


def test_alike_layers_keep_as_many_whatever_their_parts() -> None:
    parts = [stages(located("llama-3.1-8b", built_in()), 4, EVEN, vp) for vp in (1, 2)]
    assert [s.ordered for s in parts[0]] == [s.ordered for s in parts[1]]
