"""``lmsize models``."""

from __future__ import annotations

import click

from lmsize.cli.options import option


@click.command("models")
@click.argument("pattern", default="")
@option("--catalogue", metavar="FILE", help="Your own rows (TOML or CSV), over the package's.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(pattern: str, catalogue: str | None, as_json: bool) -> int:
    """List the models whose name, Hub id or type holds PATTERN (or fits a glob)."""
    from lmsize.api.training import opened
    from lmsize.cli.output import print_json

    found = opened(catalogue).models(pattern)
    if as_json:
        keys = ("name", "hf_id", "model_type", "n_params", "n_params_active", "confidence")
        print_json({"models": [{key: getattr(row, key) for key in keys} for row in found]})
        return 0
    from lmsize.quantity import format_count
    from lmsize.report.listing import show_listing

    show_listing(
        ("name", "Hub id", "type", "parameters", "active"),
        [
            (
                m.name,
                m.hf_id,
                m.model_type,
                *(format_count(n) if n else "" for n in (m.n_params, m.n_params_active)),
            )
            for m in found
        ],
        nothing=f"no model matches {pattern!r}",
    )
    return 0
