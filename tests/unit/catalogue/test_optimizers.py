"""Optimizer rows hold what torch.optim really keeps, and every usual name finds one."""

from __future__ import annotations

import math
import tomllib
from typing import Any

import pytest
import torch

from lmsize.catalogue import Optimizer, StateRule, built_in, tables
from lmsize.catalogue.names import plain
from lmsize.errors import InputError

CATALOGUE = built_in()
NAMES = CATALOGUE.optimizers()
TRANSFORMERS_NAMES = (  # values of `optim` in TrainingArguments of transformers 5.23.0
    "adamw_torch",
    "adamw_torch_fused",
    "adamw_torch_xla",
    "adamw_torch_npu_fused",
    "adafactor",
    "adamw_anyprecision",
    "adamw_torch_4bit",
    "adamw_torch_8bit",
    "ademamix",
    "sgd",
    "adagrad",
    "adamw_bnb_8bit",
    "adamw_8bit",
    "ademamix_8bit",
    "lion_8bit",
    "lion_32bit",
    "paged_adamw_32bit",
    "paged_adamw_8bit",
    "paged_ademamix_32bit",
    "paged_ademamix_8bit",
    "paged_lion_32bit",
    "paged_lion_8bit",
    "rmsprop",
    "rmsprop_bnb",
    "rmsprop_bnb_8bit",
    "rmsprop_bnb_32bit",
    "galore_adamw",
    "galore_adamw_8bit",
    "galore_adafactor",
    "galore_adamw_layerwise",
    "galore_adamw_8bit_layerwise",
    "galore_adafactor_layerwise",
    "lomo",
    "adalomo",
    "grokadamw",
    "schedule_free_radam",
    "schedule_free_adamw",
    "schedule_free_sgd",
    "apollo_adamw",
    "apollo_adamw_layerwise",
    "stable_adamw",
)
SHAPES = [(8, 12), (7,), (3, 4, 6), (1, 5)]


def n_elements(rule: StateRule, shape: tuple[int, ...]) -> int:
    """Elements of a state by its shape rule, written apart from the product's formula."""
    numel = math.prod(shape)
    return {
        "like": numel,
        "row": numel // shape[-1],
        "column": numel // shape[-2] if len(shape) > 1 else numel,
        "rows": shape[0],
        "scalar": 1,
    }[rule.shape]


def kept(row: Optimizer, shape: tuple[int, ...]) -> dict[str, int]:
    kind = "matrix" if len(shape) > 1 else "vector"
    return {s.name: n_elements(s, shape) for s in row.states if s.on in ("all", kind)}


@pytest.mark.parametrize(
    ("name", "torch_class", "options"),
    [
        ("sgd", "SGD", {}),
        ("sgd-momentum", "SGD", {"momentum": 0.9}),
        ("adam", "Adam", {}),
        ("adamw", "AdamW", {"foreach": True}),
        ("adamw", "AdamW", {"foreach": False}),
        ("adamw-fused", "AdamW", {"fused": True}),
        ("adamw-amsgrad", "AdamW", {"amsgrad": True}),
        ("adamax", "Adamax", {}),
        ("nadam", "NAdam", {}),
        ("radam", "RAdam", {}),
        ("adagrad", "Adagrad", {}),
        ("rmsprop", "RMSprop", {}),
        ("adadelta", "Adadelta", {}),
        ("asgd", "ASGD", {}),
        ("rprop", "Rprop", {}),
        ("adafactor-torch", "Adafactor", {}),
    ],
)
def test_states_are_those_of_torch(name: str, torch_class: str, options: dict[str, object]) -> None:
    parameters = [torch.nn.Parameter(torch.ones(shape)) for shape in SHAPES]
    optimizer = getattr(torch.optim, torch_class)(parameters, **options)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    row = CATALOGUE.optimizer(name)
    for parameter, shape in zip(parameters, SHAPES, strict=True):
        held = optimizer.state[parameter].items()
        assert kept(row, shape) == {k: v.numel() for k, v in held if torch.is_tensor(v)}


