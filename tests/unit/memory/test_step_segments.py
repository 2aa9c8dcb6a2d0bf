"""What DeepSpeed's step leaves to the allocator, and what its pipeline and NCCL hold."""

from __future__ import annotations

from typing import Any

import pytest

import lmsize
from lmsize.catalogue import built_in
from lmsize.estimate.overheads import CONNECTION, Holdings, communicators
from lmsize.layout.degrees import Layout
from lmsize.memory.step_segments import segment_bytes

N = 8_030_261_248  # parameters of llama-3.1-8b
RUN: dict[str, Any] = {
    "stack": "deepspeed", "accelerators": 8, "seq_len": 512, "recompute": "full",
    "accelerator": "a100-80gb", "search": False, "calibration": False, "optimizer": "adam",
}  # fmt: skip
SLACK = 1 + built_in().overhead("reserved_frac", "NVIDIA").typical


def memory(*, model: str = "llama-3.1-8b", **options: Any) -> Any:
    return lmsize.train(model, **RUN | options).memory


def kept(**options: Any) -> float:
    """GiB that the allocator holds beyond the slack on what is live in the forward and backward."""
    found = memory(**options)
    passes = max(m.value for m in found.tree.children if m.label != "optimizer_step")
    return float(found.peak_reserved_bytes - passes * SLACK) / 2**30


def test_a_flat_tensor_takes_a_free_block_that_holds_it() -> None:
    inputs = {"n_numbers": 100, "bytes_per_number": 4}
    assert segment_bytes(**inputs, free_bytes=399) == 400
    assert segment_bytes(**inputs, free_bytes=400) == 0


def test_zero_1_leaves_the_segments_of_its_copies() -> None:
    """bucket, largest gradient in fp32 and fp64: the flat shard in fp16 and fp32 fits what those free."""
    table = 128256 * 4096
    bucket = 5e8 * 2
    checks = table * (4 + 8)
    assert table * 4 > N / 8 * 2
    assert table * 8 > N / 8 * 4
    logits = 512 * 128256 * 4
    assert logits < bucket
    expected = (bucket + checks) / 2**30
    assert kept(precision="fp16", zero=1) == pytest.approx(expected, rel=1e-3)


def test_a_norm_of_copies_leaves_room_for_all_of_them() -> None:
    """In fp32, of each gradient of the partition; no flat tensor fits what one of them lets go of."""
    run = {"precision": "bf16", "zero": 1}
    shard, table = N / 8, 128256 * 4096
    assert shard * 2 < table * 4 < shard * 4
    expected = 5e8 * 2 + shard * 4 + shard * 2 + shard * 4
    found = kept(**run, stack_options="norm-of-copies")
    assert found == pytest.approx(expected / 2**30, rel=1e-3)
    assert kept(**run) < found


def test_experts_are_a_partition_of_their_own() -> None:
    """Over 8 ranks of experts and one replica of each, ZeRO divides the rest alone."""
    experts = 32 * 3 * 4096 * 14336  # one of each layer
    table = 32000 * 4096
    expected = 5e8 * 2 + table * (4 + 8) + experts * (2 + 4)  # the rest fits what the checks left
    options = {"precision": "fp16", "zero": 2, "ep": 8, "accelerator": "B200-SXM"}
    found = kept(model="mixtral-8x7b", **options)
    assert found == pytest.approx(expected / 2**30, rel=1e-3)


def test_zero_3_leaves_none() -> None:
    found = memory(precision="bf16", zero=3)
    assert found.peak_reserved_bytes == round(found.peak_allocated_bytes * SLACK)


def test_adapters_leave_a_bucket_however_few_they_are() -> None:
    found = memory(precision="bf16", zero=2, method="lora")
    least = round(found.peak_allocated_bytes * SLACK)
    assert least <= (found.peak_reserved_bytes or 0) < least + 2 * 500_000_000 * 1.1


def test_segments_are_given_back_where_there_is_no_room() -> None:
    small, large = (
        memory(precision="fp16", zero=1, accelerators=4, micro_batch=10, accelerator=name)
        for name in ("a100-80gb", "h200")
    )
    assert small.peak_reserved_bytes < large.peak_reserved_bytes
    assert small.peak_device_bytes == small.capacity_bytes
    assert small.peak_allocated_bytes == large.peak_allocated_bytes


def test_a_pipeline_keeps_its_outputs() -> None:
    """One stream a micro-batch in flight, besides the inputs of its layers."""
    run = {"precision": "fp16", "pp": 4, "grad_accum": 8, "pipeline_stage": "first", "zero": 1}
    assert memory(**run).tree is not None
    leaves = [t for t in memory(**run).tree.walk() if t.label == "outputs of the stage"]
    assert leaves
    assert leaves[0].value == 4 * 512 * 4096 * 2


def test_tensor_parallel_ranks_share_what_a_stage_sent() -> None:
    """Each keeps its part alone: the output is cut up before it is sent."""
    run = {"precision": "fp16", "pp": 2, "grad_accum": 8, "pipeline_stage": "first", "zero": 1}
    one, four = (
        next(t for t in memory(**run, tp=tp).tree.walk() if t.label == "outputs of the stage")
        for tp in (1, 4)
    )
    assert one.value == 4 * four.value


def test_bf16_gradients_add_up_in_fp32_where_zero_is_off() -> None:
    def labels(**options: Any) -> set[str]:
        return {t.label for t in memory(precision="bf16", **options).tree.walk()}

    assert "main_gradients" in labels(zero=0)
    assert "main_gradients" not in labels(zero=1)
    assert "main_gradients" in labels(zero=1, stack_options="fp32-sums")
    assert "main_gradients" not in labels(zero=0, stack_options="no-fp32-sums")


def test_its_bf16_optimizer_divides_states_without_zero() -> None:
    sums = memory(precision="bf16", zero=0)
    assert sums.components["main_weights"] == pytest.approx(N * 4 / 8, rel=1e-3)
    same = memory(precision="bf16", zero=1, stack_options="fp32-sums")
    assert sums.peak_allocated_bytes == same.peak_allocated_bytes


def test_groups_and_neighbours_of_a_layout() -> None:
    assert (Layout().n_groups, Layout().n_neighbours) == (0, 0)
    assert (Layout(dp=8).n_groups, Layout(dp=8).n_neighbours) == (1, 0)
    three = Layout(dp=4, tp=8, pp=12)
    assert (three.n_groups, three.n_neighbours) == (3, 2)


def test_buffers_follow_the_links() -> None:
    held = Holdings(0, n_groups=1, n_neighbours=1)
    sizes = [
        communicators(held, built_in().accelerator(name)[0]) / CONNECTION
        for name in ("rtx-4090", "v100-32gb", "a100-80gb", "h100-80gb")
    ]
    assert sizes == [2 * 5, 12 * 5, 24 * 5, 24 * 5]
    assert communicators(Holdings(0), None) == 0
