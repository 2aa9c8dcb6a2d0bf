"""Activations by the published formula, where the rules of thumb are asked for it."""

from __future__ import annotations

from lmsize.assumption import Assumption
from lmsize.errors import InputError
from lmsize.estimate.rules import RulesSpec
from lmsize.formula import Term, highest
from lmsize.layout.degrees import Layout
from lmsize.layout.shares import stages
from lmsize.memory.activations import stage_activations
from lmsize.model.spec import ModelSpec
from lmsize.workload.parse import TEXTBOOK
from lmsize.workload.training import Batch, TrainSpec

OPTION = "--activation-bytes"


def textbook_activations(
    rules: RulesSpec, model: ModelSpec | None, spec: TrainSpec, layout: Layout, batch: Batch, *,
    bits: float,
) -> tuple[Term | None, tuple[Assumption, ...]]:  # fmt: skip
    """Activations of the fullest stage; None where the formula was not asked for.

    Args:
        bits: of one activation.

    Raises:
        InputError: it was, and there is no model with layers.
    """
    if rules.activation_bytes != TEXTBOOK:
        return None, ()
    if model is None:
        raise InputError(OPTION, TEXTBOOK, "bytes or a range of them: --params has no layers")
    found = highest("activations", [
        stage_activations(
            "activations", model, stage, layout, micro_batch=batch.micro_batch,
            seq_len=batch.seq_len, n_micro=batch.n_micro, recompute=str(spec.recompute),
            attention=str(spec.attention), bytes_per_number=bits / 8,
        )
        for stage in stages(model, layout.pp)
    ])  # fmt: skip
    text = (
        f"activations by the published formula for a standard layer, recompute {spec.recompute}, "
        f"attention {spec.attention}; it misses peaks by about a third in the median"
    )
    return found, (Assumption("activations-textbook", text),)


def refuse_textbook(activation_bytes: object) -> None:
    """Refuse the formula where something else than training is asked for too.

    Raises:
        InputError: it was asked for.
    """
    if activation_bytes == TEXTBOOK:
        raise InputError(OPTION, TEXTBOOK, "bytes or a range of them: the formula is of training")
