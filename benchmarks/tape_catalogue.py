"""The tape against the trace: every model of the catalogue, its real shape, three settings.

::

    python benchmarks/tape_catalogue.py trace [PATTERN ...]      # needs torch; minutes to hours
    python benchmarks/tape_catalogue.py compare [PATTERN ...]    # seconds

`trace` goes on where it stopped, one model of each kind first. Each trace is a process of its own;
its rows are in ``benchmarks/traced/tape_catalogue.csv``: the peak of each phase of the second step,
in bytes as an accelerator's allocator gives them. `compare` asks the analytic engine the same.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]
TABLE = Path(__file__).parent / "traced" / "tape_catalogue.csv"
COLUMNS = (
    "model", "setting", "seq_len", "status", "peak_bytes", "forward_bytes", "backward_bytes",
    "optimizer_bytes", "seconds", "said",
)  # fmt: skip
SETTINGS: dict[str, Row] = {
    "full": {"precision": "bf16", "seq_len": 512},
    "lora": {"method": "lora", "precision": "amp-bf16", "recompute": "full", "seq_len": 512},
    "long": {"precision": "amp-bf16", "seq_len": 4096},
}
LOOPED_TOKENS = 64  # where the real code loops over every token in Python
ALLOWED_FRAC = 0.02
MOST_BYTES = 4 * 2**30
_FORK = multiprocessing.get_context("fork")


def models(patterns: list[str]) -> Iterator[str]:
    """Names of the catalogue, one of each kind of model first."""
    from lmsize.catalogue import built_in

    names = [s.name for s in built_in().models()]
    rounds: dict[Any, list[str]] = {}
    for name in names:
        if not patterns or any(fnmatch.fnmatch(name, one) for one in patterns):
            rounds.setdefault(_kind(name), []).append(name)
    for at in range(max((len(r) for r in rounds.values()), default=0)):
        yield from (r[at] for r in rounds.values() if at < len(r))


def _kind(name: str) -> Any:
    model = _spec(name)
    blocks = frozenset(run.block.name for tower in model.towers for run in tower.runs)
    return model.conduct.model_type, model.architecture, blocks


def _spec(name: str) -> Any:
    from lmsize.catalogue import built_in
    from lmsize.model.read import read_config

    found = built_in().find_model(name)
    assert found is not None
    return read_config(dict(found[0].config), name=name)


def options(name: str, setting: str) -> Row:
    """Of a setting, the sequence no longer than the model or its code has it."""
    from lmsize.model.parts import Scan

    model = _spec(name)
    scans = {
        part.kind for _, run in model.runs() for part in run.block.parts if isinstance(part, Scan)
    }
    most = LOOPED_TOKENS if scans & {"mamba", "rglru"} else model.max_positions
    given = SETTINGS[setting]
    return {"micro_batch": 1, **given, "seq_len": min(given["seq_len"], most or given["seq_len"])}


def rows() -> dict[tuple[str, str], Row]:
    """The table as it stands."""
    if not TABLE.exists():
        return {}
    with TABLE.open(newline="", encoding="utf-8") as file:
        return {(row["model"], row["setting"]): row for row in csv.DictReader(file)}


def write(found: dict[tuple[str, str], Row]) -> None:
    """Write the table whole, in order."""
    TABLE.parent.mkdir(exist_ok=True)
    with TABLE.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(found[key] for key in sorted(found))


def traced_apart(name: str, setting: str, *, limit_s: float) -> Row:
    """One trace in a process of its own, forked where torch is imported already."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    child = _FORK.Process(target=_send, args=(theirs, name, setting))
    child.start()
    theirs.close()
    try:
        if not ours.poll(limit_s):
            return {"status": "too slow", "said": f"more than {limit_s:.0f} s"}
        row: Row = ours.recv()
    except EOFError:
        return {"status": "failed", "said": "the process ended"}
    else:
        return row
    finally:
        child.kill()
        child.join()


def _send(pipe: Any, name: str, setting: str) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_BYTES, MOST_BYTES))
    try:
        row = _traced(name, setting)
    except BaseException as error:  # noqa: BLE001  # whatever it is, the next model's turn comes
        row = {"status": "failed", "said": f"{type(error).__name__}: {error}"[:300]}
    pipe.send(row)


