"""What a user's own measurements say about their machine: a factor a stack and accelerator.

``lmsize calibrate`` makes them; an estimate of the same stack on the same accelerator applies and
names them. They scale what the formulas cannot know (the allocator's and the driver's totals, the
utilisation), never the tensors that are counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lmsize.assumption import Assumption


@dataclass(frozen=True, slots=True)
class Correction:
    """One factor: measured over predicted, the median of a user's rows.

    Attributes:
        quantity: ``memory`` or ``time``.
        accelerator: its name in the catalogue; "" for none.
        error_before: median size of the error of rows left out, without it; `error_after` with it.
    """

    quantity: str
    stack: str
    accelerator: str
    factor: float
    n_rows: int
    error_before: float
    error_after: float

    @property
    def text(self) -> str:
        """What it is, in a sentence."""
        where = self.accelerator or "no accelerator"
        return (
            f"{self.quantity} x {self.factor:.3f}, from {self.n_rows} measurements of your own of "
            f"{self.stack} on {where} (error of rows left out: {self.error_before:.1%} without it, "
            f"{self.error_after:.1%} with it)"
        )


@dataclass(frozen=True, slots=True)
class Corrections:
    """The factors that apply to one question."""

    memory: Correction | None = None
    time: Correction | None = None

    @property
    def memory_factor(self) -> float:
        """On what the allocator and the driver hold."""
        return self.memory.factor if self.memory else 1.0

    @property
    def time_factor(self) -> float:
        """On the time of a step."""
        return self.time.factor if self.time else 1.0

    @property
    def assumptions(self) -> tuple[Assumption, ...]:
        """What an estimate says of them."""
        return tuple(
            Assumption("calibrated", one.text)
            for one in (self.memory, self.time)
            if one is not None
        )


NONE = Corrections()


def applicable(known: Iterable[Correction], *, stack: str, accelerator: str) -> Corrections:
    """The corrections for a stack on an accelerator, of all that are known."""
    fitting = {
        one.quantity: one for one in known if (one.stack, one.accelerator) == (stack, accelerator)
    }
    return Corrections(fitting.get("memory"), fitting.get("time"))
