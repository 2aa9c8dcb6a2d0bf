"""``lmsize.trace``: the memory of a user's own module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from os import PathLike
from typing import TYPE_CHECKING, Any

from lmsize.api.trace_memory import tell, traced_memory, write_files
from lmsize.api.trace_options import refuse_of_catalogue, trace_spec
from lmsize.api.tracing import traced_device
from lmsize.api.training import opened
from lmsize.catalogue import Catalogue
from lmsize.errors import InputError
from lmsize.estimate.answer import Accelerators, Compute, Estimate, Parameters
from lmsize.estimate.verdict import training_verdict
from lmsize.formula import given

if TYPE_CHECKING:
    from lmsize.tracing.storages import Log


def trace(
    factory: str | Callable[[], Any], *, accelerator: str | None = None,
    catalogue: Catalogue | str | PathLike[str] | None = None, **options: Any,
) -> Estimate:  # fmt: skip
    """The memory of a training step of your own module, on fake tensors, to the byte.

    Args:
        factory: a callable without arguments, or its name ``package.module:name``. It returns
            ``(model, batch)``, ``(model, batch, loss)`` or a mapping of `model`, `batch`, `loss`,
            `optimizer`, `step` (:mod:`lmsize.tracing.factory`).
        accelerator: whose capacity is asked about, and whose kernels of attention are taken.
        options: `trace_device`, `timeline` and `snapshot` of :class:`lmsize.api.trace_options.TraceSpec`.

    Raises:
        LmsizeError: the factory or its step cannot be traced; says why and what else to do.
    """
    from lmsize.step.extras import require
    from lmsize.tracing.room import refuse_without_room

    asked = trace_spec(options)
    refuse_of_catalogue(asked, options)
    rows = opened(catalogue)
    row, assumed = rows.accelerator(accelerator) if accelerator is not None else (None, ())
    require("torch", why="lmsize trace", extra="trace")
    refuse_without_room()
    from lmsize.tracing.engine import traced_factory
    from lmsize.tracing.factory import loaded

    if not isinstance(factory, str) and not callable(factory):
        raise InputError("FACTORY", factory, "a callable or its name, package.module:factory")
    if isinstance(factory, str):
        _refuse_path(factory)
    name = factory if isinstance(factory, str) else getattr(factory, "__qualname__", "factory")
    device, stated = traced_device(row, asked)
    made_by = loaded(factory) if isinstance(factory, str) else factory
    tell("tracing two steps")
    found = traced_factory(made_by, name, device)
    memory, more = traced_memory(found.log, device, rows, row)
    write_files(found.log, name, row, asked)
    inputs = {"model": name, "engine": "trace", "method": "full", **asked.as_dict()}
    estimate = Estimate(
        engine="trace", task="train",
        inputs=inputs | {"accelerator": row.name if row else None, "accelerators": 1},
        parameters=Parameters(found.n_params, found.n_trainable), memory=memory,
        compute=_compute(found.log),
        accelerators=Accelerators(row.name if row else None, 1),
        assumptions=(*assumed, *more, *stated),
    )  # fmt: skip
    return replace(estimate, verdict=training_verdict(estimate, []))


def _compute(log: Log) -> Compute:
    """What the second of the two traced steps computes and moves."""
    from lmsize.tracing.terms import SOURCE

    flops, moved = (
        sum(n for (phase, _), n in sums.items() if phase.startswith("2."))
        for sums in (log.n_flops, log.n_moved)
    )
    trees = (
        given("hardware FLOPs", flops, "FLOP", source=SOURCE),
        given("bytes moved", moved, "bytes", source=SOURCE),
    )
    return Compute(hardware_flops_per_step=flops, trees=trees)


def _refuse_path(name: str) -> None:
    """Refuse a file where a module is to be named, and name the module."""
    place, _, attribute = name.partition(":")
    if "/" in place or "\\" in place or place.endswith(".py") or place.startswith("."):
        module = place.removesuffix(".py").replace("\\", "/").strip("./").replace("/", ".")
        near = [f"{module}:{attribute or 'factory'}"] if module else []
        expected = "the name of a module, package.module:factory, not a path"
        raise InputError("FACTORY", name, expected, nearest=near)
