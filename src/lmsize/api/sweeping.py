"""``lmsize.sweep``: the memory of many layouts at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from os import PathLike
from typing import TYPE_CHECKING, Any

from lmsize.api.locate import ModelLike, located
from lmsize.api.training import opened, specs
from lmsize.catalogue import Catalogue
from lmsize.errors import InputError
from lmsize.estimate.question import training_question
from lmsize.planner.candidates import candidate_peaks, checked_axes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Sweep:
    """Every combination of some values.

    Attributes:
        axes: their names and values.
        peak_allocated_bytes: an array with an axis for each of them, in their order: what tensors
            take on the fullest rank; infinite where the model cannot be laid out so.
    """

    axes: Mapping[str, Sequence[Any]]
    peak_allocated_bytes: NDArray[np.float64]


def sweep(
    model: ModelLike, axes: Mapping[str, Sequence[Any]], *,
    catalogue: Catalogue | str | PathLike[str] | None = None, **options: Any,
) -> Sweep:  # fmt: skip
    """The memory of a training step for every combination of the axes' values.

    Each number is the one that :func:`lmsize.train` has for that candidate alone, at about a
    millionth of a second for each in a large grid.

    Args:
        model: as :func:`lmsize.train` takes it.
        axes: values by name: ``dp``, ``tp``, ``pp``, ``cp``, ``ep``, ``etp``, ``vp``, ``zero``,
            ``sequence_parallel``, ``micro_batch``, ``grad_accum``, ``seq_len``, ``recompute``,
            ``attention``.
        catalogue: a user's file of rows, or a catalogue already opened.
        options: of :func:`lmsize.train`, for what is not an axis.

    Raises:
        LmsizeError: input that makes no sense. A layout that is not legal is an answer.
    """
    checked = checked_axes(axes)
    doubled = sorted(set(checked) & set(options))
    if doubled:
        raise InputError(doubled[0], options[doubled[0]], "an axis or an option, not both")
    rows = opened(catalogue)
    question = training_question(
        located(model, rows), specs(options)[0], rows, accelerator=None, today=date.today()
    )
    return Sweep(checked, candidate_peaks(question.setup, checked))
