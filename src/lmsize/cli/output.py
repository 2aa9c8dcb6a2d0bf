"""Printing an answer and choosing the exit code."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from lmsize.estimate.answer import Estimate


def print_json(document: Any) -> None:
    """Exactly one JSON document on stdout."""
    click.echo(json.dumps(document, allow_nan=False))


def deliver(estimate: Estimate, *, as_json: bool, explain: bool) -> int:
    """Print an estimate; 1 if it does not fit, else 0."""
    if as_json:
        print_json(estimate.as_dict())
    else:
        from lmsize.report.text import show

        show(estimate, explain=explain)
    return 1 if estimate.verdict.fits is False else 0
