"""The tape against the trace on random configurations.

::

    python benchmarks/tape_vs_trace.py draw --seed 0 --number 300 > cases.jsonl
    python benchmarks/tape_vs_trace.py trace cases.jsonl > traced.jsonl     # needs torch
    python benchmarks/tape_vs_trace.py keep traced.jsonl                    # in traced/tape.csv
    python benchmarks/tape_vs_trace.py compare [traced.jsonl]

A case is a config and options of ``lmsize train`` (:mod:`tape_cases`); a traced case has the peak of
each phase of the second step, in bytes as an accelerator's allocator gives them.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path

from tape_cases import Case, drawn
from tape_rows import PHASES, keep, recorded


def traced_peaks(case: Case) -> dict[str, int]:
    """Bytes of the fullest instant of each phase of the second step, on the first rank.

    Raises:
        LmsizeError: the case cannot be traced.
    """
    from lmsize.catalogue import built_in
    from lmsize.layout.degrees import Layout
    from lmsize.tracing.engine import StepOptions, traced_step
    from lmsize.tracing.peaks import in_blocks, peaks
    from lmsize.tracing.running import Device
    from lmsize.workload.training import TrainSpec, with_defaults

    spec, _ = with_defaults(TrainSpec(**case["options"]), max_positions=None)
    usual = built_in().optimizer(spec.optimizer or "").default_implementation
    n_ranks, tp = spec.accelerators or 1, spec.tp
    found = traced_step(
        case["config"], spec, Device("cuda"), StepOptions(), implementation=usual,
        layout=Layout(dp=n_ranks // tp, tp=tp, zero=spec.zero or 0), replicate=n_ranks > 1,
    )  # fmt: skip
    by_phase = peaks(found.log.entries, in_blocks)
    return {p.phase[2:]: p.n_bytes for p in by_phase if p.phase.startswith("2.")}


def taped_peaks(case: Case) -> tuple[dict[str, float], bool]:
    """The same by the analytic engine, and whether the tape gave it."""
    from lmsize.catalogue import built_in
    from lmsize.estimate.question import training_question
    from lmsize.memory.training import training_peak
    from lmsize.model.read import read_config
    from lmsize.workload.training import TrainSpec

    question = training_question(
        read_config(case["config"], name="case"), TrainSpec(**case["options"]), built_in(),
        accelerator=None, today=date(2026, 1, 1),
    )  # fmt: skip
    peak = training_peak(question.setup)
    by_phase: dict[str, float] = defaultdict(float)
    for moment in peak.children:
        phase = {"forward": "forward", "optimizer_step": "optimizer"}.get(moment.label, "backward")
        by_phase[phase] = max(by_phase[phase], float(moment.value))
    return dict(by_phase), not question.setup.blocks_by_parts


def error_of(case: Case) -> tuple[float, str]:
    """How far the tape's peak is from the traced one, and the same by phase, in words."""
    taped, is_taped = taped_peaks(case)
    traced = case["peaks"]
    parts = " ".join(
        f"{phase}={taped.get(phase, 0) / n_bytes - 1:+.2%}"
        for phase, n_bytes in traced.items() if phase in PHASES
    )  # fmt: skip
    return max(taped.values()) / max(
        traced.values()
    ) - 1, parts if is_taped else f"BY PARTS {parts}"


def quantile(errors: Iterable[float], share: float) -> float:
    """The error that a share of the cases does not exceed."""
    ordered = sorted(errors)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def compared(cases: Iterable[Case]) -> None:
    """Print each case's error, and their distribution."""
    from lmsize.errors import LmsizeError

    errors = []
    for case in cases:
        if "error" in case:
            print(f"{case['id']:<18} not traced: {case['error'][:120]}")
            continue
        try:
            error, parts = error_of(case)
        except LmsizeError as refusal:
            print(f"{case['id']:<18} refused: {refusal}")
            continue
        errors.append(abs(error))
        said = " ".join(f"{v}" for v in case["options"].values())
        print(f"{case['id']:<18} {error:+8.3%} {parts} [{said}]")
    print(
        f"n={len(errors)} median={quantile(errors, 0.5):.4%} p90={quantile(errors, 0.9):.3%} "
        f"p99={quantile(errors, 0.99):.3%} worst={max(errors):.3%}"
    )


def _read(path: Path | None) -> Iterator[Case]:
    return recorded() if path is None else map(json.loads, path.read_text("utf-8").splitlines())


def trace(cases: Iterable[Case]) -> None:
    """Print each case with its peaks, or with what is said instead."""
    for case in cases:
        try:
            case["peaks"] = traced_peaks(case)
        except Exception as error:  # noqa: BLE001  # said in the comparison
            case["error"] = f"{type(error).__name__}: {error}"
        print(json.dumps(case), flush=True)
        print(case["id"], file=sys.stderr)


def main() -> None:
    """Draw, trace, keep or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("draw", "trace", "keep", "compare"))
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--number", type=int, default=300)
    asked = parser.parse_args()
    if asked.what == "draw":
        for case in drawn(asked.seed, asked.number):
            print(json.dumps(case))
        return
    {"trace": trace, "keep": keep, "compare": compared}[asked.what](_read(asked.file))


if __name__ == "__main__":
    main()
