"""Flat tensors that DeepSpeed makes for its step, and the segments that they leave behind.

Activations come and go in blocks that torch's allocator keeps for the next time. A tensor over all of
a rank's parameters is larger than any of them, so that it gets a segment of its own, and that is
kept too: what the allocator holds is the fullest backward and these segments together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from lmsize.formula import Term, formula, total
from lmsize.layout.shares import Stored
from lmsize.memory.model_states import by_shards
from lmsize.memory.training_setup import TrainingSetup
from lmsize.numbers import ceil_div, chosen, larger, smaller
from lmsize.source import Source

ZERO = Source(
    "DeepSpeed 0.6", "runtime/zero/stage_1_and_2.py, DeepSpeedZeroOptimizer.step",
    "https://github.com/microsoft/DeepSpeed",
)  # fmt: skip
BUCKET = 500_000_000  # reduce_bucket_size and allgather_bucket_size, in numbers
FP32, FP64 = 4, 8


@formula(source=ZERO)
def segment_bytes(*, n_numbers: Any, bytes_per_number: Any, free_bytes: Any) -> Any:
    """Bytes of the segment that a flat tensor gets, unless a block that is free holds it.

    Assumes: segments are not expandable, and are kept once they are there.
    Valid for: torch's caching allocator, a tensor of more than 10 MiB.
    """
    n_bytes = n_numbers * bytes_per_number
    return chosen(n_bytes > free_bytes, n_bytes, 0 * n_bytes)


def has_flat_steps(setup: TrainingSetup) -> bool:
    """Whether the step works on flat copies of a partition: DeepSpeed's ZeRO 1 and 2."""
    is_sharded = setup.sums_in_fp32 or setup.layout.zero in (1, 2)
    return setup.stack.flat_steps and setup.has_main_copies and is_sharded


def step_segments(setup: TrainingSetup, trained: Sequence[Stored], free_bytes: Any) -> Term:
    """Segments of the step's own.

    Args:
        free_bytes: the largest block that the forward and backward leave free.
    """
    found = _of_sums(setup, trained) if setup.sums_in_fp32 else _of_partition(setup, trained)
    made: list[Term] = []
    for label, n_numbers, itemsize, before in found:
        freed = larger(free_bytes, before)
        made.append(
            segment_bytes.term(
                label, n_numbers=n_numbers, bytes_per_number=itemsize, free_bytes=freed
            )
        )
    return total("segments of the step", made)


_Flat = tuple[str, Any, float, Any]  # label, numbers, bytes of one, bytes let go of before it


def _of_partition(setup: TrainingSetup, trained: Sequence[Stored]) -> Iterator[_Flat]:
    """DeepSpeedZeroOptimizer: gradients reduced by buckets, then a step in fp32 on a partition.

    The check for overflow and the norm make wider copies of one gradient after the other; what
    they let go of takes the partition's gradients, flat in their own type and in fp32.
    """
    whole = sum(s.n_params for s in trained if s.trainable)
    groups = [
        ceil_div(sum(s.n_params for s in alike), n_shards)
        for alike, n_shards in by_shards(setup, trained)
    ]
    mine = sum(groups)
    own = setup.precision(setup.recipe.gradients).bits / 8
    largest = smaller(_largest(trained), mine)
    if setup.layout.zero == 1:  # the partition's gradients stay where the backward made them
        yield "bucket of gradients to reduce", smaller(BUCKET, whole), own, 0
    else:  # contiguous_gradients: one buffer of a bucket's size, however few the gradients
        yield "bucket of gradients to reduce", BUCKET, own, 0
    in_copies = setup.switches.norm_of_copies
    checked = largest * FP32 if setup.recipe.gradients == "fp16" else 0
    if setup.recipe.gradients == "fp16":
        yield "largest gradient in fp32, for its overflow", largest, FP32, 0
    if in_copies:  # InternEvo solver/optimizer/utils.py, compute_norm
        yield "gradients in fp32, for their norm", mine, FP32, 0
    else:
        yield "largest gradient in fp64, for its norm", largest, FP64, 0
    normed = largest * (FP32 if in_copies else FP64)
    copies = 0 if setup.switches.fused_adam else setup.foreach_copies or 0
    before = 0  # experts are a group of their own, stepped after the rest in what that let go of
    for n in groups:
        yield "the partition's gradients, flat", n, own, larger(checked, before * own)
        yield (
            "the partition's gradients, flat in fp32",
            n,
            FP32,
            larger(normed, before * FP32),
        )
        if copies:
            yield "temporaries of the step", round(copies * n), FP32, copies * before * FP32
        before = n


def _of_sums(setup: TrainingSetup, trained: Sequence[Stored]) -> Iterator[_Flat]:
    """BF16_Optimizer: each gradient raised to fp32 to be added up; weights gathered by buckets."""
    own = setup.precision(setup.recipe.weights).bits / 8
    yield "largest gradient in fp32, to be added", _largest(trained), FP32, 0
    if setup.shards(1) > 1:
        whole = sum(s.n_params for s in trained if s.trainable)
        yield "bucket of weights gathered", smaller(BUCKET, whole), own, 0


def _largest(trained: Sequence[Stored]) -> Any:
    found: Any = 0
    for stored in trained:
        if stored.trainable:
            found = larger(found, stored.numel)
    return found
