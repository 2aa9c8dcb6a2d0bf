"""Fit the table of typical model FLOPs utilisation from published runs (calibration rows only)."""

from __future__ import annotations

import csv
import math
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "src"))

from lmsize.catalogue import Catalogue
from lmsize.catalogue.typical import COARSE_EXPERT_WIDTH
from lmsize.errors import InputError

COLUMNS = ("family", "architecture", "method", "precision", "min_params", "max_params", "median", "p10", "p90",
           "n_rows", "n_sources", "source", "source_date")  # fmt: skip
BUCKETS = ((0.0, 1e9), (1e9, 1e10), (1e10, 1e11), (1e11, 1e15))
LEAST_ROWS = 5
PLAUSIBLE = (0.005, 0.85)
SIXTEEN_BIT = re.compile(
    r"^(amp_?|pure_?)?(bf16|fp16|bfloat16|float16|half)( ?amp|-true|/bf16)?$", re.IGNORECASE
)
EIGHT_BIT = re.compile(r"fp8|float8", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Run:
    """One published run, reduced to what the table needs."""

    family: str
    vendor: str
    architecture: str
    method: str
    precision: str
    n_params: float
    mfu: float
    source: str


def number(text: str) -> float:
    """A cell as a number; 0 for an empty or unreadable one."""
    try:
        return float(text)
    except ValueError:
        return 0.0


def precision(word: str) -> str:
    """``16-bit``, ``fp8`` or "" for what is left out (32 bits, 4 bits, unclear)."""
    if SIXTEEN_BIT.match(word.strip()):
        return "16-bit"
    return "fp8" if EIGHT_BIT.search(word) and "nvfp4" not in word.lower() else ""


def n_params(row: Mapping[str, str]) -> float:
    """Parameters: as stated, else from the shape of a plain decoder, else from the name."""
    if number(row["params_b"]):
        return number(row["params_b"]) * 1e9
    layers, width = number(row["layers"]), number(row["hidden"])
    if layers and width:
        mlp = 2 * number(row["ffn"]) * width or 8 * width**2
        return layers * (4 * width**2 + mlp) + (number(row["vocab"]) or 50_000) * width
    named = re.search(r"(\d+(?:\.\d+)?)\s*[bB]\b", row["model"])
    return float(named[1]) * 1e9 if named else 0.0


def bubble(row: Mapping[str, str]) -> float:
    """The share that the pipeline's bubble adds to a rank's own work; 0 where it is not stated."""
    stages, virtual = number(row["pp"]) or 1, number(row["vp"]) or 1
    each = number(row["micro_batch"]) * number(row["dp"])
    micro = number(row["grad_accum"]) or (number(row["global_batch"]) / each if each else 0)
    return (stages - 1) / (micro * virtual) if micro else 0.0


def utilisation(row: Mapping[str, str], peak: float) -> float:
    """MFU: as printed; else printed model TFLOP/s, or tokens/s x 6N (4N with adapters), over peak."""
    if number(row["measured_mfu"]):
        return number(row["measured_mfu"])
    if number(row["measured_tflops_per_gpu"]) and "model TFLOP" in row["mfu_definition"]:
        return number(row["measured_tflops_per_gpu"]) * 1e12 / peak
    if row["moe_experts"]:
        return 0.0  # active parameters are not in the row
    factor = 6 if row["method"] == "full" else 4
    return factor * n_params(row) * number(row["measured_tokens_per_s_per_gpu"]) / peak


def has_narrow_experts(row: Mapping[str, str]) -> bool:
    """Whether the experts are too narrow for a dense model's utilisation."""
    width = number(row["moe_ffn"]) or number(row["ffn"])
    return bool(row["moe_experts"]) and width < COARSE_EXPERT_WIDTH


def read_runs(path: Path) -> tuple[list[Run], Counter[str]]:
    """Runs that can be used, and how many were left out for which reason."""
    runs, left_out, known = [], Counter[str](), Catalogue()
    with path.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            if row["split"] != "calibration":
                continue
            run = read_run(row, known)
            if isinstance(run, Run):
                runs.append(run)
            else:
                left_out[run] += 1
    return runs, left_out


def read_run(row: Mapping[str, str], known: Catalogue) -> Run | str:
    """A run, or the reason for leaving it out."""
    method = {"full": "full", "lora": "lora", "qlora": "lora"}.get(row["method"], "")
    kind = precision(row["precision"])
    if not method or not kind or row["quality"] == "C":
        return "method, precision or grade"
    try:
        chip, _ = known.accelerator(row["gpu_norm"])
    except InputError:
        return "accelerator"
    peak = chip.peak_flops_per_s("fp8" if kind == "fp8" else "bf16") or chip.fp16_flops_per_s
    if (kind == "fp8" and chip.fp8_flops_per_s is None) or not peak:
        return "peak"
    mfu = utilisation(row, peak) * (1 + bubble(row))
    architecture = "moe" if has_narrow_experts(row) else "dense"
    if (not n_params(row) and architecture == "dense") or not mfu:
        return "parameters or speed"
    if not PLAUSIBLE[0] < mfu < PLAUSIBLE[1]:
        return f"implausible ({row['source_repo_or_url']})"
    return Run(
        chip.family, chip.vendor, architecture, method, kind, n_params(row), mfu,
        row["source_repo_or_url"],
    )  # fmt: skip


def quantile(runs: Sequence[Run], fraction: float) -> float:
    """A weighted quantile in which each source weighs the same, however many rows it has."""
    per_source = Counter(run.source for run in runs)
    ordered = sorted((run.mfu, 1 / per_source[run.source]) for run in runs)
    goal, passed = fraction * len(per_source), 0.0
    for value, weight in ordered:
        passed += weight
        if passed >= goal - 1e-9:
            return value
    return ordered[-1][0]


def table_row(
    group: tuple[str, ...], low: float, high: float, runs: Sequence[Run]
) -> dict[str, object]:
    """One line of ``mfu.csv``."""
    named = {name for run in runs for name in run.source.split(" ; ")}
    sources = sorted(name.removeprefix("https://github.com/") for name in named)
    family, architecture, method, kind = group
    return {
        "family": family, "architecture": architecture, "method": method, "precision": kind, "min_params": f"{low:g}",
        "max_params": f"{high:g}", "median": f"{quantile(runs, 0.5):.3f}",
        "p10": f"{quantile(runs, 0.1):.3f}", "p90": f"{quantile(runs, 0.9):.3f}",
        "n_rows": len(runs), "n_sources": len(sources),
        "source": "published runs: " + "; ".join(sources), "source_date": "2026-11",
    }  # fmt: skip


def table(runs: Iterable[Run]) -> list[dict[str, object]]:
    """All rows: by family, by vendor and over all; each by size where enough runs are known."""
    groups: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run in runs:
        for name in dict.fromkeys((run.family, run.vendor, "all")):
            groups[name, run.architecture, run.method, run.precision].append(run)
    rows = []
    for group, members in sorted(groups.items()):
        buckets = BUCKETS if group[1] == "dense" else ()  # a mixture's size says little
        for low, high in (*buckets, (0.0, math.inf)):
            inside = [run for run in members if low <= run.n_params < high]
            if len(inside) >= LEAST_ROWS:
                rows.append(table_row(group, low, min(high, 1e18), inside))
    return rows


def build_mfu(truth: Path, data: Path) -> None:
    """Write ``mfu.csv`` and say what was left out."""
    runs, left_out = read_runs(truth / "throughput.csv")
    with (data / "mfu.csv").open("w", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(lines, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(table(runs))
    print(f"mfu.csv: {len(runs)} runs used; left out: {dict(left_out)}")


if __name__ == "__main__":
    build_mfu(Path(sys.argv[1]), Path(sys.argv[2]))
