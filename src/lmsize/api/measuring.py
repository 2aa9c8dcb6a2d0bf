"""``lmsize.measure``: a real step on this machine, as rows of measurements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from os import PathLike
from pathlib import Path
from typing import Any

from lmsize.api.locate import ModelLike, found_config
from lmsize.api.training import opened
from lmsize.catalogue import Catalogue
from lmsize.errors import InputError
from lmsize.measuring.case import Case
from lmsize.measuring.grid import grid_entries
from lmsize.measuring.meters import Tell
from lmsize.measuring.outcome import Measured
from lmsize.measuring.parallel import check_zero, world_size
from lmsize.measuring.rows import Row, rows_of
from lmsize.measuring.running import check_device, default_device, measured, silent
from lmsize.model.read import read_config
from lmsize.quantity import parse_bytes
from lmsize.step.model import refuse_unknown_settings
from lmsize.step.optimizer import optimizer_class
from lmsize.workload.adapters import adapter_model
from lmsize.workload.parse import count, parsed, positive, word
from lmsize.workload.training import TrainSpec, batch_of, with_defaults

# Fields of a training run that say nothing about a step.
NOT_OF_A_STEP = {"steps", "tokens", "epochs", "dataset_tokens", "deadline", "mfu", "accelerators"}
STEP_OPTIONS = {f.name for f in fields(TrainSpec)} - NOT_OF_A_STEP
DEFAULT_STEPS = 5
DEFAULT_WARMUP = 2
LEAST_LIMIT_BYTES = 10**6


@dataclass(frozen=True, slots=True)
class Measurement:
    """A measured case: what it was, what came of it, and its rows."""

    case: Case
    found: Measured

    @property
    def rows(self) -> list[Row]:
        """Cells by column (:data:`lmsize.measurements.columns.COLUMNS`), one row a metric."""
        return rows_of(self.case, self.found)


def measure(
    model: ModelLike, *, device: str | None = None,
    catalogue: Catalogue | str | PathLike[str] | None = None, tell: Tell = silent, **options: Any,
) -> Measurement:  # fmt: skip
    """Run a real training step of a model here and read its peak memory and time.

    Args:
        model: a catalogue name, a Hub id, a path or a parsed config.
        device: ``cuda`` (also ROCm) or ``cpu``; an accelerator if there is one.
        catalogue: a user's file of rows, or a catalogue already opened.
        tell: is told in words what begins.
        options: those of a step from ``lmsize train``; further `steps` (timed, 5; 0 for memory
            alone), `warmup` (2),
            `optimizer_impl` (foreach, fused, loop), `clip_grad_norm` and `memory_limit`.

    Under torchrun, every process calls this; each gets the worst and slowest of all.

    Raises:
        LmsizeError: input that makes no sense, or software that is missing. Memory that runs out is
            an outcome.
    """
    case = measured_case(
        model, device=device, catalogue=catalogue, n_processes=world_size(), **options
    )
    return Measurement(case, measured(case, tell=tell))


def measured_case(
    model: ModelLike, *, device: str | None = None, n_processes: int = 1,
    catalogue: Catalogue | str | PathLike[str] | None = None,
    overrides: Mapping[str, Any] | None = None, **options: Any,
) -> Case:  # fmt: skip
    """A case, checked as far as it can be without running it.

    Args:
        overrides: keys of the config to replace, for a smaller model of the same kind.
    """
    rows = opened(catalogue)
    found = found_config(model, rows)
    config = {**found.config, **(overrides or {})}
    if device is None:
        device = default_device()
    check_device(device)
    own = {name: options.pop(name, None) for name in OWN_PARSERS}
    settings = {
        name: OWN_PARSERS[name](value, f"--{name.replace('_', '-')}")
        for name, value in own.items() if value is not None
    }  # fmt: skip
    spec = _spec(config, found.name, options, n_processes=n_processes)
    optimizer_class(spec.optimizer or "", implementation=settings.get("optimizer_impl"))
    return Case(
        label=found.name, config=config, spec=spec, device=device, n_processes=n_processes,
        n_warmup=settings.pop("warmup", DEFAULT_WARMUP), n_steps=settings.pop("steps", DEFAULT_STEPS),
        memory_limit_bytes=settings.pop("memory_limit", None),
        asked={**{k: v for k, v in {**options, **own}.items() if v is not None}, "device": device},
        **settings,
    )  # fmt: skip


def grid_cases(
    path: str | PathLike[str], *, device: str | None = None,
    catalogue: Catalogue | str | PathLike[str] | None = None, **over: Any,
) -> list[Case]:  # fmt: skip
    """The cases of a grid file, every one of them checked before any is run.

    Args:
        over: `steps` and `warmup` in place of the file's.

    Raises:
        LmsizeError: naming the case of the file that makes no sense.
    """
    rows = opened(catalogue)
    device = device or default_device()
    cases = []
    for entry in grid_entries(Path(path), options=STEP_OPTIONS | set(OWN_PARSERS)):
        options = {**entry.options, **{k: v for k, v in over.items() if v is not None}}
        try:
            n = count(most=4096)(options.pop("processes", 1), "processes")
            case = measured_case(
                entry.model, device=device, catalogue=rows, n_processes=n,
                overrides=entry.overrides, **options,
            )  # fmt: skip
        except InputError as error:
            raise InputError(
                f"{entry.where}: {error.what}", error.value, error.expected, nearest=error.nearest
            ) from None
        changed = ", ".join(f"{key}={value}" for key, value in entry.overrides.items())
        if changed:  # a reader completes the columns from the model that it is like
            label = f"{entry.model} ({entry.label})"
            case = replace(case, label=label, note=f"{entry.label}: with {changed}")
        cases.append(case)
    return cases


def _spec(
    config: Mapping[str, Any], name: str, options: Mapping[str, Any], *, n_processes: int
) -> TrainSpec:
    values = parsed(options, allowed=STEP_OPTIONS)
    architecture = read_config(config, name=name)
    spec, _ = with_defaults(TrainSpec(**values), max_positions=architecture.max_positions)
    refuse_unknown_settings(spec)
    check_zero(spec, n_processes=n_processes)
    batch_of(spec, dp=n_processes)
    longest = architecture.max_positions
    if architecture.learned_positions and longest and (spec.seq_len or 1) > longest:
        expected = f"at most {longest}, the rows of the model's table of positions"
        raise InputError("--seq-len", spec.seq_len, expected, nearest=[longest])
    if spec.method != "full":
        adapter_model(architecture, rank=spec.lora_rank or 1, targets=spec.lora_targets or "")
    return replace(spec, accelerators=n_processes)


def _bytes(value: Any, what: str) -> int:
    n_bytes = parse_bytes(str(value), what=what)
    if n_bytes < LEAST_LIMIT_BYTES:
        raise InputError(what, value, "at least 1 MB")
    return n_bytes


OWN_PARSERS = {
    "steps": count(least=0, most=10**6), "warmup": count(most=10**6), "optimizer_impl": word,
    "clip_grad_norm": positive(least=1e-12), "memory_limit": _bytes,
}  # fmt: skip
