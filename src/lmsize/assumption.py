"""What an answer took for granted: coded, listed in every report, never silent."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Assumption:
    """A default, an extrapolation or a missing field that the answer rests on.

    Attributes:
        code: stable, in kebab-case; other programs may look for it.
        text: one sentence for a person.
    """

    code: str
    text: str


@dataclass(frozen=True, slots=True, order=True)
class Caution:
    """Something a user should know before acting on the answer (a *warning* in the report)."""

    code: str
    text: str
