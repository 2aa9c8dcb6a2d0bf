"""A row that is being read: what is known so far, and what was taken for granted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lmsize.assumption import Assumption
from lmsize.measurements.frameworks import Framework


@dataclass(slots=True)
class Draft:
    """What has been read so far.

    Attributes:
        extra: the launch options in ``extra_config``.
        options: of ``lmsize train``, as they become known.
    """

    row: Mapping[str, str]
    extra: Mapping[str, str]
    framework: Framework
    options: dict[str, Any]
    stated: list[Assumption]

    def assume(self, code: str, text: str) -> None:
        self.stated.append(Assumption(code, text))