def _traced(name: str, setting: str) -> Row:
    import lmsize

    started, asked = time.process_time(), options(name, setting)
    try:
        memory = lmsize.train(name, engine="trace", **asked).memory
    except lmsize.LmsizeError as error:
        return {"status": "refused", "said": " ".join(str(error).split())[:300]}
    phases = {moment.label: int(moment.value) for moment in memory.tree.children}
    return {
        "seq_len": asked["seq_len"], "status": "traced", "peak_bytes": memory.peak_allocated_bytes,
        **{f"{phase}_bytes": phases.get(phase) for phase in ("forward", "backward", "optimizer")},
        "seconds": round(time.process_time() - started, 1),
    }  # fmt: skip


def trace(given: argparse.Namespace) -> None:
    """Trace what is asked for and not there yet, or there with a status to be redone."""
    os.nice(5)
    import peft  # noqa: F401  # what every trace imports, once
    import torch  # noqa: F401
    import transformers  # noqa: F401

    for name in models(given.patterns):
        for setting in given.setting or SETTINGS:
            known = rows().get((name, setting))
            if known is not None and known["status"] not in given.redo:
                continue
            row = traced_apart(name, setting, limit_s=given.limit)
            write(rows() | {(name, setting): {"model": name, "setting": setting, **row}})
            shown = " ".join(str(row.get(k, "")) for k in ("status", "seconds", "said"))
            print(f"{name:<32} {setting:<8} {shown[:160]}", flush=True)


def taped(name: str, setting: str) -> tuple[dict[str, float], bool]:
    """The peak of each phase by the analytic engine; whether the tape gave it."""
    import lmsize

    found = lmsize.train(name, engine="analytic", stack="transformers", **options(name, setting))
    phases: dict[str, float] = {}
    for moment in found.memory.tree.children:
        phase = {"forward": "forward", "optimizer_step": "optimizer"}.get(moment.label, "backward")
        phases[phase] = max(phases.get(phase, 0.0), float(moment.value))
    return phases, all(a.code != "activations-by-parts" for a in found.assumptions)


def compared(row: Row) -> Row:
    """A traced row with the tape's peaks beside it."""
    peaks, is_taped = taped(row["model"], row["setting"])
    real = float(row["peak_bytes"])
    error = max(peaks.values()) / real - 1
    by_phase = {
        phase: peaks[phase] / float(row[f"{phase}_bytes"]) - 1
        for phase in peaks
        if row[f"{phase}_bytes"]
    }
    return {**row, "error": error, "by_phase": by_phase, "is_taped": is_taped}


def compare(given: argparse.Namespace) -> int:
    """Print each row's error and their distribution; how many are beyond what is allowed."""
    asked = set(models(given.patterns))
    done = [r for r in rows().values() if r["model"] in asked and r["status"] == "traced"]
    made = sorted((compared(row) for row in done), key=lambda row: -abs(row["error"]))
    for row in made:
        if given.all or abs(row["error"]) > ALLOWED_FRAC:
            parts = " ".join(f"{phase} {error:+.2%}" for phase, error in row["by_phase"].items())
            how = "" if row["is_taped"] else "by parts, "
            print(f"{row['model']:<32} {row['setting']:<6} {row['error']:+9.3%}  {how}{parts}")
    for setting in SETTINGS:
        errors = sorted(abs(r["error"]) for r in made if r["setting"] == setting)
        if errors:
            print(
                f"{setting}: n={len(errors)} median={statistics.median(errors):.4%} "
                f"p90={errors[int(0.9 * len(errors))]:.3%} worst={errors[-1]:.3%} "
                f"within {ALLOWED_FRAC:.0%}: {sum(e <= ALLOWED_FRAC for e in errors)}"
            )
    return sum(abs(row["error"]) > ALLOWED_FRAC for row in made)


def main() -> None:
    """Trace or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("trace", "compare"))
    parser.add_argument("patterns", nargs="*")
    parser.add_argument("--setting", action="append", choices=tuple(SETTINGS))
    parser.add_argument("--redo", action="append", default=[], help="trace again what went so")
    parser.add_argument("--limit", type=float, default=240, help="seconds for each trace")
    parser.add_argument("--all", action="store_true", help="show every row")
    given = parser.parse_intermixed_args()
    trace(given) if given.what == "trace" else compare(given)


if __name__ == "__main__":
    main()
