"""What a framework does where a row is silent (``data/frameworks.toml``)."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from lmsize.measurements.words import read

USUAL = "transformers"


@dataclass(frozen=True, slots=True)
class Framework:
    """A framework's stack and defaults.

    Attributes:
        bare_16bit: ``pure`` or ``amp``: how a 16-bit type is used that is merely named;
            `adapted_16bit` the same with LoRA.
        dropout: rate of hidden and attention dropout where the options do not say; None for the
            model's own.
        near: the stack is the nearest that lmsize models, not the framework's own.
        zero_stack: the stack where the row says ZeRO; `fsdp_stack` where it says FSDP,
            `compiled_stack` where it compiles its layers.
        stack_options: switches of the stack that it sets.
        sharding: with more than one data-parallel rank.
        until: switches of the stack that it set before a month (yyyymm): (switch, month); those of what
            a run compiles only where it does.
        fills_stages: layers that do not divide evenly fill up the stages from the first.
        runs_batch_whole: a rank's batch is one micro-batch where there is no pipeline.
        cuts_batch: a rank's batch is cut into as many micro-batches as the pipeline has stages.
    """

    name: str
    stack: str
    bare_16bit: str
    adapted_16bit: str
    attention: str
    optimizer: str
    recompute: str
    sharding: str
    source: str
    zero_stack: str = ""
    fsdp_stack: str = ""
    compiled_stack: str = ""
    near: bool = False
    dropout: float | None = None
    stack_options: tuple[str, ...] = ()
    cuts_batch: bool = False
    runs_batch_whole: bool = False
    fills_stages: bool = False
    until: tuple[tuple[str, str], ...] = ()


@cache
def frameworks() -> Mapping[str, Framework]:
    """The package's table by name."""
    text = files("lmsize.measurements.data").joinpath("frameworks.toml").read_text("utf-8")
    return {
        name: Framework(
            **{"name": name}
            | body
            | {
                "stack_options": tuple(body.get("stack_options", ())),
                "until": tuple(body.get("until", {}).items()),
            }
        )
        for name, body in tomllib.loads(text).items()
    }


def framework(cell: str) -> tuple[Framework, bool]:
    """The framework that a cell names, and whether it names one at all."""
    meaning = read("framework", cell).meaning if cell else None
    return frameworks()[meaning or USUAL], meaning is not None
