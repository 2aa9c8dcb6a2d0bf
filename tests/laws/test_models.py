"""Laws that hold for every architecture: conservation, limits, monotonicity."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lmsize
from lmsize.api.locate import located
from lmsize.catalogue import built_in
from lmsize.errors import LayoutError
from lmsize.layout.degrees import Layout, check
from lmsize.layout.shares import stages, stored_parts
from lmsize.model.count import n_params
from lmsize.model.parts import Experts, Linear
from lmsize.model.read import read_config
from lmsize.model.spec import ModelSpec

# One model of each architecture, the smallest.
KINDS = {
    m.model_type: m.name for m in sorted(built_in().models(), key=lambda m: -(m.n_params or 0))
}
EVERY_KIND = pytest.mark.parametrize("name", sorted(KINDS.values()))
SHAPE = {
    "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": 1000, "intermediate_size": 160, "head_dim": 16, "tie_word_embeddings": False,
}  # fmt: skip


@cache
def model(name: str) -> ModelSpec:
    return located(name, built_in())


def legal(name: str, layout: Layout) -> bool:
    try:
        check(layout, model(name), seq_len=1)
    except LayoutError:
        return False
    return True


def held(name: str, layout: Layout) -> int:
    """Parameters of one tensor rank of each stage together."""
    return sum(
        stored.n_params
        for stage in stages(model(name), layout.pp)
        for stored in stored_parts(stage, layout, trainable=True)
    )


@EVERY_KIND
def test_stages_hold_the_whole_and_a_copy_of_a_tied_head(name: str) -> None:
    whole = n_params(model(name))
    tied = sum(
        part.n_in * part.n_out
        for _, run in model(name).runs()
        for part in run.block.parts
        if run.block.role == "head" and isinstance(part, Linear) and part.tied
    )
    assert held(name, Layout()) == whole
    for pp in (2, 3):
        if legal(name, Layout(pp=pp)):
            assert held(name, Layout(pp=pp)) == whole + tied


@EVERY_KIND
def test_tensor_ranks_hold_at_least_the_whole(name: str) -> None:
    whole = n_params(model(name))
    for tp in (2, 3, 4):
        if legal(name, Layout(tp=tp)):
            assert whole / tp <= held(name, Layout(tp=tp)) <= whole


@EVERY_KIND
def test_zero_over_one_rank_is_no_zero(name: str) -> None:
    peaks = {lmsize.train(name, zero=zero).memory.peak_allocated_bytes for zero in range(4)}
    assert len(peaks) == 1


@EVERY_KIND
def test_more_ranks_never_hold_more_each(name: str) -> None:
    """As long as there are as many experts, which FSDP2 divides them by: it pads them to the ranks."""
    parts = (part for _, run in model(name).runs() for part in run.block.parts)
    most = min((part.n_experts for part in parts if isinstance(part, Experts)), default=64)
    peaks = [
        lmsize.train(name, zero=3, accelerators=n, seq_len=64).memory.peak_allocated_bytes or 0
        for n in (2, 4, 8, 64) if n <= most
    ]  # fmt: skip
    assert peaks == sorted(peaks, reverse=True)


@EVERY_KIND
def test_more_work_never_takes_less(name: str) -> None:
    for key, values in (("micro_batch", (1, 2, 3, 64)), ("seq_len", (1, 7, 64, 128))):
        rows = [lmsize.train(name, **{key: n}) for n in values]
        peaks = [row.memory.peak_allocated_bytes or 0 for row in rows]
        flops = [row.compute.model_flops_per_step or 0 for row in rows]
        assert peaks == sorted(peaks)
        assert flops == sorted(set(flops))


@pytest.mark.parametrize(
    "options", [{}, {"method": "lora"}, {"method": "qlora"}, {"recompute": "full"}, {"zero": 3, "accelerators": 4}]
)  # fmt: skip
@given(layers=st.integers(1, 40))
@settings(max_examples=15, deadline=None)
def test_a_deeper_model_never_takes_less(options: dict[str, Any], layers: int) -> None:
    few, more = (
        lmsize.train({**SHAPE, "model_type": "llama", "num_hidden_layers": n}, **options)
        for n in (layers, layers + 1)
    )
    assert (few.parameters.total or 0) < (more.parameters.total or 0)
    assert (few.memory.peak_allocated_bytes or 0) <= (more.memory.peak_allocated_bytes or 0)
    assert (few.compute.model_flops_per_step or 0) < (more.compute.model_flops_per_step or 0)


def test_one_expert_is_dense_but_for_its_router() -> None:
    dense = read_config({**SHAPE, "model_type": "mistral"}, name="dense")
    one = {**SHAPE, "model_type": "mixtral", "num_local_experts": 1, "num_experts_per_tok": 1}
    sparse = read_config(one, name="sparse")
    routers = SHAPE["num_hidden_layers"] * SHAPE["hidden_size"]
    assert n_params(sparse) - routers == n_params(dense)


@given(
    rank=st.sampled_from([1, 4, 16, 64]),
    batch=st.integers(1, 16),
    seq_len=st.integers(1, 512),
    method=st.sampled_from(["full", "lora", "qlora"]),
    recompute=st.sampled_from(["none", "selective", "full"]),
    optimizer=st.sampled_from(["adamw", "sgd", "adafactor", "lion", "adamw-8bit"]),
)
@settings(max_examples=60, deadline=None)
def test_components_are_whole_bytes_that_sum_to_the_peak(
    rank: int, batch: int, seq_len: int, method: str, recompute: str, optimizer: str
) -> None:
    memory = lmsize.train(
        {**SHAPE, "model_type": "llama"}, method=method, micro_batch=batch, seq_len=seq_len,
        recompute=recompute, optimizer=optimizer, lora_rank=None if method == "full" else rank,
    ).memory  # fmt: skip
    parts = [value for value in memory.components.values() if value is not None]
    assert all(isinstance(value, int) and value >= 0 for value in parts)
    assert sum(parts) == memory.peak_allocated_bytes
    assert memory.peak_allocated_bytes <= (memory.peak_reserved_bytes or 0)
    assert (memory.peak_reserved_bytes or 0) <= (memory.peak_device_bytes or 0)
