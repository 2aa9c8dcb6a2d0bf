"""Every model of the catalogue through the trace at its real shape, in three settings; the tape beside it.

::

    python benchmarks/traced_catalogue.py trace [PATTERN ...]      # needs torch; hours for all
    python benchmarks/traced_catalogue.py summary                  # what became of them
    python benchmarks/traced_catalogue.py compare [PATTERN ...]    # the tape's error, in seconds

`trace` goes on where it stopped, one model of each kind first. Each trace is a process of its own with
a limit on its time and its memory. The rows are in ``benchmarks/traced/catalogue.csv``: what became of
it (``traced``, ``refused`` with a message, ``failed``, ``too slow``), seconds of processor time after the
imports, the process's resident memory, and the peak of each phase of the second step, in bytes as an
accelerator's allocator gives them. `compare` asks the analytic engine the same.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import resource
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from kept import Row, Table, apart, import_all

PHASES = ("forward", "backward", "optimizer")
TABLE = Table(
    "catalogue.csv",
    ("model", "setting", "seq_len", "attention", "status", "seconds", "rss_mib", "peak_bytes",
     *(f"{phase}_bytes" for phase in PHASES), "said"),
    key=("model", "setting"),
)  # fmt: skip
SETTINGS: dict[str, Row] = {
    "full": {"precision": "bf16", "seq_len": 512},
    "lora": {"method": "lora", "precision": "amp-bf16", "recompute": "full", "seq_len": 512},
    "long": {"precision": "amp-bf16", "seq_len": 4096},
}
LOOPED_TOKENS = 64  # where the real code loops over every token in Python
ALLOWED_FRAC = 0.02
MOST_BYTES = 4 * 2**30  # a trace that wants more is at fault, not the machine


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


def traced_here(name: str, setting: str, **more: str) -> Row:
    """One trace in this process."""
    import lmsize

    started, asked = time.process_time(), options(name, setting) | more
    try:
        found = lmsize.train(name, engine="trace", **asked)
    except lmsize.LmsizeError as error:
        if "--attention" in str(error) and "attention" not in asked:
            return traced_here(name, setting, attention="eager")
        return {"status": "refused", "said": " ".join(str(error).split())[:300]}
    memory = found.memory
    peaks = {moment.label: int(moment.value) for moment in memory.tree.children}
    return {
        "seq_len": asked["seq_len"], "attention": found.inputs["attention"], "status": "traced",
        "seconds": round(time.process_time() - started, 1),
        "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "peak_bytes": memory.peak_allocated_bytes,
        **{f"{phase}_bytes": peaks.get(phase) for phase in PHASES},
    }  # fmt: skip


def trace(given: argparse.Namespace) -> None:
    """Trace what is asked for and not there yet, or there with a status to be redone."""
    os.nice(5)
    import_all()
    for setting in given.setting or SETTINGS:
        for name in models(given.patterns):
            known = TABLE.rows().get((name, setting))
            if known is not None and not given.again and known["status"] not in given.redo:
                continue
            row = apart(traced_here, name, setting, limit_s=given.limit, most_bytes=MOST_BYTES)
            TABLE.add({"model": name, "setting": setting, **row})
            shown = " ".join(str(row.get(k, "")) for k in ("status", "seconds", "rss_mib", "said"))
            print(f"{name:<32} {setting:<8} {shown[:160]}", flush=True)


def summary() -> None:
    """What became of all of them."""
    found = list(TABLE.rows().values())
    for (setting, status), n in sorted(Counter((r["setting"], r["status"]) for r in found).items()):
        print(f"{setting:<8} {status:<10} {n}")
    done = [row for row in found if row["status"] == "traced"]
    for name in ("seconds", "rss_mib"):
        values = sorted((float(r[name]), r["model"], r["setting"]) for r in done if r[name])
        middle = statistics.median(v for v, *_ in values)
        print(f"{name}: median {middle:g}, most {', '.join(map(str, values[-1]))}")
    for row in found:
        if row["status"] != "traced":
            print(f"{row['model']} {row['setting']}: {row['status']}: {row['said']}")


def taped(name: str, setting: str, attention: str) -> tuple[dict[str, float], bool]:
    """The peak of each phase by the analytic engine; whether the tape gave it."""
    import lmsize

    asked = options(name, setting) | {"attention": attention or "sdpa"}
    found = lmsize.train(name, engine="analytic", stack="transformers", **asked)
    phases: dict[str, float] = {}
    for moment in found.memory.tree.children:
        phase = {"forward": "forward", "optimizer_step": "optimizer"}.get(moment.label, "backward")
        phases[phase] = max(phases.get(phase, 0.0), float(moment.value))
    return phases, all(a.code != "activations-by-parts" for a in found.assumptions)


def compared(row: Row) -> Row:
    """A traced row with the tape's peaks beside it."""
    peaks, is_taped = taped(row["model"], row["setting"], row["attention"])
    error = max(peaks.values()) / float(row["peak_bytes"]) - 1
    by_phase = {
        phase: peaks[phase] / float(row[f"{phase}_bytes"]) - 1
        for phase in peaks
        if row[f"{phase}_bytes"]
    }
    return {**row, "error": error, "by_phase": by_phase, "is_taped": is_taped}


def traced_rows() -> list[Row]:
    """The rows that were traced."""
    return [row for row in TABLE.rows().values() if row["status"] == "traced"]


def compare(given: argparse.Namespace) -> None:
    """Print each row's error, or those beyond what is allowed, and their distribution."""
    asked = set(models(given.patterns))
    made = [compared(row) for row in traced_rows() if row["model"] in asked]
    for row in sorted(made, key=lambda row: -abs(row["error"])):
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


def main() -> None:
    """Trace, sum up or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("trace", "summary", "compare"))
    parser.add_argument("patterns", nargs="*")
    parser.add_argument("--setting", action="append", choices=tuple(SETTINGS))
    parser.add_argument("--again", action="store_true", help="trace again what is there")
    parser.add_argument("--redo", action="append", default=[], help="trace again what went so")
    parser.add_argument("--limit", type=float, default=300, help="seconds for each trace")
    parser.add_argument("--all", action="store_true", help="show every row")
    given = parser.parse_intermixed_args()
    {"trace": trace, "summary": lambda _: summary(), "compare": compare}[given.what](given)


if __name__ == "__main__":
    main()
