"""Every model of the catalogue through the trace, at its real shape.

::

    python benchmarks/trace_catalogue.py run [PATTERN ...] [--setting NAME] [--again]
    python benchmarks/trace_catalogue.py summary

`run` goes on where it stopped: a row that is there is not traced again unless `--again` or its
status is asked for with `--redo`. Each trace is a process of its own, with a time limit and a limit
on its memory, and the rows are in ``benchmarks/traced/catalogue.csv``: the model, the setting, what
became of it (``traced``, ``refused`` with a message, ``failed``, ``too slow``), seconds after the
imports, the process's resident memory, and the peak of each phase of the second step.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import json
import multiprocessing
import os
import resource
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tape_vs_trace import CATALOGUE_SETTINGS

Row = dict[str, Any]
TABLE = Path(__file__).parent / "traced" / "catalogue.csv"
COLUMNS = (
    "model", "setting", "status", "seq_len", "seconds", "rss_mib", "peak_bytes", "forward_bytes",
    "backward_bytes", "optimizer_bytes", "said",
)  # fmt: skip
MOST_BYTES = 4 * 2**30  # of private memory: a trace that wants more is at fault, not the machine
LONGEST_S = 900
FEW_TOKENS = 64
_FORK = multiprocessing.get_context("fork")


def asked(patterns: list[str], settings: list[str]) -> Iterator[tuple[str, str]]:
    """The models whose names match, in every setting."""
    from lmsize.catalogue import built_in

    for summary in built_in().models():
        if not patterns or any(fnmatch.fnmatch(summary.name, one) for one in patterns):
            for setting in settings:
                yield summary.name, setting


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


def traced_apart(model: str, setting: str, *, limit_s: float) -> Row:
    """One trace in a process of its own, forked where torch is imported already."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    child = _FORK.Process(target=_send, args=(theirs, model, setting))
    child.start()
    theirs.close()
    try:
        if not ours.poll(limit_s):
            return {"status": "too slow", "said": f"more than {limit_s:.0f} s"}
        row: Row = ours.recv()
    except EOFError:
        child.join()
        return {"status": "failed", "said": f"the process ended with {child.exitcode}"}
    else:
        return row
    finally:
        child.kill()
        child.join()


def _send(pipe: Any, model: str, setting: str) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_BYTES, MOST_BYTES))
    try:
        row = traced_here(model, setting)
    except BaseException as error:  # noqa: BLE001  # whatever it is, the next model's turn comes
        row = {"status": "failed", "said": f"{type(error).__name__}: {error}"[:300]}
    pipe.send(row)


def options(model: str, setting: str) -> Row:
    """Of a setting; a model with a recurrence, which loops over its tokens, gets a short sequence."""
    from lmsize.catalogue import built_in
    from lmsize.model.parts import Scan
    from lmsize.model.read import read_config

    found = built_in().find_model(model)
    assert found is not None
    runs = read_config(found[0].config, name=model).runs()
    recurs = any(isinstance(part, Scan) for _, run in runs for part in run.block.parts)
    return CATALOGUE_SETTINGS[setting] | ({"seq_len": FEW_TOKENS} if recurs else {})


def traced_here(model: str, setting: str) -> Row:
    """One trace in this process."""
    import lmsize

    started = time.process_time()
    try:
        memory = lmsize.train(model, engine="trace", **options(model, setting)).memory
    except lmsize.LmsizeError as error:
        return {"status": "refused", "said": " ".join(str(error).split())}
    phases: dict[str, int] = defaultdict(int)
    for moment in memory.tree.children if memory.tree else ():
        phases[moment.label] = int(moment.value)
    return {
        "status": "traced", "seq_len": options(model, setting)["seq_len"], "seconds": round(time.process_time() - started, 1),
        "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "peak_bytes": memory.peak_allocated_bytes,
        **{f"{phase}_bytes": phases[phase] for phase in ("forward", "backward", "optimizer")},
    }  # fmt: skip


def import_all() -> None:
    """What every trace imports, so that its seconds are its own."""
    import peft  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401


def run(given: argparse.Namespace) -> None:
    """Trace what is asked for and not there yet."""
    os.nice(5)
    import_all()
    found = rows()
    for model, setting in asked(given.patterns, given.setting or list(CATALOGUE_SETTINGS)):
        known = found.get((model, setting))
        if known is not None and not given.again and known["status"] not in given.redo:
            continue
        row = traced_apart(model, setting, limit_s=given.limit)
        found = rows() | {(model, setting): {"model": model, "setting": setting, **row}}
        write(found)
        shown = " ".join(str(row.get(k, "")) for k in ("status", "seconds", "rss_mib", "said"))
        print(f"{model:<32} {setting:<8} {shown[:160]}", flush=True)


def summary() -> None:
    """What became of all of them."""
    found = list(rows().values())
    counts = Counter((row["setting"], row["status"]) for row in found)
    for (setting, status), n in sorted(counts.items()):
        print(f"{setting:<8} {status:<10} {n}")
    done = [row for row in found if row["status"] == "traced"]
    for name in ("seconds", "rss_mib"):
        values = sorted((float(row[name]), row["model"], row["setting"]) for row in done)
        middle = statistics.median(v for v, *_ in values)
        print(f"{name}: median {middle:g}, most {', '.join(map(str, values[-1]))}")
    for row in found:
        if row["status"] != "traced" and row["setting"] == next(iter(CATALOGUE_SETTINGS)):
            print(f"{row['model']}: {row['status']}: {row['said']}")


def main() -> None:
    """Run, sum up, or do one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("run", "one", "summary"))
    parser.add_argument("patterns", nargs="*")
    parser.add_argument("--setting", action="append", choices=tuple(CATALOGUE_SETTINGS))
    parser.add_argument("--again", action="store_true")
    parser.add_argument(
        "--redo", action="append", default=[], help="trace again what has this status"
    )
    parser.add_argument("--limit", type=float, default=LONGEST_S, help="seconds for each")
    given = parser.parse_intermixed_args()
    if given.what == "summary":
        summary()
    elif given.what == "one":
        import_all()
        print(json.dumps(traced_here(given.patterns[0], given.setting[0])))
    else:
        run(given)


if __name__ == "__main__":
    main()
