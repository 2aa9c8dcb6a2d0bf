"""``lmsize train``."""

from __future__ import annotations

from typing import Any

import click

from lmsize.cli.options import (
    ACCELERATOR,
    CALIBRATION,
    DEGREES,
    EXPLAIN,
    OUTPUT,
    RULES,
    RUN,
    TRACE,
    TRAINING,
    stacked,
)


@click.command("train")
@click.argument("model", required=False)
@stacked(*ACCELERATOR, *TRAINING, *DEGREES, *RUN, *OUTPUT, CALIBRATION, EXPLAIN, *TRACE, *RULES)
def command(model: str | None, as_json: bool, explain: bool, **options: Any) -> int:
    """What training MODEL needs.

    MODEL is a catalogue name (llama-3.1-8b), a Hub id (meta-llama/Llama-3.1-8B), or the path of a
    config.json or of a folder that holds one.
    """
    from lmsize.api.training import train
    from lmsize.cli.output import deliver

    return deliver(train(model, **options), as_json=as_json, explain=explain)