def test_muon_keeps_one_momentum_and_takes_matrices_only() -> None:
    matrix = torch.nn.Parameter(torch.ones(4, 6))
    optimizer: Any = torch.optim.Muon([matrix])
    matrix.grad = torch.ones_like(matrix)
    optimizer.step()
    row = CATALOGUE.optimizer("muon")
    assert kept(row, (4, 6)) == {k: v.numel() for k, v in optimizer.state[matrix].items()}
    assert row.applies_to == "hidden-matrix"
    with pytest.raises(ValueError, match="2D"):
        torch.optim.Muon([torch.nn.Parameter(torch.ones(3))])


@pytest.mark.parametrize("name", TRANSFORMERS_NAMES)
def test_every_name_of_transformers_is_known(name: str) -> None:
    row = CATALOGUE.optimizer(name)
    assert ("8bit" in name) == any("int8" in s.dtype for s in row.states)
    assert row.paged == name.startswith("paged")
    assert (row.default_implementation == "fused") == (
        any(word in name for word in ("fused", "bnb", "paged", "8bit", "32bit"))
        and "torch_8bit" not in name
        and "galore" not in name
    )


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("AdamW", "adamw"),
        ("adamw_torch", "adamw"),
        ("adamw_torch_fused", "adamw-fused"),
        ("adamw_bnb_8bit", "adamw8bit"),
        ("paged_adamw_32bit", "paged-adamw"),
        ("PagedAdamW8bit", "paged-adamw8bit"),
        ("lion_32bit", "lion-bnb"),
        ("Adam-8bit", "adam8bit"),
        ("galore_adamw_layerwise", "galore-adamw"),
        ("schedule_free_adamw", "schedule-free-adamw"),
    ],
)
def test_aliases(alias: str, name: str) -> None:
    assert CATALOGUE.optimizer(alias).name == name


@pytest.mark.parametrize(
    ("name", "near"), [("adam-w8", "adamw"), ("mu0n", "muon"), ("loin", "lion")]
)
def test_an_unknown_one_is_refused_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(InputError, match="--optimizer") as caught:
        CATALOGUE.optimizer(name)
    assert any(near in str(n) for n in caught.value.nearest)


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_whole(name: str) -> None:
    row = CATALOGUE.optimizer(name)
    assert row.name == name
    assert row.source
    assert row.source_date
    assert row.label
    assert row.applies_to == "all" or CATALOGUE.optimizer(row.fallback).applies_to == "all"
    impl = row.default_implementation
    copies = {"foreach": row.foreach_copies, "loop": row.loop_copies, "fused": row.fused_copies}
    assert copies[impl] is not None
    assert len({s.name for s in row.states}) == len(row.states)
    assert bool(row.rank) == any("projected" in s.shape for s in row.states)
    assert bool(row.min_numel) == any("block" in s.dtype for s in row.states)


def test_reading_one_row_gives_the_same_as_reading_the_whole_file() -> None:
    whole = tomllib.loads(tables.data_text("optimizers.toml"))
    assert tuple(whole) == NAMES
    for name, raw in whole.items():
        assert tables.optimizer_record(name, raw) == CATALOGUE.optimizer(name)


def test_no_name_means_two_rows() -> None:
    rows = [CATALOGUE.optimizer(name) for name in NAMES]
    words = [w for row in rows for w in {plain(n) for n in (row.name, *row.aliases)}]
    doubled = {w for w in words if words.count(w) > 1}
    assert not doubled


@pytest.mark.parametrize(
    ("name", "bytes_per_parameter"),
    [("adamw", 8), ("adamw8bit", 2.03125), ("lion", 4), ("adamw4bit-torchao", 1.0625), ("sgd", 0)],
)
def test_bytes_for_a_large_matrix(name: str, bytes_per_parameter: float) -> None:
    width = {
        "state": 4.0,
        "fp32": 4.0,
        "int8-block256": 1 + 4 / 256,
        "int4-block128": 0.5 + 4 / 128,
    }
    shape = (4096, 4096)
    row = CATALOGUE.optimizer(name)
    total = sum(n_elements(s, shape) * width[s.dtype] for s in row.states if s.shape != "scalar")
    assert total / math.prod(shape) == bytes_per_parameter
