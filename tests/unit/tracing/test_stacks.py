"""Which layers are alike, and what is left when most are left out."""

from __future__ import annotations

import torch
from torch import nn

from lmsize.tracing.modules import layer_of
from lmsize.tracing.stacks import Stack, shortened, stacks
from lmsize.tracing.storages import Layer


class Model(nn.Module):
    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        with torch.device("meta"):
            self.layers = nn.ModuleList(nn.Linear(4, width) for width in widths)


def test_like_layers() -> None:
    assert stacks(Model([4] * 12), n_at_least=10) == [Stack("layers", 0, 1, 12)]


def test_dense_first_and_odd_last() -> None:
    assert stacks(Model([8, *[4] * 12, 9]), n_at_least=10) == [Stack("layers", 1, 1, 12)]


def test_alternating() -> None:
    assert stacks(Model([4, 8] * 11), n_at_least=10) == [Stack("layers", 0, 2, 11)]


def test_too_few() -> None:
    assert stacks(Model([4] * 9), n_at_least=10) == []


def test_units() -> None:
    stack = Stack("layers", 1, 2, 3)
    assert [stack.unit(number) for number in range(9)] == [0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_shortened_keeps_both_ends() -> None:
    model = Model([8, *[4] * 12, 9])
    (stack,) = stacks(model, n_at_least=10)
    shortened(model, stack, n_units=5)
    assert [layer.out_features for layer in model.layers] == [8, 4, 4, 4, 4, 4, 9]


def test_layer_of_a_path() -> None:
    assert layer_of("model.layers.3.mlp.experts.5") == Layer("model.layers", 3)
    assert layer_of("model.norm") is None
