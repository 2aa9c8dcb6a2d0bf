"""The docs show what the commands print today."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MADE = ("```console", "<!-- table: ")
PAGES = sorted(
    p for p in (ROOT / "docs").glob("*.md") if any(mark in p.read_text("utf-8") for mark in MADE)
)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_shown_output_is_what_the_command_prints(
    page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    spec = importlib.util.spec_from_file_location("refresh_docs", ROOT / "tools/refresh_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = page.read_text("utf-8")
    assert module.refreshed(text) == text
