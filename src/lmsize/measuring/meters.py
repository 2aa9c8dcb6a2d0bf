"""Peak memory and step times of a step that runs: CUDA's counters, the CPU allocator's events."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from lmsize.measuring.machine import device_used_bytes
from lmsize.measuring.outcome import Peak
from lmsize.step.training import TrainingStep

MARK = "lmsize: step that counts"
Build = Callable[[], TrainingStep]
Tell = Callable[[str], None]
CPU_ALLOCATED = (
    "max allocated (c10 CPU allocator by torch.profiler's memory events, one step after "
    "{n} warm-up)"
)
CUDA_ALLOCATED = "max allocated (torch.cuda.max_memory_allocated, after {n} warm-up)"
CUDA_RESERVED = "max reserved (torch.cuda.max_memory_reserved, after {n} warm-up)"
CUDA_DRIVER = "driver (device memory in use after the steps, less that in use before the process)"


@dataclass(frozen=True, slots=True)
class Reading:
    """Peaks and the seconds of each timed step, of one rank; `step` is still whole."""

    peaks: tuple[Peak, ...]
    step_s: tuple[float, ...]
    step: TrainingStep


def cpu_reading(build: Build, *, n_warmup: int, n_steps: int, tell: Tell) -> Reading:
    """Measure on the CPU: memory first, under the profiler, then time without it.

    The profiler is on while the model is built, since the allocator counts from then on.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it would write to the terminal
    from torch.profiler import ProfilerActivity, profile, record_function

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as found:
        step = build()
        _warm_up(step, n_warmup, tell)
        tell("the step that counts")
        with record_function(MARK):
            step.run()
    peak = _largest_total(found.profiler.kineto_results.experimental_event_tree())
    definition = CPU_ALLOCATED.format(n=n_warmup)
    times = tuple(_timed(step, n_steps, tell, synchronise=lambda: None))
    return Reading((Peak("allocated", peak, definition),), times, step)


def cuda_reading(
    build: Build, *, n_warmup: int, n_steps: int, tell: Tell, used_before: int | None
) -> Reading:
    """Measure on an accelerator of CUDA or ROCm.

    Args:
        used_before: bytes in use on the device before this process came to it.
    """
    import torch

    step = build()
    _warm_up(step, n_warmup, tell)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    times = tuple(_timed(step, n_steps, tell, synchronise=torch.cuda.synchronize))
    if not times:
        step.run()
    peaks = [
        Peak(
            "allocated", torch.cuda.max_memory_allocated(), CUDA_ALLOCATED.format(n=n_warmup)
        ),
        Peak("reserved", torch.cuda.max_memory_reserved(), CUDA_RESERVED.format(n=n_warmup)),
    ]  # fmt: skip
    if used_before is not None:
        used_after = device_used_bytes()
        if used_after is not None and used_after > used_before:
            peaks.append(Peak("driver", used_after - used_before, CUDA_DRIVER))
    return Reading(tuple(peaks), times, step)


def _warm_up(step: TrainingStep, n_steps: int, tell: Tell) -> None:
    """Run steps that do not count, and drop what building left in reference cycles."""
    for at in range(n_steps):
        tell(f"warm-up {at + 1}/{n_steps}")
        step.run()
    gc.collect()


def _timed(
    step: TrainingStep, n_steps: int, tell: Tell, *, synchronise: Callable[[], Any]
) -> Iterator[float]:
    for at in range(n_steps):
        tell(f"timed step {at + 1}/{n_steps}")
        start = time.perf_counter()
        step.run()
        synchronise()
        yield time.perf_counter() - start


def _largest_total(tree: list[Any]) -> int:
    """Largest number of bytes alive within the marked step, of storages made since the start.

    The profiler's own total is of the whole process, earlier sessions included; so allocations and
    releases are followed one by one.
    """
    from torch._C._profiler import _EventType

    events = list(_walked(tree))
    mark = next(event for event in events if event.name == MARK)
    changes = sorted(
        (event for event in events if event.tag == _EventType.Allocation),
        key=lambda event: event.start_time_ns,
    )
    alive: dict[int, int] = {}
    total, largest = 0, 0
    for event in changes:
        change = event.extra_fields
        if change.device.type != "cpu":
            continue
        if change.alloc_size > 0:
            alive[change.ptr] = change.alloc_size
            total += change.alloc_size
        else:
            total -= alive.pop(change.ptr, 0)
        if mark.start_time_ns <= event.start_time_ns <= mark.end_time_ns:
            largest = max(largest, total)
    return largest


def _walked(nodes: list[Any]) -> Iterator[Any]:
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(node.children)
