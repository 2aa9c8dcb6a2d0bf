"""Pipelines whose ends have fewer layers."""

from __future__ import annotations

import pytest

from lmsize.errors import LayoutError
from lmsize.layout.split import Split, layer_counts


@pytest.mark.parametrize(
    ("n_layers", "pp", "split", "counts"),
    [
        (12, 4, Split(), [3, 3, 3, 3]),
        (13, 4, Split(), [4, 3, 3, 3]),
        (6, 4, Split(embedding=True, loss=True), [1, 2, 2, 1]),
        (7, 4, Split(loss=True), [2, 2, 2, 1]),
        (61, 8, Split(first=7, last=6), [7, 8, 8, 8, 8, 8, 8, 6]),
        (27, 4, Split(last=6), [7, 7, 7, 6]),
        (5, 1, Split(embedding=True), [5]),
        (126, 8, Split(embedding=True, loss=True, spills=True), [15, *[16] * 6, 15]),
        (32, 4, Split(embedding=True, loss=True, spills=True), [8, 9, 8, 7]),
        (4, 4, Split(embedding=True, loss=True, spills=True), [1, 2, 1, 0]),
        (16, 2, Split(parts=(3, 2, 2, 2, 2, 2, 2, 1)), [9, 7]),
    ],
)
def test_every_layer_has_a_stage(n_layers: int, pp: int, split: Split, counts: list[int]) -> None:
    assert layer_counts(n_layers, pp, split) == counts
    assert sum(counts) == n_layers


@pytest.mark.parametrize(
    ("n_layers", "pp", "split"),
    [(12, 4, Split(first=2)), (12, 2, Split(first=3, last=4)), (3, 3, Split(first=9))],
)
def test_ends_that_leave_an_uneven_rest_are_refused(n_layers: int, pp: int, split: Split) -> None:
    with pytest.raises(LayoutError, match="share evenly"):
        layer_counts(n_layers, pp, split)
