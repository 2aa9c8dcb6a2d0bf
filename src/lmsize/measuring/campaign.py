"""Many cases, one process each: resumable, within time limits, with progress and time left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lmsize.measuring import machine
from lmsize.measuring.case import Case, summary
from lmsize.measuring.outcome import FAILED, OOM, TIMEOUT, Measured
from lmsize.measuring.rows import rows_of
from lmsize.measuring.store import Store
from lmsize.model.count import n_params
from lmsize.quantity import format_bytes, format_duration
from lmsize.workload.training import batch_of

WORKER = "lmsize.measuring.worker"
GRACE_S = 5
Tell = Callable[[str], None]


@dataclass(slots=True)
class Tally:
    """What came of the cases of a grid so far."""

    counts: dict[str, int] = field(default_factory=dict)
    n_skipped: int = 0
    n_implied: int = 0
    n_left: int = 0

    def add(self, outcome: str) -> None:
        self.counts[outcome] = self.counts.get(outcome, 0) + 1

    def __str__(self) -> str:
        words = [f"{n} {outcome}" for outcome, n in self.counts.items()]
        words += [f"{self.n_skipped} already measured"] if self.n_skipped else []
        words += [f"{self.n_implied} larger than one out of memory"] if self.n_implied else []
        words += [f"{self.n_left} left for another run"] if self.n_left else []
        return ", ".join(words) or "nothing to measure"


def ordered(cases: Iterable[Case]) -> list[Case]:
    """Each case once, those with the least work first."""
    unique = {case.key: case for case in cases}
    return sorted(unique.values(), key=_work)


def _work(case: Case) -> float:
    tokens = batch_of(case.spec, dp=case.n_processes).tokens
    return float(n_params(case.architecture)) * (tokens + 1000)


def campaign(
    cases: Sequence[Case], store: Store, *, tell: Tell, case_limit_s: float,
    total_limit_s: float | None = None,
) -> Tally:  # fmt: skip
    """Measure every case that the store has not, and append what came of each.

    Cases that are at least as large as one that ran out of memory, all else equal, are not run.

    Args:
        tell: shows a line of progress.
        case_limit_s: seconds for one case; `total_limit_s` after which no case begins.
    """
    tally = Tally()
    waiting = [case for case in ordered(cases) if case.key not in store.done]
    tally.n_skipped = len({case.key for case in cases}) - len(waiting)
    begun = time.monotonic()
    too_big: list[Case] = []
    n_done = 0
    for at, case in enumerate(waiting):
        spent = time.monotonic() - begun
        if total_limit_s is not None and spent >= total_limit_s:
            tally.n_left = len(waiting) - at
            break
        if any(_is_larger(case, than=big) for big in too_big):
            tally.n_implied += 1
            tell(
                f"[{at + 1}/{len(waiting)}] {summary(case)}: not run, a smaller one is out of memory"
            )
            continue
        left = f", {format_duration(spent / n_done * (len(waiting) - at))} left" if n_done else ""
        tell(f"[{at + 1}/{len(waiting)}] {summary(case)} ...{left}")
        found = in_own_process(case, limit_s=case_limit_s)
        store.append(rows_of(case, found))
        tally.add(found.outcome)
        n_done += 1
        too_big += [case] if found.outcome == OOM else []
        tell(f"[{at + 1}/{len(waiting)}] {summary(case)}: {told(found)}")
    return tally


def told(found: Measured) -> str:
    """What came of a case, in words."""
    if not found.peaks:
        return f"{found.outcome} ({found.reason[:200]})" if found.reason else found.outcome
    step = f", {format_duration(found.median_step_s)} a step" if found.median_step_s else ""
    return f"{format_bytes(found.peaks[0].n_bytes)} {found.peaks[0].kind}{step}"


def _is_larger(case: Case, *, than: Case) -> bool:
    """Whether a case differs only by a micro-batch or length that are no smaller."""
    if _but_size(case) != _but_size(than):
        return False
    one, other = case.spec, than.spec
    return (one.micro_batch or 1) >= (other.micro_batch or 1) and (one.seq_len or 1) >= (
        other.seq_len or 1
    )


def _but_size(case: Case) -> tuple[object, ...]:
    spec = {k: v for k, v in case.spec.as_dict().items() if k not in ("micro_batch", "seq_len")}
    return (
        case.config, spec, case.device, case.n_processes, case.optimizer_impl,
        case.clip_grad_norm, case.memory_limit_bytes,
    )  # fmt: skip


def in_own_process(case: Case, *, limit_s: float) -> Measured:
    """Measure a case in a process of its own (or as many as it asks), whatever becomes of it."""
    with tempfile.TemporaryDirectory(prefix="lmsize-measure-") as folder:
        case_file, result_file = Path(folder, "case.json"), Path(folder, "result.json")
        case_file.write_text(case.as_json(), "utf-8")
        log_file = Path(folder, "log")
        code = _ran(_command(case, case_file, result_file), log_file, limit_s=limit_s)
        if result_file.exists():
            found = Measured.from_json(result_file.read_text("utf-8"))
            return found if found.device_name else _here(case, found)
        if code is None:
            reason = f"stopped after {format_duration(limit_s)}"
            return _here(case, Measured(TIMEOUT, reason=reason))
        return _here(case, Measured(FAILED, reason=_epitaph(code, log_file)))


def _here(case: Case, found: Measured) -> Measured:
    """A failure that came without its circumstances, with what is known without torch."""
    name = machine.device_name("cpu") if case.device == "cpu" else _accelerator_name()
    return Measured(found.outcome, reason=found.reason, device_name=name)


def _accelerator_name() -> str:
    row = machine.nvidia_smi(["name"])
    return row[0] if row else "accelerator"


def _command(case: Case, case_file: Path, result_file: Path) -> list[str]:
    words = ["-m", WORKER, str(case_file), str(result_file)]
    if case.n_processes == 1:
        return [sys.executable, *words]
    torchrun = ["-m", "torch.distributed.run", "--standalone"]
    return [sys.executable, *torchrun, f"--nproc-per-node={case.n_processes}", *words]


def _ran(command: list[str], log_file: Path, *, limit_s: float) -> int | None:
    """Run a command with its output in a file; its exit code, None if it ran out of time."""
    with log_file.open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 -- this very Python
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            return process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return None
        finally:  # also when this process is interrupted
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            try:
                os.killpg(process.pid, sign)
                process.wait(GRACE_S)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


def _epitaph(code: int, log_file: Path) -> str:
    """Why a process ended without a result: its signal or code, and its last word."""
    lines = log_file.read_text("utf-8", errors="replace").splitlines()
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = str(-code)
        likely = "; the system may have run out of memory" if -code == signal.SIGKILL else ""
        return f"ended by {name}{likely} {last}".strip()[:400]
    return f"ended with code {code} {last}".strip()[:400]
