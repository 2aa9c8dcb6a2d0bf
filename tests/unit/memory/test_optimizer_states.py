"""States of one tensor by each rule, and whole optimizers on tensors of several shapes."""

from __future__ import annotations

import pytest

from lmsize.catalogue import StateRule, built_in
from lmsize.layout.shares import Stored
from lmsize.memory.optimizer_states import StateTypes, optimizer_states, state_numel

ADAMW = built_in().optimizer("adamw")


@pytest.mark.parametrize(
    ("shape", "tensor", "expected"),
    [
        ("like", (6, 4), 24),
        ("row", (6, 4), 6),
        ("column", (6, 4), 4),
        ("row", (3, 6, 4), 18),
        ("column", (3, 6, 4), 12),
        ("row", (5,), 5),
        ("left_square", (6, 4), 36),
        ("right_square", (6, 4), 16),
        ("rows", (6, 4), 6),
        ("scalar", (6, 4), 1),
    ],
)
def test_a_rule_names_the_shape(shape: str, tensor: tuple[int, ...], expected: int) -> None:
    assert state_numel(StateRule("s", shape), tensor, ADAMW) == expected


def stored(*shape: int, hidden: bool = True) -> Stored:
    group = "matrices" if hidden else "embeddings"
    return Stored(group, shape, 1, True, hidden, False, hidden)


def total(name: str, *tensors: Stored, state: str = "fp32") -> int:
    rows = built_in()
    optimizer = rows.optimizer(name)
    fallback = rows.optimizer(optimizer.fallback) if optimizer.fallback else None
    types = StateTypes(rows.precision, state, state)
    term = optimizer_states(
        "states", tensors, optimizer, types, fallback=fallback, n_shards=1, n_expert_shards=1
    )
    return int(term.value)


MATRIX, VECTOR, TABLE = stored(512, 256), stored(512), stored(1000, 256, hidden=False)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sgd", 0),
        ("sgd-momentum", 4 * (512 * 256 + 512)),
        ("adamw", 8 * (512 * 256 + 512)),
        ("adam", 8 * (512 * 256 + 512)),
        ("lamb", 8 * (512 * 256 + 512)),
        ("lion", 4 * (512 * 256 + 512)),
        # 8 bits a value and an fp32 scale for 256; 512 elements are too few and stay fp32.
        ("adamw8bit", 2 * (512 * 256 + 512 * 256 // 256 * 4) + 8 * 512),
    ],
)
def test_what_each_optimizer_keeps(name: str, expected: int) -> None:
    assert total(name, MATRIX, VECTOR) == expected


def test_adafactor_keeps_a_row_and_a_column() -> None:
    extra = total("adafactor", MATRIX, VECTOR) - 4 * (512 + 256 + 512)
    assert 0 <= extra <= 16  # the scalar that tracks the scale of each parameter


def test_muon_takes_hidden_matrices_and_leaves_the_rest_to_adamw() -> None:
    assert total("muon", MATRIX) == 4 * 512 * 256
    assert total("muon", TABLE) == 8 * 1000 * 256
    assert total("muon", VECTOR) == 8 * 512


def test_states_take_the_recipes_type() -> None:
    assert total("adamw", MATRIX, state="bf16") == 4 * 512 * 256


def test_paged_states_are_not_on_the_accelerator() -> None:
    assert total("paged-adamw", MATRIX) == 0


def test_small_tensors_and_scales_are_not_paged() -> None:
    assert total("paged-adamw", VECTOR) == 8 * 512
    assert total("paged-adamw8bit", MATRIX) == 2 * 512 * 256 // 256 * 4
