"""``lmsize train``."""

from __future__ import annotations

from typing import Any

import click

from lmsize.cli.group import SectionedCommand
from lmsize.cli.options import (
    CALIBRATION,
    EXPLAIN,
    OUTPUT,
    RULES,
    RUN,
    TRACE,
    TRAINING,
    engine,
    section,
    stacked,
)

EXAMPLES = """
lmsize train llama-3.1-8b --method qlora -g rtx-4090
lmsize train llama-3.1-8b -g h100 -n 64 --zero 3 --tokens 1T --deadline 30d
lmsize train path/to/config.json --micro-batch 8 --seq-len 4k --json
lmsize train --engine rules --params 7e9 --precision fp16
lmsize train gpt2 --engine trace --timeline step.html
"""


@click.command("train", cls=SectionedCommand, epilog=EXAMPLES)
@click.argument("model", required=False)
@stacked(
    *TRAINING,
    section("Length, time and money", *RUN),
    section("Answer", engine("rules", "analytic", "trace"), *OUTPUT, CALIBRATION, EXPLAIN),
    section("With --engine rules", *RULES),
    section("With --engine trace", *TRACE),
)
def command(model: str | None, as_json: bool, explain: bool, **options: Any) -> int:
    """What training MODEL needs: memory by component, FLOPs, time, accelerators, cost.

    MODEL is a catalogue name (lmsize models lists them), a Hub id, or the path of a config.json or of
    its folder. Everything not said takes its default, in parentheses, and the answer lists it. Exit code
    0: fits, or no accelerator named; 1: does not fit; 2: bad input.
    """
    from lmsize.api.training import train
    from lmsize.cli.output import deliver

    return deliver(train(model, **options), as_json=as_json, explain=explain)
