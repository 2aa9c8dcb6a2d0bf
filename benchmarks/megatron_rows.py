"""Megatron's own tests beside the tape: what is held between steps, and what a step adds.

``python benchmarks/megatron_rows.py [WORD ...]`` prints every toy layout whose name has all the words,
worst first: the measured peak, the error, and how far the standing part (what the source logs as
allocated after a step) and the rest are off, in MiB; then the figures of both halves. Programs are
written with the half ``use`` alone; of the rest, only ``--half rest`` prints rows.
"""

from __future__ import annotations

import re
import statistics
import sys
import zlib
from collections.abc import Iterator, Mapping

from lmsize.errors import LmsizeError
from lmsize.measurements.measured import measured_memory
from lmsize.measurements.settings import question
from lmsize.measurements.table import shipped
from lmsize.validation.training import Asked

TOYS = "megatron_ci_tiny_memory"
MIB, GIB = 2**20, 2**30
STEADY = re.compile(r"allocated_bytes\.current=([\d.]+)")
STANDING = (
    "weights",
    "gathered_weights",
    "main_weights",
    "workspaces",
    "gradients",
    "optimizer_states",
)


def half(row: Mapping[str, str]) -> str:
    """Which half a test is in, whatever its accelerator and the size of its cluster."""
    name = row["model"].removesuffix("_1node")
    return "rest" if zlib.crc32(name.encode()) % 2 else "use"


def lines(words: list[str]) -> Iterator[tuple[str, float, str]]:
    """The half and the error of each row, and what to print of it."""
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
            half(row),
            error_frac,
            (
                f"{error_frac:+7.1%} of {measured.n_bytes / MIB:5.0f} MiB; held {off[0] / MIB:+5.0f}, "
                f"step {off[1] / MIB:+5.0f}  {row['gpu_norm']:10} {row['model']}"
            ),
        )


def main() -> None:
    words = sys.argv[1:]
    shown = "use"
    if words[:1] == ["--half"]:
        shown, words = words[1], words[2:]
    found = sorted(lines(words), key=lambda line: -abs(line[1]))
    print("\n".join(text for part, _, text in found if part == shown))
    for part in ("use", "rest"):
        errors = sorted(abs(error) for one, error, _ in found if one == part)
        if errors:
            median, mean = statistics.median(errors), statistics.mean(errors)
            p90 = errors[int(0.9 * (len(errors) - 1))]
            print(
                f"{part}: {len(errors)} rows, median {median:.2%}, mean {mean:.2%}, p90 {p90:.1%}"
            )


if __name__ == "__main__":
    main()
