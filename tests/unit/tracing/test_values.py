"""Shapes and branches that follow from known values, and those that do not."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lmsize.errors import LmsizeError
from lmsize.tracing.running import Device, traced


class Step:
    """A forward whose results are kept, as a step of its own."""

    def __init__(self, program: Callable[[], Any]) -> None:
        self.model, self.optimizer, self.micro_batches = nn.Linear(1, 1), None, []
        self.on_phase: Callable[[str, int], None] = lambda _phase, _at: None
        self.program, self.found = program, None

    def run(self) -> None:
        self.on_phase("forward", 0)
        self.found = self.program()


def run(program: Callable[[], Any]) -> tuple[Any, bool]:
    """What a program finds on fake tensors, and whether a spread was taken for granted."""
    kept: list[Step] = []

    def build() -> Step:
        kept.append(Step(program))
        return kept[0]

    log = traced(build, Device("cpu"))
    return kept[0].found, "trace-spread-evenly" in log.assumed


def test_places_of_a_known_mask() -> None:
    found, is_spread = run(lambda: torch.nonzero(torch.arange(10) % 3 == 0).shape)
    assert (tuple(found), is_spread) == ((4, 1), False)


def test_selection_by_a_known_mask() -> None:
    def program() -> Any:
        positions = torch.arange(10)
        return torch.randn(10, 5)[positions > 6].shape, torch.randn(10).masked_select(positions > 2)

    (selected, masked), _ = run(program)
    assert tuple(selected) == (3, 5)
    assert tuple(masked.shape) == (7,)


def test_number_from_positions() -> None:
    assert run(lambda: torch.arange(7).sum().item() + int(torch.full((2,), 3).max()))[0] == 24


def test_repeats() -> None:
    found, _ = run(
        lambda: torch.randn(3, 2).repeat_interleave(torch.tensor([1, 2, 3]), dim=0).shape
    )
    assert tuple(found) == (6, 2)


def test_written_into_is_forgotten() -> None:
    """A view that is written into changes what its base holds."""

    def program() -> Any:
        counts = torch.zeros(4, dtype=torch.long)
        counts[:2] = torch.randn(2) > 0
        return counts.sum().item()

    with pytest.raises(LmsizeError):
        run(program)


def test_known_numbers_written_into_views_are_known() -> None:
    def program() -> Any:
        ids = torch.zeros(2, 5, dtype=torch.long)
        ids[:, 1:] = torch.arange(4)
        ids[:, 0] = 7
        ids[:, 2:][:, 1:] += 10
        return ids.sum().item()

    assert run(program)[0] == 2 * (0 + 1 + 2 + 3 + 7 + 20)


def test_what_is_known_keeps_no_tensor_alive() -> None:
    def program() -> Any:
        positions = torch.arange(8)
        held, later = weakref.ref(positions), positions[2:] + 1
        del positions
        return held() is None, later.sum().item()

    assert run(program)[0] == (True, 33)


def test_written_into_whole_is_known() -> None:
    def program() -> Any:
        counts = torch.zeros(4, dtype=torch.long)
        counts.add_(2)
        return counts.sum().item()

    assert run(program)[0] == 8


@settings(deadline=None, max_examples=25)  # each is a trace
@given(st.integers(1, 40), st.integers(1, 9), st.data())
def test_experts_are_visited_evenly(n_tokens: int, n_experts: int, data: Any) -> None:
    n_chosen = data.draw(st.integers(1, n_experts))

    def program() -> Any:
        chosen = torch.randn(n_tokens, n_experts).topk(n_chosen, dim=-1).indices
        mask = nn.functional.one_hot(chosen, n_experts).permute(2, 1, 0)
        return [len(torch.where(mask[at])[1]) for at in range(n_experts)]

    counts, is_spread = run(program)
    assert is_spread
    assert sum(counts) == n_tokens * n_chosen
    assert max(counts) - min(counts) <= 1


def test_no_expert_twice_for_a_token() -> None:
    def program() -> Any:
        chosen = torch.randn(5, 6, 4).topk(3, dim=1).indices
        return (nn.functional.one_hot(chosen, 6).sum(1) > 1).any().item(), chosen.shape

    assert run(program)[0] == (False, (5, 3, 4))


@pytest.mark.parametrize("tensor", [torch.randn, torch.rand])
def test_unknown_stays_unknown(tensor: Callable[..., Any]) -> None:
    with pytest.raises((LmsizeError, RuntimeError)):
        run(lambda: torch.nonzero(tensor(4) > 0.5).shape)
