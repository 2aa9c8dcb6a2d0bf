"""What a trace says of weights in few bits and of optimizers of bitsandbytes."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from lmsize.assumption import Assumption
from lmsize.estimate.question import TrainingQuestion

if TYPE_CHECKING:
    from lmsize.tracing.storages import Log


def of_bitsandbytes(question: TrainingQuestion, log: Log, device: str) -> tuple[Assumption, ...]:
    """What stands in for bitsandbytes, and which states its accelerator's allocator does not see."""
    from lmsize.step.optimizer import class_of
    from lmsize.step.stand_in.optimizers import managed_bytes

    module, kind = class_of(question.spec.optimizer or "")
    is_theirs = module == "bitsandbytes.optim"
    stated: list[Assumption] = []
    if question.spec.quant or is_theirs:
        text = (
            "weights in few bits, their products and the optimizer's states as bitsandbytes 0.50 holds "
            "them; each product has its weight dequantised whole"
        )
        stated.append(Assumption("trace-bitsandbytes", text))
    if is_theirs and device == "cuda":
        trained = {
            id(e.storage): prod(e.storage.shape)
            for e in log.entries
            if e.storage.category == "gradients" and e.phase.startswith("2.")
        }
        managed = sum(managed_bytes(kind, n) for n in trained.values())
        if managed:
            text = (
                f"{managed / 2**20:.1f} MiB of paged optimizer states lie in managed memory, which "
                "moves to the host under pressure: they are not counted on the accelerator"
            )
            stated.append(Assumption("trace-paged-states", text))
    return tuple(stated)
