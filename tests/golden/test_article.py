"""Every figure of the article, by the command that reproduces it; and the page about it."""

from __future__ import annotations

import importlib
import json
import shlex
import shutil
import subprocess
import sys
import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TABLES = tomllib.loads((ROOT / "tests/golden/article.toml").read_text("utf-8"))["table"]
QUOTES = tomllib.loads((ROOT / "tests/golden/article_text.toml").read_text("utf-8"))["quote"]
FIGURES = [
    pytest.param(table["command"], figure, id=f"{table['title']}: {figure['name']}")
    for table in TABLES
    for figure in table["figures"]
]
PAGE = " ".join((ROOT / "docs/article.md").read_text("utf-8").replace("\\\n", " ").split())
ROUNDED = 0.01
# Run once more as a user would: one of each command, and all that the article's examples take.
AS_PROCESSES = sorted({t["command"] for t in TABLES if t["title"].startswith(("Example", "BERT"))})


@pytest.fixture(scope="module")
def docs() -> Any:
    """The tool that runs the page's commands."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "tools"))
        return importlib.import_module("refresh_docs")


def value_of(docs: Any, command: str, figure: dict[str, Any]) -> Any:
    value = docs.figure(command, figure["path"])
    if "over" in figure:
        value /= docs.figure(command, figure["over"])
    return value / figure["unit"] if "unit" in figure else value


@pytest.mark.parametrize(("command", "figure"), FIGURES)
def test_a_command_reproduces_each_figure(docs: Any, command: str, figure: dict[str, Any]) -> None:
    found, said = value_of(docs, command, figure), figure["value"]
    if said == "null":
        assert found is None
    elif isinstance(said, list):
        assert said[0] <= found <= said[1]
    else:
        assert found == pytest.approx(said, rel=ROUNDED)


@pytest.mark.parametrize("command", [table["command"] for table in TABLES])
def test_the_page_shows_each_command(command: str) -> None:
    assert command in PAGE


@pytest.mark.parametrize("command", AS_PROCESSES)
def test_the_installed_command_answers_the_same(docs: Any, command: str) -> None:
    _, *arguments = shlex.split(command)
    installed = shutil.which("lmsize", path=str(Path(sys.executable).parent))
    assert installed is not None
    done = subprocess.run([installed, *arguments, "--json"], capture_output=True, check=True)
    assert json.loads(done.stdout) == docs.answer(command)
    assert not done.stderr


@pytest.mark.parametrize("quote", QUOTES, ids=lambda quote: quote["text"][:40])
def test_the_text_has_the_figures_of_commands(docs: Any, quote: dict[str, Any]) -> None:
    assert quote["text"] in PAGE
    number = Decimal(quote["number"].replace(",", ""))
    assert quote["number"] in quote["text"] or quote["in_words"]
    half_a_digit = Decimal(5).scaleb(int(number.as_tuple().exponent) - 1)
    found = Decimal(value_of(docs, quote["command"], quote))
    assert abs(found - number) <= half_a_digit
