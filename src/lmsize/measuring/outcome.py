"""What came of measuring a case."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

FITS, OOM, FAILED, TIMEOUT = "fits", "OOM", "failed", "timeout"


@dataclass(frozen=True, slots=True)
class Peak:
    """A peak of memory on the worst rank.

    Attributes:
        kind: ``allocated``, ``reserved`` or ``driver``.
        definition: how it was read, in words.
    """

    kind: str
    n_bytes: int
    definition: str


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of a case.

    Attributes:
        outcome: ``fits``, ``OOM``, ``failed`` or ``timeout``; `reason` says more.
        step_s: seconds of each timed step, of the slowest rank.
        device_name: as its driver or the system calls it; `capacity_bytes` what it holds.
        facts: versions, clocks and other circumstances.
    """

    outcome: str
    reason: str = ""
    peaks: tuple[Peak, ...] = ()
    step_s: tuple[float, ...] = ()
    device_name: str = ""
    capacity_bytes: int | None = None
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def median_step_s(self) -> float | None:
        return statistics.median(self.step_s) if self.step_s else None

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Measured:
        values = json.loads(text)
        peaks = tuple(Peak(**peak) for peak in values["peaks"])
        return cls(**values | {"peaks": peaks, "step_s": tuple(values["step_s"])})
