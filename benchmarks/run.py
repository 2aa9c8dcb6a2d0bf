"""Measure the budgets: start-up, estimates, searches, formulas over arrays, installed size.

python benchmarks/run.py             # medians of several runs
python benchmarks/run.py --install   # also the size of a fresh installation
"""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmsize

ROOT = Path(__file__).parents[1]


def median_ms(call: Callable[[], object], *, n_runs: int) -> float:
    """Median milliseconds of a call, after one that warms up."""
    call()
    spent = []
    for _ in range(n_runs):
        started = time.perf_counter()
        call()
        spent.append(time.perf_counter() - started)
    return statistics.median(spent) * 1e3


def process(*arguments: str) -> Callable[[], object]:
    """A whole process of the command line."""
    command = [sys.executable, "-m", "lmsize", *arguments]
    return lambda: subprocess.run(command, capture_output=True, check=False)


GRID: dict[str, list[Any]] = {
    "tp": [1, 2, 4, 8], "pp": [1, 2, 4, 8, 16], "cp": [1, 2, 4, 8], "zero": [0, 1, 2, 3],
    "recompute": ["none", "full"], "micro_batch": [1, 2, 3, 4, 6, 8, 12, 16],
    "dp": [2**i for i in range(10)], "seq_len": [1024 * i for i in range(1, 21)],
}  # fmt: skip


def layouts_per_s(model: str, stack: str, grid: dict[str, list[Any]]) -> float:
    """Candidate layouts a second: the whole peak, every moment of every stage, on one core."""
    n = math.prod(len(values) for values in grid.values())
    return n / median_ms(lambda: lmsize.sweep(model, grid, stack=stack), n_runs=3) * 1e3


def installed_mb() -> tuple[float, float]:
    """Megabytes of the core with its dependencies, and of the package alone, freshly installed."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        site = next(Path(folder).glob("lib/python*/site-packages"))
        before = size_mb(site)
        pip = [f"{folder}/bin/python", "-m", "pip", "install", "--quiet", "--no-compile", str(ROOT)]
        subprocess.run(pip, check=True)
        return size_mb(site) - before, size_mb(site / "lmsize")


def size_mb(folder: Path) -> float:
    """Bytes of all files below a folder, in 10^6."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def main() -> None:
    model, asked = "llama-3.1-8b", {"accelerator": "a100-80gb", "tokens": "1B"}
    rows = [
        ("lmsize --help, whole process", median_ms(process("--help"), n_runs=9), 150),
        ("one estimate as JSON, whole process", median_ms(
            process("train", model, "-g", "a100-80gb", "--tokens", "1B", "--json"), n_runs=9), 400),
        ("one estimate as text, whole process", median_ms(
            process("train", model, "-g", "a100-80gb", "--tokens", "1B"), n_runs=9), 400),
        ("estimate inside a process", median_ms(lambda: lmsize.train(model), n_runs=50), 2),
        ("the same with limits and counts searched", median_ms(
            lambda: lmsize.train(model, **asked), n_runs=20), None),
        ("deepseek-v3 with searches", median_ms(
            lambda: lmsize.train("deepseek-v3", accelerator="h200"), n_runs=5), None),
        ("validate, 4,025 training rows", median_ms(
            lambda: lmsize.validate(["memory", "throughput"]), n_runs=1), 10_000),
    ]  # fmt: skip
    for name, value, budget in rows:
        print(f"{name:44} {value:9.2f} ms   {f'budget {budget} ms' if budget else ''}")
    experts = {**GRID, "ep": [1, 2, 4, 8], "seq_len": [4096 * i for i in range(1, 6)]}
    for name, stack, grid in (
        ("llama-3.1-8b", "megatron", GRID), ("llama-3.1-70b", "transformers", GRID),
        ("mixtral-8x7b", "torchtitan", experts),
    ):  # fmt: skip
        rate = layouts_per_s(name, stack, grid) / 1e6
        print(f"{f'1,024,000 layouts of {name}, {stack}':44} {rate:9.2f} M/s  budget 1 M/s")
    if "--install" in sys.argv:
        whole, own = installed_mb()
        print(f"{'core with dependencies':44} {whole:9.1f} MB   budget 120 MB")
        print(f"{'own files':44} {own:9.1f} MB   budget 12 MB")


if __name__ == "__main__":
    main()
