"""Measure the budgets: start-up, estimates, searches, formulas over arrays, installed size.

python benchmarks/run.py             # medians of several runs
python benchmarks/run.py --install   # also the size of a fresh installation
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path

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


def formulas_per_s() -> float:
    """Layouts a second for the memory and time formulas of a candidate, on arrays of a million."""
    import numpy as np

    from lmsize.memory.activations import layer_activation_bytes
    from lmsize.memory.storage import stored_bytes
    from lmsize.timing.durations import utilised_s

    n = 1_000_000
    dp, tp = np.arange(1, n + 1), np.full(n, 8)
    started = time.perf_counter()
    states = stored_bytes(n_numbers=8_030_261_248, bits_per_number=128, n_shards=dp)
    kept = layer_activation_bytes(
        n_tokens=65_536,
        width=4096,
        n_score_heads=0,
        n_keys=2048,
        bytes_per_number=2,
        tp=tp,
        sequence_shards=tp,
    )
    assert (states + kept > 0).all()
    utilised_s(n_flops=9.6e13, n_accelerators=dp, peak_flops_per_s=3.12e14, mfu_frac=0.4)
    return n / (time.perf_counter() - started)


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
    print(f"{'formulas over arrays of layouts':44} {formulas_per_s() / 1e6:9.1f} M/s  budget 1 M/s")
    if "--install" in sys.argv:
        whole, own = installed_mb()
        print(f"{'core with dependencies':44} {whole:9.1f} MB   budget 120 MB")
        print(f"{'own files':44} {own:9.1f} MB   budget 12 MB")


if __name__ == "__main__":
    main()
