"""The trace of one rank against real ranks, which meet over gloo on the CPU.

    python benchmarks/ranks.py               # every case, as a table
    python benchmarks/ranks.py fsdp tp       # some; --csv FILE writes them down

Real is what the allocator tells the profiler on rank 0 in the second step, but for the buffers that
gloo adds and other backends do not: it reduces a copy of the whole input of a reduce-scatter
(ProcessGroupGloo::reduce_scatter_tensor_coalesced) and gathers into a flat buffer first
(ProcessGroupGloo::allgather, newLikeFlat). It makes them inside of the call or in threads of its own,
which let go of them some time later.
"""

from __future__ import annotations

import argparse
import csv
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

PATIENCE = 300  # seconds that ranks wait for each other
ANSWER = "peaks.json"
PAUSE = 0.001  # seconds
OF_GLOO = ("c10d::reduce_scatter", "c10d::_reduce_scatter", "c10d::_allgather_base")
LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 256,
    "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 32, "vocab_size": 1000, "max_position_embeddings": 512,
}  # fmt: skip
QWEN = LLAMA | {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "vocab_size": 3001}
LORA = {"method": "lora", "lora_rank": 8, "lora_targets": "all-linear"}
COLUMNS = LORA | {"lora_targets": "q_proj,k_proj,v_proj,gate_proj,up_proj"}
# name: (config, what is asked beside, dp, tp)
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], int, int]] = {
    "fsdp": (LLAMA, {"zero": 3}, 2, 1),
    "fsdp-recompute": (LLAMA, {"zero": 3, "recompute": "full"}, 2, 1),
    "fsdp-amp": (LLAMA, {"zero": 3, "precision": "amp-bf16"}, 2, 1),
    "fsdp-amp-recompute": (LLAMA, {"zero": 3, "precision": "amp-bf16", "recompute": "full"}, 2, 1),
    "fsdp-fp32": (LLAMA, {"zero": 3, "precision": "fp32"}, 2, 1),
    "fsdp-accumulation": (LLAMA, {"zero": 3, "grad_accum": 2}, 2, 1),
    "fsdp-accumulation-fp32": (
        LLAMA, {"zero": 3, "grad_accum": 4, "recompute": "full", "precision": "fp32"}, 2, 1,
    ),
    "fsdp-lora": (LLAMA, {"zero": 3, **LORA}, 2, 1),
    "fsdp-lora-recompute": (LLAMA, {"zero": 3, "recompute": "full", **LORA}, 2, 1),
    "fsdp-stage-2": (LLAMA, {"zero": 2}, 2, 1),
    "fsdp-uneven": (QWEN, {"zero": 3, "micro_batch": 1, "seq_len": 77}, 2, 1),
    "tp": (LLAMA, {}, 1, 2),
    "tp-recompute": (LLAMA, {"recompute": "full"}, 1, 2),
    "tp-fp32": (LLAMA, {"precision": "fp32", "attention": "eager"}, 1, 2),
    "tp-tied": (LLAMA | {"tie_word_embeddings": True}, {}, 1, 2),
    "tp-lora": (LLAMA, COLUMNS, 1, 2),
    "tp-lora-recompute": (LLAMA, {"recompute": "full", **COLUMNS}, 1, 2),
    "tp-fsdp": (LLAMA, {"zero": 3}, 2, 2),
}  # fmt: skip


def question(name: str) -> tuple[dict[str, Any], Any, Any]:
    """The config, the filled-in spec and the layout of a case."""
    from lmsize.layout.degrees import Layout
    from lmsize.workload.training import TrainSpec, with_defaults

    config, asked, dp, tp = CASES[name]
    usual = {"precision": "bf16", "micro_batch": 2, "seq_len": 128, "tp": tp}
    spec = with_defaults(replace(TrainSpec(), **{**usual, **asked}), max_positions=None)[0]
    return config, spec, Layout(dp=dp, tp=tp, zero=spec.zero or 0)


def traced_bytes(name: str) -> int:
    """The peak of the steady step by the trace, on fake tensors of the CPU."""
    from lmsize.tracing.engine import StepOptions, traced_step
    from lmsize.tracing.peaks import as_requested, peaks
    from lmsize.tracing.running import Device

    config, spec, layout = question(name)
    found = traced_step(config, spec, Device("cpu"), StepOptions(), layout=layout)
    return max(p.n_bytes for p in peaks(found.log.entries, as_requested) if p.phase[0] == "2")


def real_bytes(names: Sequence[str]) -> dict[str, int]:
    """The peak of the second of two real steps on the first rank, by case; the ranks are made once."""
    from torch import multiprocessing

    found: dict[str, int] = {}
    for n_ranks in sorted({_n_ranks(name) for name in names}):
        own = [name for name in names if _n_ranks(name) == n_ranks]
        with tempfile.TemporaryDirectory() as folder:
            multiprocessing.spawn(_rank, (n_ranks, own, Path(folder)), nprocs=n_ranks)
            found |= json.loads((Path(folder) / ANSWER).read_text())
    return found


