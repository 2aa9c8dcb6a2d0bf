"""Formulas explain themselves, and trees are computed from their children."""

from __future__ import annotations

from typing import Any

import pytest

from lmsize import formula as module
from lmsize.formula import Formula, Term, formula, given, maximum, total, unit_of
from lmsize.source import Source

PAPER = Source("A paper", "section 1", "https://example.org")


def area_bytes(*, width: Any, height: Any) -> Any:
    """Bytes of a rectangle.

    Assumes: nothing.
    """
    doubled = width * 2
    return doubled * height


AREA = Formula(area_bytes, PAPER)


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("n_params", "1"), ("stored_bytes", "bytes"), ("bandwidth_bytes_per_s", "bytes/s"),
        ("peak_flops_per_s", "FLOP/s"), ("step_s", "s"), ("mfu_frac", "1"), ("cost_usd", "USD"),
        ("price_usd_per_h", "USD/h"), ("draw_w", "W"), ("intensity_g_per_kwh", "g/kWh"),
        ("heads", "1"),
    ],
)  # fmt: skip
def test_a_name_carries_its_unit(name: str, unit: str) -> None:
    assert unit_of(name) == unit


def test_the_text_is_the_body() -> None:
    assert AREA.text == "doubled = width * 2; doubled * height"
    assert AREA.summary == "Bytes of a rectangle."
    assert (AREA.name, AREA.unit) == ("area_bytes", "bytes")


def test_a_term_holds_what_it_was_computed_from() -> None:
    term = AREA.term("page", width=3, height=4)
    assert term.as_dict() == {
        "label": "page", "value": 24, "unit": "bytes", "combine": "leaf",
        "formula": "area_bytes = doubled = width * 2; doubled * height",
        "source": "A paper, section 1, https://example.org",
        "inputs": {"width": 3, "height": 4}, "children": [],
    }  # fmt: skip


def test_parents_are_computed_from_children() -> None:
    leaves = [given(label, value, "bytes") for label, value in (("a", 1), ("b", 5), ("c", 2))]
    whole, largest = total("all", leaves), maximum("most", leaves)
    assert (whole.value, largest.value) == (8, 5)
    assert largest.winner.label == "b"
    assert whole.child("c") == leaves[2]
    assert whole.child("d") is None
    assert [term.label for term in total("root", [whole, largest]).walk()] == [
        "root", "all", "a", "b", "c", "most", "a", "b", "c",
    ]  # fmt: skip
    assert total("nothing", []).value == 0
    with pytest.raises(ValueError, match="max"):
        maximum("nothing", [])


def test_two_formulas_cannot_share_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_registry", {})
    made = formula(source=PAPER)(area_bytes)
    assert module.registry() == {"area_bytes": made}
    assert made(width=1, height=2) == 4
    with pytest.raises(ValueError, match="area_bytes"):
        formula(source=PAPER)(area_bytes)


def test_terms_are_values() -> None:
    assert Term("a", 1, "bytes") == Term("a", 1, "bytes")
    with pytest.raises(AttributeError):
        Term("a", 1, "bytes").value = 2  # type: ignore[misc]
