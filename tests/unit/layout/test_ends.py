"""The first and last layers of a model, wherever its pipeline has them."""

from __future__ import annotations

from typing import Any

import pytest

import lmsize
from lmsize.api.locate import located
from lmsize.catalogue import built_in
from lmsize.errors import InputError
from lmsize.layout.ends import ends
from lmsize.layout.shares import stages
from lmsize.layout.split import EVEN, Split


@pytest.mark.parametrize("split", [EVEN, Split(parts=(1, 7, 3, 5, 2, 6, 4, 4))])
@pytest.mark.parametrize(("pp", "vp"), [(1, 1), (4, 1), (4, 2), (2, 4)])
@pytest.mark.parametrize(("first", "last"), [(0, 0), (1, 1), (5, 9), (20, 0), (0, 32)])
def test_every_layer_is_at_one_place(pp: int, vp: int, first: int, last: int, split: Split) -> None:
    if split.parts and pp * vp != len(split.parts):
        split = EVEN
    every = stages(located("llama-3.1-8b", built_in()), pp, split)
    assert sorted(at for stage in every for at in stage.positions(vp)) == list(range(32))
    for stage in every:
        of_ends = ends(stage, first=first, last=last, vp=vp)
        layers = sum(run.n_layers for _, run in of_ends.runs)
        assert layers == sum(at < first or at >= 32 - last for at in stage.positions(vp))


def test_an_end_goes_on_where_the_first_stage_ends() -> None:
    first, second = stages(located("llama-3.1-8b", built_in()), 2)
    assert first.positions(2) == [*range(8), *range(16, 24)]
    assert [run.n_layers for _, run in ends(first, first=10, last=0, vp=2).runs] == [8]
    assert [run.n_layers for _, run in ends(second, first=10, last=0, vp=2).runs] == [2]
    assert [run.n_layers for _, run in ends(second, first=20, last=0).runs] == [4]


def test_more_layers_than_the_model_has_are_refused() -> None:
    run: dict[str, Any] = {"stack": "megatron", "precision": "fp8", "search": False}
    with pytest.raises(InputError, match="32"):
        lmsize.train(
            "llama-3.1-8b", **run, stack_options="bf16-first-layers=20,bf16-last-layers=13"
        )
