"""The tape against the trace: random configurations, and the catalogue at its real shape.

::

    python benchmarks/tape_vs_trace.py catalogue > cases.jsonl
    python benchmarks/tape_vs_trace.py draw --seed 1 --number 300 > cases.jsonl
    python benchmarks/tape_vs_trace.py trace cases.jsonl > traced.jsonl     # needs torch
    python benchmarks/tape_vs_trace.py compare traced.jsonl

A case is a config and options of ``lmsize train``; a traced case has the peak of each phase of the
second step, in bytes as an accelerator's allocator gives them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator
from datetime import date
from pathlib import Path

from tape_cases import Case, drawn

_SHORT = {"micro_batch": 1, "seq_len": 512, "optimizer": "adamw"}
CATALOGUE_SETTINGS: dict[str, Case] = {
    "bf16": _SHORT | {"precision": "bf16"},
    "amp-ckpt": _SHORT | {"precision": "amp-bf16", "recompute": "full"},
    "lora": _SHORT | {"precision": "bf16", "method": "lora"},
}


def catalogue_cases() -> Iterator[Case]:
    """Every model of the catalogue at its real shape, in three settings."""
    from lmsize.catalogue import built_in

    for summary in built_in().models():
        found = built_in().find_model(summary.name)
        if found is None:
            continue
        for name, options in CATALOGUE_SETTINGS.items():
            case = {"id": f"{summary.name}-{name}", "config": dict(found[0].config)}
            yield case | {"options": options}


def traced_peaks(case: Case) -> dict[str, int]:
    """Bytes of the fullest instant of each phase of the second step.

    Raises:
        LmsizeError: the case cannot be traced.
    """
    from lmsize.catalogue import built_in
    from lmsize.tracing.engine import StepOptions, traced_step
    from lmsize.tracing.peaks import in_blocks, peaks
    from lmsize.tracing.running import Device
    from lmsize.workload.training import TrainSpec, with_defaults

    spec, _ = with_defaults(TrainSpec(**case["options"]), max_positions=None)
    usual = built_in().optimizer(spec.optimizer or "").default_implementation
    found = traced_step(
        case["config"], spec, Device("cuda"), StepOptions(), implementation=usual, replicate=False
    )
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


def compared(lines: Iterator[str]) -> None:
    """Print each case's error, and their distribution."""
    from lmsize.errors import LmsizeError

    errors = []
    for line in lines:
        case = json.loads(line)
        if "error" in case:
            print(f"{case['id']:<16} not traced: {case['error'][:120]}")
            continue
        try:
            taped, is_taped = taped_peaks(case)
        except LmsizeError as error:
            print(f"{case['id']:<16} refused: {error}")
            continue
        real = max(case["peaks"].values())
        error = max(taped.values()) / real - 1
        errors.append(abs(error))
        parts = " ".join(
            f"{phase}={taped.get(phase, 0) / case['peaks'][phase] - 1:+.2%}"
            for phase in ("forward", "backward", "optimizer")
            if phase in case["peaks"]
        )
        said = " ".join(f"{v}" for k, v in case["options"].items())
        print(f"{case['id']:<18} {error:+8.3%} {'' if is_taped else 'TEXTBOOK '}{parts} [{said}]")
    ordered = sorted(errors)
    print(
        f"n={len(ordered)} median={statistics.median(ordered):.4%} "
        f"p90={ordered[int(0.9 * len(ordered))]:.3%} p99={ordered[int(0.99 * len(ordered))]:.3%} "
        f"worst={ordered[-1]:.3%}"
    )


def main() -> None:
    """Draw, trace or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("draw", "catalogue", "trace", "compare"))
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--number", type=int, default=300)
    asked = parser.parse_args()
    if asked.what in ("draw", "catalogue"):
        drawing = drawn(asked.seed, asked.number) if asked.what == "draw" else catalogue_cases()
        for case in drawing:
            print(json.dumps(case))
        return
    lines = iter(asked.file.read_text("utf-8").splitlines())
    if asked.what == "compare":
        compared(lines)
        return
    for line in lines:
        case = json.loads(line)
        try:
            case["peaks"] = traced_peaks(case)
        except Exception as error:  # noqa: BLE001  # said in the comparison
            case["error"] = f"{type(error).__name__}: {error}"
        print(json.dumps(case), flush=True)
        print(case["id"], file=sys.stderr)


if __name__ == "__main__":
    main()
