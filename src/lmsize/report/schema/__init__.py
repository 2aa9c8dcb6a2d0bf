"""The JSON schemas of what ``--json`` prints."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any


def estimate_schema() -> dict[str, Any]:
    """The schema (JSON Schema 2020-12) of ``train --json`` and ``infer --json``."""
    text = files(__name__).joinpath("estimate-1.json").read_text("utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def comparison_schema() -> dict[str, Any]:
    """The schema of ``compare --json``: ``{"rows": [estimate, ...]}``."""
    rows = {"type": "array", "items": estimate_schema()}
    return {
        "type": "object",
        "properties": {"rows": rows},
        "required": ["rows"],
        "additionalProperties": False,
    }
