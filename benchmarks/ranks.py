"""The trace of one rank of two against two real ranks, which meet over gloo on the CPU.

    python benchmarks/ranks.py               # every case, as a table
    python benchmarks/ranks.py fsdp tp       # some

Real is what the allocator tells the profiler on rank 0 in the second step, but for the buffers that
gloo adds and other backends do not: it reduces a copy of the whole input of a reduce-scatter
(ProcessGroupGloo::reduce_scatter_tensor_coalesced) and gathers into a flat buffer first (its allgather),
in threads of its own, which let go of both some time later.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

N_RANKS = 2
LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 256,
    "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 32, "vocab_size": 1000, "max_position_embeddings": 512,
}  # fmt: skip
QWEN = LLAMA | {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "vocab_size": 3001}
LORA = {"method": "lora", "lora_rank": 8, "lora_targets": "all-linear"}
# name: (config, what is asked beside, dp, tp)
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], int, int]] = {
    "fsdp": (LLAMA, {"zero": 3}, 2, 1),
    "fsdp-recompute": (LLAMA, {"zero": 3, "recompute": "full"}, 2, 1),
    "fsdp-amp": (LLAMA, {"zero": 3, "precision": "amp-bf16"}, 2, 1),
    "fsdp-amp-recompute": (LLAMA, {"zero": 3, "precision": "amp-bf16", "recompute": "full"}, 2, 1),
    "fsdp-fp32": (LLAMA, {"zero": 3, "precision": "fp32"}, 2, 1),
    "fsdp-accumulation": (LLAMA, {"zero": 3, "grad_accum": 2}, 2, 1),
    "fsdp-lora": (LLAMA, {"zero": 3, **LORA}, 2, 1),
    "fsdp-lora-recompute": (LLAMA, {"zero": 3, "recompute": "full", **LORA}, 2, 1),
    "fsdp-stage-2": (LLAMA, {"zero": 2}, 2, 1),
    "fsdp-uneven": (QWEN, {"zero": 3, "micro_batch": 1, "seq_len": 77}, 2, 1),
    "tp": (LLAMA, {}, 1, 2),
    "tp-recompute": (LLAMA, {"recompute": "full"}, 1, 2),
    "tp-fp32": (LLAMA, {"precision": "fp32", "attention": "eager"}, 1, 2),
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


def real_bytes(name: str) -> int:
    """The peak of the second of two real steps, on the first of two ranks."""
    from torch import multiprocessing

    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port, answer = free.getsockname()[1], Path(folder) / "peak.json"
        free.close()
        multiprocessing.spawn(_rank, (name, port, str(answer)), nprocs=N_RANKS)
        return int(json.loads(answer.read_text()))


def _rank(rank: int, name: str, port: int, answer: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "KINETO_LOG_LEVEL": "99"}
    import torch
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.profiler import ProfilerActivity, profile, record_function

    from lmsize.step.model import built_model
    from lmsize.step.sharding import SHARDS, TENSORS, sharded
    from lmsize.step.training import step_of

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank, world_size=N_RANKS)
    config, spec, layout = question(name)
    mesh = init_device_mesh(
        "cpu", (N_RANKS,), mesh_dim_names=(TENSORS if layout.tp > 1 else SHARDS,)
    )
    cpu = [ProfilerActivity.CPU]
    with profile(activities=cpu, profile_memory=True, acc_events=True) as seen:
        step = step_of(sharded(built_model(config, spec), spec, mesh), config, spec, dp=layout.dp)
        step.run()
        gc.collect()
        with record_function("second"):
            step.run()
    if rank == 0:
        peak = _peak(seen.profiler.kineto_results.experimental_event_tree())
        Path(answer).write_text(json.dumps(peak))
    distributed.barrier()
    distributed.destroy_process_group()


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
            alive[change.ptr] = 0 if in_gloo else change.alloc_size
            total += alive[change.ptr]
        else:
            total -= alive.pop(change.ptr, 0)
        if mark.start_time_ns <= event.start_time_ns <= mark.end_time_ns:
            largest = max(largest, total)
    return largest


def _walked(event: Any, *, inside: bool) -> Iterator[tuple[Any, bool]]:
    inside = inside or "reduce_scatter" in event.name
    yield event, inside
    for child in event.children:
        yield from _walked(child, inside=inside)


def main() -> None:
    names = sys.argv[1:] or list(CASES)
    print(f"{'case':22} {'real':>12} {'traced':>12} {'off':>9}")
    for name in names:
        real, traced = real_bytes(name), traced_bytes(name)
        print(f"{name:22} {real:12,} {traced:12,} {traced / real - 1:+9.4%}", flush=True)


if __name__ == "__main__":
    main()
