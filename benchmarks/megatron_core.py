"""The tape against Megatron core's own layers, schedules of recomputation and dispatchers, on fake tensors.

::

    pip install --no-deps megatron-core==0.16.1
    python benchmarks/megatron_core.py trace      # traced/megatron_core.csv; needs torch
    python benchmarks/megatron_core.py compare

Transformer Engine, which has no build without CUDA, is stood in for (``megatron_kernels.py``). One rank of
several is traced: the first or last stage of a pipeline, or all; alone or with its share of tensor and
sequence parallelism (``megatron_cases.py``). A case has the most that activations, temporaries and what
Megatron's own code keeps of them take in a step, in bytes.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from megatron_cases import CASES, Case, taped_bytes

PATH = Path(__file__).parent / "traced" / "megatron_core.csv"


def traced_bytes(case: Case) -> int:
    """What Megatron's own code takes."""
    from lmsize.tracing.engine import traced_factory
    from lmsize.tracing.peaks import in_blocks, peaks
    from lmsize.tracing.running import Device
    from megatron_models import built

    found = traced_factory(lambda: built(case), case.model, Device("cuda", (9, 0)))
    return max(
        sum(in_blocks(s.n_bytes) for s in peak.live if s.category != "weights")
        for peak in peaks(found.log.entries, in_blocks)
        if peak.phase.startswith("2.")
    )


def recorded() -> Iterator[tuple[Case, int]]:
    """The cases traced so far."""
    with PATH.open(newline="") as file:
        for row in csv.DictReader(file):
            case = Case(
                row["model"], row["stage"], row["recompute"], int(row["tp"]), int(row["vocab"]),
                row["loss"], row["few"], int(row["etp"]),
            )  # fmt: skip
            yield case, int(row["traced_bytes"])


def recorded_errors() -> Iterator[float]:
    """How far the tape is from each."""
    for case, traced in recorded():
        yield taped_bytes(case) / traced - 1


def main() -> None:
    tell: Callable[..., None] = print
    if sys.argv[1:] == ["trace"]:
        with PATH.open("w", newline="") as file:
            out = csv.writer(file, lineterminator="\n")
            out.writerow((*Case._fields, "traced_bytes"))
            for case in CASES:
                out.writerow((*case, traced_bytes(case)))
                file.flush()
    for case, traced in recorded():
        error = taped_bytes(case) / traced - 1
        tell(f"{error:+.3%} of {traced / 2**20:.0f} MiB  {' '.join(map(str, case))}")


if __name__ == "__main__":
    main()
