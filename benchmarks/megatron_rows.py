"""Megatron's own tests beside the tape: what is held between steps, and what a step adds.

``python benchmarks/megatron_rows.py [WORD ...]`` prints every toy layout whose name has all the words,
worst first: the measured peak, the error, and how far the standing part (what the source logs as
allocated after a step) and the rest are off, in MiB; then the median and the 90th percentile.
"""

from __future__ import annotations

import re
import statistics
import sys
from collections.abc import Iterator

from lmsize.errors import LmsizeError
from lmsize.measurements.measured import measured_memory
from lmsize.measurements.settings import question
from lmsize.measurements.table import shipped
from lmsize.validation.training import Asked

TOYS = "megatron_ci_tiny_memory"
MIB, GIB = 2**20, 2**30
STEADY = re.compile(r"allocated_bytes\.current=([\d.]+)")
STANDING = ("weights", "main_weights", "workspaces", "gradients", "optimizer_states")


def lines(words: list[str]) -> Iterator[tuple[float, str]]:
    """The error of each row, and what to print of it."""
    asked = Asked("analytic")
    for row in shipped(TOYS).rows:
        if not all(word in row["model"] for word in words):
            continue
        try:
            posed, measured = question(row), measured_memory(row)
            memory = asked.estimate(posed, pipeline_stage="last").memory
        except LmsizeError as error:
            print(f"skipped {row['id']}: {error}")
            continue
        steady = STEADY.search(row["notes"])
        peak = memory.peak_allocated_bytes
        if measured is None or peak is None or steady is None:
            continue
        held = float(steady[1]) * GIB
        standing = sum(memory.components.get(name) or 0 for name in STANDING)
        off = standing - held, peak - standing - (measured.n_bytes - held)
        error_frac = peak / measured.n_bytes - 1
        yield (
            error_frac,
            (
                f"{error_frac:+7.1%} of {measured.n_bytes / MIB:5.0f} MiB; held {off[0] / MIB:+5.0f}, "
                f"step {off[1] / MIB:+5.0f}  {row['gpu_norm']:10} {row['model']}"
            ),
        )


def main() -> None:
    found = sorted(lines(sys.argv[1:]), key=lambda line: -abs(line[0]))
    errors = sorted(abs(error) for error, _ in found)
    print("\n".join(text for _, text in found))
    if errors:
        p90 = errors[int(0.9 * (len(errors) - 1))]
        print(
            f"{len(errors)} rows: median {statistics.median(errors):.2%}, 90th percentile {p90:.1%}"
        )


if __name__ == "__main__":
    main()