def _n_ranks(name: str) -> int:
    return CASES[name][2] * CASES[name][3]


def _rank(rank: int, n_ranks: int, names: Sequence[str], folder: Path) -> None:
    """One rank; they meet by a file, so that no port can be taken."""
    os.environ["KINETO_LOG_LEVEL"] = "99"
    import torch
    from torch import distributed

    torch.set_num_threads(1)
    limit = timedelta(seconds=PATIENCE)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=n_ranks,
        timeout=limit,
    )  # fmt: skip
    peaks = {}
    for name in names:
        peaks[name] = _case(name)
        if rank == 0:
            print(f"{name}: {peaks[name]:,} bytes on a real rank", file=sys.stderr, flush=True)
    if rank == 0:
        (folder / ANSWER).write_text(json.dumps(peaks))
    distributed.barrier()
    distributed.destroy_process_group()


def _case(name: str) -> int:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.profiler import ProfilerActivity, profile, record_function

    from lmsize.step.model import built_model
    from lmsize.step.sharding import SHARDS, TENSORS, sharded
    from lmsize.step.training import step_of

    config, spec, layout = question(name)
    sizes = {SHARDS: layout.dp, TENSORS: layout.tp}
    sizes = {dimension: n for dimension, n in sizes.items() if n > 1}
    mesh = init_device_mesh("cpu", tuple(sizes.values()), mesh_dim_names=tuple(sizes))
    gc.collect()
    with (
        _gloo_first(),
        profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as seen,
    ):
        step = step_of(
            sharded(built_model(config, spec, mesh=mesh), spec, mesh), config, spec, dp=layout.dp
        )
        step.run()
        gc.collect()
        with record_function("second"):
            step.run()
    return _peak(seen.profiler.kineto_results.experimental_event_tree())


@contextmanager
def _gloo_first() -> Iterator[None]:
    """While it lasts, threads of gloo let go of a collective's tensors before its caller goes on.

    Which of both is last is chance otherwise, and what they let go of the profiler does not see.
    """
    from torch.distributed import Work, _functional_collectives

    def paused(wait: Callable[..., Any]) -> Callable[..., Any]:
        def waited(*args: Any, **kwargs: Any) -> Any:
            found = wait(*args, **kwargs)
            time.sleep(PAUSE)
            return found

        return waited

    with (
        mock.patch.object(Work, "wait", paused(Work.wait)),
        mock.patch.object(
            _functional_collectives, "wait_tensor", paused(_functional_collectives.wait_tensor)
        ),
    ):
        yield


def _peak(tree: list[Any]) -> int:
    """The most bytes alive in the second step, gloo's copies left out."""
    events = [(event, inside) for root in tree for event, inside in _walked(root, inside=False)]
    mark = next(event for event, _ in events if event.name == "second")
    changes = [
        (event, inside or event.start_tid != mark.start_tid)
        for event, inside in events if str(event.tag).endswith("Allocation")
    ]  # fmt: skip
    changes.sort(key=lambda one: one[0].start_time_ns)
    alive: dict[int, int] = {}
    total = largest = 0
    for event, in_gloo in changes:
        change = event.extra_fields
        if change.alloc_size > 0:
            # What was there before has gone, unseen.
            total -= alive.pop(change.ptr, 0)
            alive[change.ptr] = 0 if in_gloo else change.alloc_size
            total += alive[change.ptr]
        else:
            total -= alive.pop(change.ptr, 0)
        if mark.start_time_ns <= event.start_time_ns <= mark.end_time_ns:
            largest = max(largest, total)
    return largest


def _walked(event: Any, *, inside: bool) -> Iterator[tuple[Any, bool]]:
    inside = inside or event.name.startswith(OF_GLOO)
    yield event, inside
    for child in event.children:
        yield from _walked(child, inside=inside)


def compared(names: Sequence[str]) -> list[dict[str, Any]]:
    """A row a case."""
    real = real_bytes(names)
    rows = []
    for name in names:
        traced = traced_bytes(name)
        off = f"{traced / real[name] - 1:.6f}"
        rows.append({"case": name, "real_bytes": real[name], "traced_bytes": traced, "off": off})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=list(CASES))
    parser.add_argument("--csv", type=Path)
    asked = parser.parse_args()
    rows = compared(asked.cases)
    for row in rows:
        print(f"{row['case']:22} {row['real_bytes']:12,} {row['traced_bytes']:12,} {row['off']}")
    if asked.csv is not None:
        with asked.csv.open("w", encoding="utf-8", newline="") as out:
            writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
