"""Which program a recurrence has."""

from __future__ import annotations

from collections.abc import Callable

from lmsize.stacks.delta import delta
from lmsize.stacks.kda import kda
from lmsize.stacks.mamba import mamba
from lmsize.stacks.mamba2 import mamba2
from lmsize.stacks.sections import Section
from lmsize.stacks.setting import Setting, Style
from lmsize.tape.program import Program, Tensor

Mixer = Callable[[Program, Tensor, Section, Setting, Style], Tensor]
RECURRENCES: dict[str, Mixer] = {"mamba": mamba, "mamba2": mamba2, "delta": delta, "kda": kda}
