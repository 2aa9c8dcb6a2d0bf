"""Every code of an assumption or warning is explained, and none is explained for nothing."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import lmsize
from lmsize.api.explaining import explained, terms
from lmsize.codes import CODES

PACKAGE = Path(lmsize.__file__).parent


def stated(tree: ast.Module) -> set[str]:
    """First arguments of ``Assumption(...)``, ``Caution(...)`` and ``config.assume(...)``."""
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        first = node.args[0]
        if name in {"Assumption", "Caution", "assume"} and isinstance(first, ast.Constant):
            found.add(str(first.value))
    return found


def test_codes_in_the_source_are_the_codes_explained() -> None:
    used = {c for file in PACKAGE.rglob("*.py") for c in stated(ast.parse(file.read_text("utf-8")))}
    plain = {code for code in used if code in CODES or not code.startswith("default-")}
    assert plain == set(CODES) - {"default-*"}


@pytest.mark.parametrize("term", sorted(terms()))
def test_every_term_that_is_listed_is_explained(term: str) -> None:
    assert all(page.text for page in explained(term))
