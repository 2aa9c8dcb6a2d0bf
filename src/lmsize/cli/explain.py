"""``lmsize explain``."""

from __future__ import annotations

import click


@click.command("explain")
@click.argument("term", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(term: str | None, as_json: bool) -> int:
    """Explain TERM: a formula, a component of the memory, or an assumption's code.

    Without TERM, list everything that can be explained.
    """
    from lmsize.api.explaining import explained, terms
    from lmsize.cli.output import print_json

    if term is None:
        found = terms()
        if as_json:
            print_json({"terms": found})
        else:
            click.echo("\n".join(f"{name:32} {text}" for name, text in found.items()))
        return 0
    pages = explained(term)
    if as_json:
        print_json({"term": term, "pages": [page.as_dict() for page in pages]})
    else:
        click.echo("\n\n".join(page.as_text() for page in pages))
    return 0
