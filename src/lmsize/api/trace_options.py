"""What is asked of a trace: its own options, and which of them make sense where."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lmsize.errors import InputError, nearest_names
from lmsize.step.batch import SEQUENCES
from lmsize.workload.parse import flag, positive, text, word
from lmsize.workload.training import check_choice

DEVICES = ("cuda", "cpu")


@dataclass(frozen=True, slots=True)
class TraceSpec:
    """What is asked of a trace besides the training question.

    Attributes:
        trace_device: what the tensors pretend to lie on; ``cpu`` is there to be checked against
            real steps.
        timeline: a file to draw memory along the step to (.html, .png, .svg).
        snapshot: a file for PyTorch's memory viewer.
        keep_outputs: the outputs live until the backward is done.
        reentrant: the older kind of checkpointing.
        sequences: ``full``, ``padded`` (a mask says where) or ``packed`` (into one row, by positions).
    """

    trace_device: str = "cuda"
    timeline: str | None = None
    snapshot: str | None = None
    optimizer_impl: str | None = None
    clip_grad_norm: float | None = None
    keep_outputs: bool = False
    reentrant: bool = False
    sequences: str = "full"

    def as_dict(self) -> dict[str, Any]:
        """By name, as the report's inputs have them."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


_PARSERS: dict[str, Callable[[Any, str], Any]] = {
    "trace_device": word, "timeline": text, "snapshot": text, "optimizer_impl": word,
    "clip_grad_norm": positive(least=1e-12), "keep_outputs": flag, "reentrant": flag,
    "sequences": word,
}  # fmt: skip


TRACE_OPTIONS = frozenset(_PARSERS)


def trace_spec(options: dict[str, Any]) -> TraceSpec:
    """Take the options of a trace out of all that were given.

    Raises:
        InputError: a value that makes no sense.
    """
    given = {name: options.pop(name, None) for name in _PARSERS}
    values = {
        name: _PARSERS[name](value, f"--{name.replace('_', '-')}")
        for name, value in given.items() if value is not None
    }  # fmt: skip
    spec = TraceSpec(**values)
    check_choice("--trace-device", spec.trace_device, DEVICES)
    check_choice("--sequences", spec.sequences, SEQUENCES)
    if spec.timeline is not None and Path(spec.timeline).suffix.lower() not in (".html", ".png", ".svg"):  # fmt: skip
        raise InputError("--timeline", spec.timeline, "a file that ends in .html, .png or .svg")
    _check_place("--timeline", spec.timeline)
    _check_place("--snapshot", spec.snapshot)
    return spec


def _check_place(what: str, file: str | None) -> None:
    """Refuse a place that nothing can be written to before a trace takes its time."""
    if file is None:
        return
    folder = Path(file).parent
    if "\0" in file or not folder.is_dir():
        raise InputError(what, file, f"a file in a folder that is there: {folder} is none")
    if Path(file).is_dir():
        raise InputError(what, file, "a file: it is a folder")
    if not os.access(file if Path(file).exists() else folder, os.W_OK):
        raise InputError(what, file, "a place that can be written to")


def refuse_without_trace(spec: TraceSpec, engine: str) -> None:
    """Options of the trace mean nothing to another engine.

    Raises:
        InputError: one was given.
    """
    usual = TraceSpec()
    for name, value in spec.as_dict().items():
        if value != getattr(usual, name):
            raise InputError(
                f"--{name.replace('_', '-')}", value, f"no value with --engine {engine}"
            )


def refuse_of_catalogue(spec: TraceSpec, others: Mapping[str, Any]) -> None:
    """What a user's own step decides by itself is no option of its trace.

    Raises:
        InputError: such an option, or one that does not exist.
    """
    if others:
        name = next(iter(others))
        near = nearest_names(name, ("trace_device", "timeline", "snapshot"))
        raise InputError("option", name, "trace_device, timeline or snapshot", nearest=near)
    usual = TraceSpec()
    for name in ("optimizer_impl", "clip_grad_norm", "keep_outputs", "reentrant", "sequences"):
        value = getattr(spec, name)
        if value != getattr(usual, name):
            raise InputError(f"--{name.replace('_', '-')}", value, "no value: the factory says how")
