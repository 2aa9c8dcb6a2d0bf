"""What the parts of a model's adapters say of the modules that they adapt."""

from __future__ import annotations

from lmsize.model.adapted import SAVED
from lmsize.model.parts import Embedding, Experts, Linear, Plain
from lmsize.model.spec import ModelSpec
from lmsize.workload.adapters import MAGNITUDES


def ranks_of(adapters: ModelSpec | None) -> dict[tuple[str, str], tuple[tuple[str, int], ...]]:
    """By tower and block: the rank of each adapted linear and bank of experts."""
    found: dict[tuple[str, str], tuple[tuple[str, int], ...]] = {}
    for tower, run in adapters.runs() if adapters else ():
        linears = tuple(
            (part.name.removesuffix(".lora_A"), part.n_out)
            for part in run.block.parts
            if isinstance(part, Linear) and part.name.endswith(".lora_A")
        )
        banks = [part for part in run.block.parts if isinstance(part, Experts)]
        found[tower.name, run.block.name] = (
            *linears,
            *((bank.name, bank.matrices[0][2]) for bank in banks),
        )
    return found


def saved_modules(adapters: ModelSpec | None) -> tuple[str, ...]:
    """Modules of the base that are trained whole."""
    return tuple(
        part.name.removesuffix(SAVED)
        for _, run in (adapters.runs() if adapters else ())
        for part in run.block.parts
        if isinstance(part, Linear | Embedding) and part.name.endswith(SAVED)
    )


def has_magnitudes(adapters: ModelSpec | None) -> bool:
    """Whether they are DoRA's."""
    return any(
        isinstance(part, Plain) and part.name.endswith(MAGNITUDES)
        for _, run in (adapters.runs() if adapters else ())
        for part in run.block.parts
    )
