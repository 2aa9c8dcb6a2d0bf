"""The JSON that the command line prints, as JSON Schemas (2020-12) for other programs."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any


def _shipped(name: str) -> dict[str, Any]:
    text = files(__name__).joinpath(name).read_text("utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def estimate_schema() -> dict[str, Any]:
    """The schema of one estimate: what ``train --json`` and ``infer --json`` print."""
    return _shipped("estimate-1.json")


def comparison_schema() -> dict[str, Any]:
    """The schema of what ``compare --json`` prints, with that of an estimate in its ``$defs``."""
    return {**_shipped("comparison-1.json"), "$defs": {"estimate": estimate_schema()}}
