"""What a row's estimate came to, beside what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lmsize.assumption import Assumption

# In the order in which they are reported.
QUANTITIES = ("memory", "time", "run_s", "fits", "inference_memory", "latency")


@dataclass(frozen=True, slots=True)
class Answer:
    """One quantity of one row: measured and predicted, in bytes or seconds.

    Attributes:
        id: the row's.
        low: of the 90 % range for what is measured; `high` its other end; None without a range.
        group: what it is grouped by: ``source``, ``stack``, ``method``, ``framework``, ``quality``,
            ``split``, ``metric``.
        right: for ``fits``: whether the verdict was; None elsewhere.
        stated: what was taken for granted to put the row as a question.
    """

    id: str
    quantity: str
    measured: float
    predicted: float
    low: float | None = None
    high: float | None = None
    group: Mapping[str, str] = field(default_factory=dict)
    right: bool | None = None
    stated: tuple[Assumption, ...] = ()

    @property
    def relative_error(self) -> float | None:
        """Predicted over measured, less one; None for a verdict."""
        return None if self.right is not None else self.predicted / self.measured - 1

    @property
    def is_near(self) -> bool:
        """Whether the row's framework is only near to the stack that it was taken for."""
        return any(a.code == "row-framework" for a in self.stated)

    @property
    def is_covered(self) -> bool | None:
        """Whether the measured value is in the range; None without one."""
        if self.low is None or self.high is None:
            return None
        return self.low <= self.measured <= self.high


@dataclass(frozen=True, slots=True)
class Skipped:
    """A row that was not modelled, and why."""

    id: str
    reason: str
    group: Mapping[str, str] = field(default_factory=dict)
