"""``lmsize compare``."""

from __future__ import annotations

from typing import Any

import click

from lmsize.cli.options import (
    ACCELERATOR,
    CALIBRATION,
    DEGREES,
    OUTPUT,
    RULES,
    RUN,
    TRAINING,
    option,
    stacked,
)


@click.command("compare")
@click.argument("model", required=False)
@option("--by", metavar="WHAT", default="method", show_default=True, help="method or precision.")
@stacked(*ACCELERATOR, *TRAINING, *DEGREES, *RUN, *OUTPUT, CALIBRATION, *RULES)
def command(model: str | None, by: str, as_json: bool, **options: Any) -> int:
    """Full fine-tuning, LoRA and QLoRA of MODEL side by side (or precisions).

    --quant applies to QLoRA only.
    """
    from lmsize.api.comparing import compare
    from lmsize.cli.output import print_json

    rows = compare(model, by=by, **options)
    if as_json:
        print_json({"rows": [row.as_dict() for row in rows]})
    else:
        from lmsize.report.comparison import show_comparison

        show_comparison(rows, by=by)
    return 0
