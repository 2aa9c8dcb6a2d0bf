"""``lmsize trace``."""

from __future__ import annotations

from typing import Any

import click

from lmsize.cli.options import EXPLAIN, TRACE_FILES, option, stacked


@click.command("trace")
@click.argument("factory")
@stacked(
    option("-g", "--accelerator", metavar="NAME", help="Accelerator, e.g. a100-80gb."),
    *TRACE_FILES,
    option("--catalogue", metavar="FILE", help="Your own rows (TOML or CSV), over the package's."),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON document."),
    EXPLAIN,
)
def command(factory: str, as_json: bool, explain: bool, **options: Any) -> int:
    """The memory of a training step of your own module, on fake tensors.

    FACTORY is package.module:name of a callable without arguments that returns (model, batch),
    (model, batch, loss) or a mapping of model, batch, loss, optimizer, step. Needs the extra:
    pip install 'lmsize[trace]'.
    """
    from lmsize.api.factory import trace
    from lmsize.cli.output import deliver

    return deliver(trace(factory, **options), as_json=as_json, explain=explain)
