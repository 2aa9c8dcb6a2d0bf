"""Laws of many layouts at once: each candidate's number is the one it has when asked alone."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import lmsize
from lmsize.errors import InputError
from lmsize.layout.columns import Column, PartedError, over

MODELS = ("llama-3.1-8b", "mixtral-8x7b", "gemma-2-9b", "t5-large", "gpt2", "deepseek-v3")
VALUES: dict[str, list[Any]] = {
    "dp": [1, 2, 8, 12], "tp": [1, 2, 4, 3], "pp": [1, 2, 5], "cp": [1, 2], "ep": [1, 2, 8],
    "zero": [0, 1, 2, 3], "micro_batch": [1, 3, 16], "grad_accum": [1, 2, 9],
    "seq_len": [512, 1000, 4096], "recompute": ["none", "selective", "full"],
    "attention": ["sdpa", "eager"], "sequence_parallel": [False, True],
}  # fmt: skip


@st.composite
def grids(draw: st.DrawFn) -> dict[str, list[Any]]:
    """Some values of a few axes."""
    names = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=5, unique=True))
    return {
        name: draw(st.lists(st.sampled_from(VALUES[name]), min_size=1, max_size=3, unique=True))
        for name in names
    }


def alone(model: str, candidate: dict[str, Any], options: dict[str, Any]) -> float:
    """A candidate's peak as one estimate has it, infinite if it is refused."""
    layout = {"tp": 1, "pp": 1, "cp": 1} | candidate
    dp = layout.pop("dp", 1)
    count = dp * layout["tp"] * layout["pp"] * layout["cp"]
    try:
        asked = lmsize.train(model, accelerators=count, search=False, **options, **layout)
    except InputError:
        return np.inf
    return float(asked.memory.tree.value) if asked.memory.tree is not None else np.nan


def agree(model: str, axes: dict[str, list[Any]], options: dict[str, Any]) -> None:
    """A sweep has for a dozen of its candidates what each has alone."""
    whole = lmsize.sweep(model, axes, **options)
    assert whole.peak_allocated_bytes.shape == tuple(len(v) for v in axes.values())
    candidates = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    flat = whole.peak_allocated_bytes.ravel().tolist()
    step = max(1, len(candidates) // 12)
    for candidate, peak in list(zip(candidates, flat, strict=True))[::step]:
        assert peak == alone(model, candidate, options), candidate


@settings(max_examples=40, deadline=None)
@given(
    model=st.sampled_from(MODELS), axes=grids(),
    stack=st.sampled_from(["transformers", "megatron", "torchtitan", "deepspeed"]),
    method=st.sampled_from(["full", "full", "lora", "qlora"]),
    optimizer=st.sampled_from(["adamw", "adamw-8bit", "adafactor"]),
)  # fmt: skip
def test_each_candidate_is_the_estimate_of_it_alone(
    model: str, axes: dict[str, list[Any]], stack: str, method: str, optimizer: str
) -> None:
    options = {"stack": stack, "method": method, "optimizer": optimizer}
    try:
        agree(model, axes, options)
    except InputError as error:
        assume(error.what != "--stack")  # that has no such models
        raise


@pytest.mark.parametrize("stack", ["transformers", "megatron", "torchtitan", "deepspeed"])
@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize("model", ["llama-3.1-8b", "mixtral-8x7b"])
def test_degrees_that_divide_the_same_tensors_cross(stack: str, method: str, model: str) -> None:
    """Tensors of one kind depend on unlike axes: some on the ranks only, some on tp beside them."""
    axes = {"tp": [1, 2, 4], "dp": [2, 4, 8], "micro_batch": [1, 3]}
    agree(model, axes, {"stack": stack, "method": method, "zero": 3})


@pytest.mark.parametrize(
    ("said", "n_legal"), [("first-stage-layers=5", 2), ("stage-layers=5+5+6+6+5+5", 3)]
)
def test_stages_that_cannot_have_said_layers_are_infinite(said: str, n_legal: int) -> None:
    """27 layers are left to one other stage, or to three; 6 parts are two stages' in 3 turns."""
    axes = {"pp": [2, 3, 4], "vp": [1, 3]} if "+" in said else {"pp": [2, 3, 4]}
    options = {"stack": "megatron", "stack_options": said}
    agree("llama-3.1-8b", axes, options)
    found = lmsize.sweep("llama-3.1-8b", axes, **options).peak_allocated_bytes
    assert np.isfinite(found).sum() == n_legal


def test_most_terms_are_computed_once_for_many_candidates() -> None:
    asked = 0

    def ask(values: Any) -> Any:
        nonlocal asked
        asked += 1
        return values["a"] * 1000 + values["b"]

    axes = {"a": list(range(1000)), "b": list(range(1000))}
    assert over(axes, ask)[7, 12] == 7012
    assert asked == 1


def test_candidates_part_along_the_axis_that_decides() -> None:
    """What is decided by may lie along an axis on which it never differs."""
    axes = {"a": [1, 2], "b": [1, 2]}
    found = over(axes, lambda of: 1.0 if (0 * of["a"] + of["b"]) % 2 else 2.0)
    assert found.tolist() == [[1, 2], [1, 2]]


def test_candidates_part_where_the_code_decides() -> None:
    def ask(values: Any) -> Any:
        if values["a"] > 2 and values["b"] != 1:
            return -values["a"]
        return values["b"] * range(10)[values["a"]]

    axes = {"a": [4, 1, 3, 2], "b": [0, 1, 2], "word": ["x"]}
    expected = [[[-a if a > 2 and b != 1 else a * b] for b in axes["b"]] for a in axes["a"]]
    assert over(axes, ask).tolist() == expected


def test_a_column_of_different_values_has_no_single_one() -> None:
    with pytest.raises(PartedError):
        bool(np.array([0, 1]).view(Column))
    assert int(np.array([3, 3]).view(Column)) == 3


def test_an_unknown_axis_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean micro_batch"):
        lmsize.sweep("gpt2", {"micro_batches": [1]})


@pytest.mark.parametrize("values", [[], [0], [1.5], ["2"], [2, 2]])
def test_values_that_are_no_degrees_are_refused(values: list[Any]) -> None:
    with pytest.raises(InputError, match="tp"):
        lmsize.sweep("gpt2", {"tp": values})


@pytest.mark.parametrize("axes", [5, "tp", {"tp": 2}, {"recompute": "full"}, {"tp": None}])
def test_axes_are_lists_by_name(axes: Any) -> None:
    with pytest.raises(InputError, match=r"a list of values|a mapping of names"):
        lmsize.sweep("gpt2", axes)
