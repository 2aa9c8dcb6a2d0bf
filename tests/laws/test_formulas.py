"""Laws that every registered formula keeps."""

from __future__ import annotations

import inspect
import random
from typing import Any

import numpy as np
import pint
import pytest

from lmsize.api.explaining import formulas
from lmsize.formula import Formula, unit_of

FORMULAS = sorted(formulas().values(), key=lambda formula: formula.name)
NAMED = pytest.mark.parametrize("formula", FORMULAS, ids=lambda formula: formula.name)

registry = pint.UnitRegistry(None)
for line in ("byte = [data]", "flop = [work]", "second = [time] = s", "usd = [money]", "gram = [mass] = g",
             "kilowatt_hour = [energy]"):  # fmt: skip
    registry.define(line)
UNITS = {
    "bytes": "byte", "bytes/s": "byte/s", "FLOP": "flop", "FLOP/s": "flop/s", "s": "s",
    "USD": "usd", "USD/h": "usd/s", "kWh": "kilowatt_hour", "W": "kilowatt_hour/s", "g/kWh": "gram/kilowatt_hour",
    "1/s": "1/s", "kg": "gram", "h": "s", "1": "",
}  # fmt: skip
# Numbers become bytes by bits over 8, and counts become FLOPs: where a formula turns one into the
# other, the factor that does it carries the dimension.
CARRIES = {
    "bits_per_number": "byte", "bits_per_scale": "byte", "bits": "byte", "bytes_per_number": "byte",
    "flops_per_token": "flop", "flops_per_param": "flop", "flops_per_sequence": "flop", "n_flops": "flop",
    "n_bytes": "byte",
}  # fmt: skip
# Constants with a dimension stand inside: two FLOPs a product, four bytes a logit.
CONSTANTS = {"matmul_flops", "attention_flops", "head_activation_bytes"}


def inputs_of(formula: Formula, seed: int) -> dict[str, Any]:
    """Plausible values: shares below one, else whole numbers."""
    draw = random.Random(seed)
    names = inspect.signature(formula.function).parameters
    return {
        name: draw.uniform(0.1, 0.9) if name.endswith("_frac") else draw.choice([0, 1])
        if name == "causal" else draw.randint(1, 4096)
        for name in names
    }  # fmt: skip


@NAMED
def test_one_body_serves_numbers_and_arrays(formula: Formula) -> None:
    """Bit for bit, element by element."""
    cases = [inputs_of(formula, seed) for seed in range(20)]
    arrays = {name: np.array([case[name] for case in cases]) for name in cases[0]}
    expected = [float(formula(**case)) for case in cases]
    assert np.asarray(formula(**arrays), dtype=float).tolist() == expected


@NAMED
def test_the_name_carries_the_unit_of_the_value(
    formula: Formula, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Rounding up to whole bytes has no dimension of its own.
    for module in ("lmsize.memory.storage", "lmsize.memory.serving"):
        monkeypatch.setattr(f"{module}.ceil_div", lambda a, b: a / b)
    if formula.name in CONSTANTS:
        pytest.skip("a constant inside carries the dimension")
    quantities = {
        name: value * registry(CARRIES.get(name) or UNITS[unit_of(name)] or "dimensionless")
        for name, value in inputs_of(formula, 1).items()
    }
    try:
        value = formula(**quantities)
    except pint.DimensionalityError as error:
        pytest.fail(f"{formula.name}: {error}")
    dimension = getattr(value, "dimensionality", registry("dimensionless").dimensionality)
    assert dimension == registry(UNITS[formula.unit] or "dimensionless").dimensionality


@NAMED
def test_it_says_what_it_assumes_and_where_it_is_from(formula: Formula) -> None:
    text = formula.__doc__ or ""
    assert "Assumes:" in text
    assert "Valid for:" in text
    assert formula.source.title
    assert formula.text
