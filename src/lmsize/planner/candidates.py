"""The memory of many layouts at once: every combination of degrees, stages, batches and lengths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmsize.errors import InputError, LayoutError, nearest_names
from lmsize.layout.columns import over
from lmsize.layout.degrees import check
from lmsize.layout.shares import stages
from lmsize.memory.training import training_peak
from lmsize.memory.training_setup import TrainingSetup
from lmsize.workload.training import ATTENTION, RECOMPUTE

BATCH = {"micro_batch": "micro_batch", "grad_accum": "n_micro", "seq_len": "seq_len"}
CHOICES: dict[str, tuple[Any, ...]] = {
    "zero": (0, 1, 2, 3), "sequence_parallel": (False, True), "recompute": RECOMPUTE,
    "attention": ATTENTION,
}  # fmt: skip
DEGREES = ("dp", "tp", "pp", "cp", "ep", "etp", "vp", "zero", "sequence_parallel")
WORDS = ("recompute", "attention")
AXES = (*DEGREES, *BATCH, *WORDS)


def checked_axes(axes: Mapping[str, Sequence[Any]]) -> dict[str, tuple[Any, ...]]:
    """The axes, each with plain and different values.

    Raises:
        InputError: a name that is not an axis, or values that an axis cannot have.
    """
    if not isinstance(axes, Mapping):
        raise InputError("axes", axes, "a mapping of names to values, such as {'tp': [1, 2, 4]}")
    made: dict[str, tuple[Any, ...]] = {}
    for name, values in axes.items():
        if name not in AXES:
            near = nearest_names(name, AXES, n_names=1)
            raise InputError("axis", name, f"one of {', '.join(AXES)}", nearest=near)
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise InputError(name, values, "a list of values, if only of one", nearest=[[values]])
        made[name] = tuple(v.item() if isinstance(v, np.generic) else v for v in values)
        if not made[name] or len(set(made[name])) < len(made[name]):
            raise InputError(name, list(made[name]), "at least one value, and none twice")
        for value in made[name]:
            _check_value(name, value)
    return made


def _check_value(name: str, value: Any) -> None:
    if name in CHOICES:
        if value not in CHOICES[name] or isinstance(value, bool) != (name == "sequence_parallel"):
            raise InputError(name, value, f"one of {', '.join(map(str, CHOICES[name]))}")
    elif not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(name, value, "a whole number from 1 on")


def candidate_peaks(setup: TrainingSetup, axes: Mapping[str, Sequence[Any]]) -> NDArray[np.float64]:
    """Peak bytes that tensors take on the fullest rank, for every combination of the axes' values.

    Args:
        setup: what is not an axis.
        axes: by name of the option (and ``dp``), the values, as :func:`checked_axes` has them.

    Returns:
        An array with an axis for each of `axes`, in their order; infinite where the model cannot
        be laid out so. Each number is the one that :func:`training_peak` has for that candidate.
    """
    return over(
        axes, lambda values: training_peak(_varied(setup, values)).value,
        apart=("pp", "vp", "zero"), where=_legal(setup, axes),
    )  # fmt: skip


def _varied(setup: TrainingSetup, values: Mapping[str, Any]) -> TrainingSetup:
    layout = replace(setup.layout, **{k: v for k, v in values.items() if k in DEGREES})
    batch = {BATCH[k]: v for k, v in values.items() if k in BATCH}
    words = {k: v for k, v in values.items() if k in WORDS}
    return replace(setup, layout=layout, batch=replace(setup.batch, dp=layout.dp, **batch), **words)


def _legal(setup: TrainingSetup, axes: Mapping[str, Sequence[Any]]) -> NDArray[np.bool_]:
    """Which candidates the model can be laid out as."""
    deciding = {k: v for k, v in axes.items() if k in DEGREES or k == "seq_len"}

    def ask(values: Mapping[str, Any]) -> bool:
        return _is_legal(_varied(setup, values))

    found = over(deciding, ask) > 0
    shape = [len(values) if name in deciding else 1 for name, values in axes.items()]
    return np.broadcast_to(found.reshape(shape), [len(values) for values in axes.values()])


def _is_legal(setup: TrainingSetup) -> bool:
    layout, model, seq_len = setup.layout, setup.model, setup.batch.seq_len
    split = setup.switches.split
    if layout.vp > 1 and layout.pp == 1:
        return False
    if model.learned_positions and model.max_positions and seq_len > model.max_positions:
        return False
    try:
        check(layout, model, seq_len=seq_len, split=split)
        stages(model, layout.pp, split)  # said ends and parts may leave a rest
    except LayoutError:
        return False
    return True
