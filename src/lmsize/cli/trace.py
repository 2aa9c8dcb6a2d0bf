"""``lmsize trace``."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import Any

import click

from lmsize.cli.group import SectionedCommand
from lmsize.cli.options import EXPLAIN, TRACE_FILES, option, section, stacked

EXAMPLES = """
lmsize trace mymodule:factory -g a100-80gb --timeline step.html
where mymodule.py, here or installed, holds

import torch
def factory():
    model = torch.nn.Linear(1024, 1024)
    batch = torch.randn(32, 1024)
    return model, batch, lambda model, batch: model(batch).square().mean()
"""


@click.command("trace", cls=SectionedCommand, epilog=EXAMPLES)
@click.argument("factory")
@stacked(
    section(
        "Options",
        option("-g", "--accelerator", metavar="NAME", help="Accelerator, e.g. a100-80gb."),
        *TRACE_FILES,
        option(
            "--catalogue", metavar="FILE", help="Your own rows (TOML or CSV), over the package's."
        ),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON document."),
        EXPLAIN,
    )
)
def command(factory: str, as_json: bool, explain: bool, **options: Any) -> int:
    """The memory of a training step of your own module, on fake tensors.

    FACTORY is package.module:name of a callable without arguments that returns (model, batch),
    (model, batch, loss) or a mapping of model, batch, loss, optimizer, step. loss(model, batch) gives a
    tensor of one number; without it, what model(batch) returns or its .loss. Nothing is computed and
    no accelerator is needed. Needs the extra: pip install 'lmsize[trace]'.
    """
    from lmsize.api.factory import trace
    from lmsize.cli.output import deliver

    with redirect_stdout(sys.stderr):  # what the user's own code prints is no part of the answer
        found = trace(factory, **options)
    return deliver(found, as_json=as_json, explain=explain)
