"""Strict reading of one record, and the ranges that its figures must keep."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any, get_args, get_origin

import cattrs
from cattrs.gen import make_dict_structure_fn

from lmsize.catalogue.records import (
    Accelerator,
    CarbonRow,
    ModelEntry,
    Node,
)
from lmsize.catalogue.rules import Optimizer, Precision, StateRule

MAY_BE_ZERO = frozenset(
    {
        "on_demand_usd_per_accelerator_h",
        "spot_usd_per_accelerator_h",
        "purchase_usd",
        "g_co2e_per_kwh",
        "scale_bits",
        "zero_bits",
        "nested_scale_bits",
        "tensor_bits",
        "min_numel",
        "multiple_of",
        "block_dim",
        "max_preconditioner_dim",
        "rank",
        "foreach_copies",
        "loop_copies",
        "raised_copies",
        "previous_copies",
        "fused_copies",
    }
)
LIMITS: Mapping[str, tuple[float, float]] = {
    "capacity_bytes": (1e6, 1e14), "reported_bytes": (1e6, 1e14), "launch_year": (1990, 2100),
    "year": (1990, 2100), "bits": (0.5, 128), "mixture_bits": (0.5, 128),
    "g_co2e_per_kwh": (0, 5000), "n_accelerators": (1, 1e6), "tdp_w": (1, 1e6),
}  # fmt: skip
SHAPES = ("like", "row", "column", "left_square", "right_square", "projected", "projector",
          "projected_row", "projected_column", "rows", "scalar")  # fmt: skip
WORDS: Mapping[str, tuple[str, ...]] = {
    "applies_to": ("all", "matrix", "hidden-matrix"),
    "default_implementation": ("foreach", "fused", "loop"),
    "shape": SHAPES, "on": ("all", "matrix", "vector"), "place": ("device", "host"),
}  # fmt: skip
PEAKS = ("fp32", "tf32", "fp16", "bf16", "fp8", "int8", "fp4")


@cache
def converter() -> cattrs.Converter:
    """A converter that takes every value as it is typed, or not at all."""
    made = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)
    made.register_structure_hook(int, _int)
    made.register_structure_hook(float, _float)
    made.register_structure_hook(bool, _exactly(bool, "true or false"))
    made.register_structure_hook(str, _exactly(str, "a string"))
    made.register_structure_hook_func(_is_tuple, lambda v, t: _tuple(made, v, t))
    made.register_structure_hook_func(lambda t: t == Mapping[str, Any], _mapping)
    for record in (Accelerator, CarbonRow, ModelEntry, Node, Optimizer, Precision, StateRule):
        hook = make_dict_structure_fn(record, made, _cattrs_forbid_extra_keys=True)
        made.register_structure_hook(record, _passing(record, hook))
    return made


def _is_tuple(kind: Any) -> bool:
    return get_origin(kind) is tuple


def _int(value: Any, _: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} is not a whole number (write it without point and exponent)")
    return value


def _float(value: Any, _: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number")
    return float(value)


def _exactly(kind: type, words: str) -> Any:
    def hook(value: Any, _: Any) -> Any:
        if type(value) is not kind:
            raise ValueError(f"{value!r} is not {words}")
        return value

    return hook


def _tuple(made: cattrs.Converter, value: Any, kind: Any) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"{value!r} is not a list")
    member = get_args(kind)[0]
    return tuple(made.structure(item, member) for item in value)


def _mapping(value: Any, _: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is not a table")
    return value


def _passing(record: type, hook: Any) -> Any:
    """Structure dictionaries; a record that is one already (from the package) passes."""

    def structure(value: Any, kind: Any) -> Any:
        if isinstance(value, record):
            return value
        if not isinstance(value, dict):
            raise TypeError(f"{value!r} is not a table")
        return hook(value, kind)

    return structure


def strict_record(record: type, row: Mapping[str, Any], path: str) -> tuple[Any | None, list[str]]:
    """A record from a dictionary, or every fault of it with its path."""
    try:
        return converter().structure(dict(row), record), []
    except cattrs.BaseValidationError as error:
        return None, [
            fault_text(f, path) for f in cattrs.transform_error(error, format_exception=_reason)
        ]


def _reason(error: BaseException, _: type | None) -> str:
    if isinstance(error, KeyError):
        return "missing"
    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        return f"unknown key {', '.join(sorted(error.extra_fields))}"
    return str(error)


def fault_text(fault: str, path: str) -> str:
    """Cattrs' ``reason @ $.a.b`` as ``path.a.b: reason``."""
    reason, _, where = fault.rpartition(" @ ")
    return f"{path}{where.removeprefix('$')}: {reason}"


def value_faults(given: Mapping[str, Any], path: str) -> list[str]:
    """Figures out of range, words that mean nothing and empty sources among the keys given."""
    faults = []
    for key, value in given.items():
        where = f"{path}.{key}"
        if key in WORDS and isinstance(value, str) and value not in WORDS[key]:
            faults.append(f"{where}: {value!r} is not one of {', '.join(WORDS[key])}")
        elif key in ("source", "source_date") and value == "":
            faults.append(f"{where}: is empty")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            faults += number_faults(key, value, where)
        elif key == "states" and isinstance(value, list):
            for i, state in enumerate(value):
                if isinstance(state, dict):
                    faults += value_faults(state, f"{where}[{i}]")
    return faults


def number_faults(name: str, value: float, where: str) -> list[str]:
    """Whether a figure keeps its range; positive where nothing else is said."""
    low, high = LIMITS.get(name, (0.0, 1e30))
    zero = value == 0 and name in MAY_BE_ZERO
    if zero or not math.isfinite(value) or (low <= value <= high and value > 0):
        return []  # what is not finite is refused as no number
    words = f"from {low:g} to {high:g}" if name in LIMITS else "a positive number"
    return [f"{where}: {value!r} is out of range: expected {words}"]


def relation_faults(record: Any, path: str) -> list[str]:
    """What must hold between the fields of a record."""
    faults = []
    if isinstance(record, Accelerator):
        if not any(record.peak_flops_per_s(kind) for kind in PEAKS):
            faults.append(f"{path}: no peak rate: expected at least one of bf16_flops_per_s ...")
        if record.reported_bytes is not None and record.capacity_bytes > record.reported_bytes:
            faults.append(f"{path}.capacity_bytes: larger than reported_bytes")
    if isinstance(record, Optimizer) and record.applies_to != "all" and not record.fallback:
        faults.append(f'{path}.fallback: needed where applies_to is not "all"')
    if isinstance(record, ModelEntry) and not isinstance(record.config.get("model_type"), str):
        faults.append(f"{path}.model_type: missing: expected the config.json's word, e.g. 'llama'")
    return faults
