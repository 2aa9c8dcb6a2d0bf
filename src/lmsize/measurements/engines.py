"""What a serving engine does where a row is silent (``data/engines.toml``)."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from lmsize.measurements.words import read

UNKNOWN = "other"
VERSION = re.compile(r"\d{1,4}\.\d{1,4}")


@dataclass(frozen=True, slots=True)
class ServingEngine:
    """A serving engine's defaults.

    Attributes:
        spread: over several accelerators, where no degree is stated: ``tensors`` or ``layers``.
        precision: that it computes in.
        memory: what its own figure of memory is: ``allocated``, ``reserved`` or ``driver``.
        prompt: tokens of the prompts of its own benchmark; `output` tokens generated; None where
            it has none.
        eager: kernels are launched one by one, not from recorded graphs.
        whole_prompts: prompts are prefilled whole, not in chunks.
        prompt_logits_before: the version that first made logits of a prompt's last token alone.
    """

    name: str
    spread: str
    precision: str
    memory: str
    source: str
    prompt: int | None = None
    output: int | None = None
    whole_prompts: bool = False
    eager: bool = False
    prompt_logits_before: str = ""

    def keeps_prompt_logits(self, cell: str) -> bool:
        """Whether the version that a cell states makes logits for every token of a prompt."""
        said = VERSION.search(cell)
        if said is None or not self.prompt_logits_before:
            return False
        return _version(said[0]) < _version(self.prompt_logits_before)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


@cache
def serving_engines() -> Mapping[str, ServingEngine]:
    """The package's table by name."""
    text = files("lmsize.measurements.data").joinpath("engines.toml").read_text("utf-8")
    return {name: ServingEngine(name=name, **body) for name, body in tomllib.loads(text).items()}


def serving_engine(cell: str) -> ServingEngine:
    """The engine that a cell names; the one called ``other`` if it names none that is known."""
    meaning = read("serving_engine", cell).meaning if cell else None
    return serving_engines()[meaning or UNKNOWN]
