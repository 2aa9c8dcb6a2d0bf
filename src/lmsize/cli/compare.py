"""``lmsize compare``."""

from __future__ import annotations

from typing import Any

import click

from lmsize.cli.group import SectionedCommand
from lmsize.cli.options import (
    CALIBRATION,
    OUTPUT,
    RULES,
    RUN,
    TRAINING,
    engine,
    option,
    section,
    stacked,
)

EXAMPLES = """
lmsize compare llama-3.1-8b -g a100-80gb
lmsize compare llama-3.1-8b --by precision --json
"""


@click.command("compare", cls=SectionedCommand, epilog=EXAMPLES)
@click.argument("model", required=False)
@stacked(
    section(
        "Compared",
        option(
            "--by", metavar="WHAT", default="method", show_default=True, help="method or precision."
        ),
    ),
    *TRAINING,
    section("Length, time and money", *RUN),
    section("Answer", engine("rules", "analytic", "trace"), *OUTPUT, CALIBRATION),
    section("With --engine rules", *RULES),
)
def command(model: str | None, by: str, as_json: bool, **options: Any) -> int:
    """Full fine-tuning, LoRA and QLoRA of MODEL side by side (or precisions).

    Of the three, --quant applies to QLoRA only.
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
