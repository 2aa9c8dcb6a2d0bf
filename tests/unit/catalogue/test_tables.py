"""Precisions, recipes, prices, carbon, utilisation and overheads: sane, sourced, looked up."""

from __future__ import annotations

from typing import Any

import pytest

from lmsize.catalogue import Catalogue, Node, built_in, tables
from lmsize.catalogue.names import plain
from lmsize.catalogue.typical import node_price
from lmsize.errors import InputError

CATALOGUE = built_in()
PRECISIONS = ("fp32", "tf32", "amp-fp16", "amp-bf16", "bf16", "fp16", "fp8")
STACKS = ("transformers", "torchtitan", "megatron", "deepspeed")


def test_every_row_has_a_source_and_a_date() -> None:
    rows: list[Any] = [
        *tables.accelerators().values(), *tables.nodes(), *tables.carbon().values(),
        *tables.mfu(), *tables.overheads(), *tables.precisions().values(),
        *tables.recipes().values(), *map(CATALOGUE.optimizer, CATALOGUE.optimizers()),
    ]  # fmt: skip
    assert len(rows) > 600
    for row in rows:
        assert row.source.strip(), row
        assert row.source_date[:2] == "20", row


# -- precisions and recipes --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("fp32", 32), ("bf16", 16), ("fp8", 8), ("nf4", 4 + 8 / 64 + 32 / (64 * 256)),
        ("nf4-single", 4.5), ("fp4", 4.5), ("gptq-int4", 4.15625), ("awq-int4", 4.15625),
        ("int8", 8), ("nvfp4", 4.5), ("mxfp4", 4.25), ("gguf-q4-0", 4.5), ("gguf-q8-0", 8.5),
        ("gguf-q4-k-m", 4.8944),
    ],
)  # fmt: skip
def test_bits_with_scales(name: str, bits: float) -> None:
    assert CATALOGUE.precision(name).bits_per_value == pytest.approx(bits, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("BF16", "bf16"), ("float16", "fp16"), ("gguf-Q4_K_M", "gguf-q4-k-m"), ("q4_k_m", "gguf-q4-k-m"),
     ("NF4", "nf4"), ("llm.int8", "int8"), ("awq", "awq-int4"), ("half", "fp16")],
)  # fmt: skip
def test_precision_names(name: str, expected: str) -> None:
    assert CATALOGUE.precision(name).name == expected


@pytest.mark.parametrize("name", ["int5", "bf17", "", "gguf-", "nf5"])
def test_an_unknown_precision_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="--quant"):
        CATALOGUE.precision(name, "--quant")


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_stack_has_every_precision(stack: str, precision: str) -> None:
    row = CATALOGUE.recipe(stack, precision)
    named = [row.weights, row.gradients, row.states, row.compute, *row.cached_weights]
    copies = (row.main_weights, row.main_gradients, row.step_gradients)
    named += [n for n in (*copies, row.gathered, row.reduced) if n]
    assert all(CATALOGUE.precision(n).name == n for n in named)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_default_stack_follows_the_contract(precision: str) -> None:
    row = CATALOGUE.recipe("transformers", precision)
    kind = precision if precision in ("bf16", "fp16") else "fp32"
    assert (row.weights, row.gradients, row.states) == (kind, kind, kind)
    assert row.main_weights is None
    assert row.autocast == (precision.startswith("amp") or precision == "fp8")


@pytest.mark.parametrize(
    ("stack", "precision", "n_bytes"),
    [("megatron", "bf16", 18), ("megatron", "fp16", 20), ("megatron", "fp32", 16),
     ("deepspeed", "bf16", 16), ("deepspeed", "fp16", 16), ("torchtitan", "amp-bf16", 16),
     ("transformers", "amp-bf16", 16), ("transformers", "bf16", 8)],
)  # fmt: skip
def test_bytes_a_parameter_under_adam(stack: str, precision: str, n_bytes: int) -> None:
    row = CATALOGUE.recipe(stack, precision)
    copies = [row.weights, row.gradients, row.states, row.states]
    copies += [c for c in (row.main_weights, row.main_gradients) if c]
    assert sum(CATALOGUE.precision(c).bits for c in copies) / 8 == n_bytes


def test_an_unknown_stack_or_precision_is_refused() -> None:
    with pytest.raises(InputError, match=r"--stack.*megatron"):
        CATALOGUE.recipe("megatorn", "bf16")
    with pytest.raises(InputError, match="--precision"):
        CATALOGUE.recipe("megatron", "bf18")


# -- prices ------------------------------------------------------------------------------------


def node(usd: float | None, provider: str = "p", kind: str = "cloud") -> Node:
    return Node(f"{provider}-{usd}", provider, "X", 1, "s", "2026-01-01", kind=kind,
                on_demand_usd_per_accelerator_h=usd)  # fmt: skip


def test_a_price_is_the_lower_median_of_each_providers_lowest() -> None:
    rows = [node(9, "a"), node(2, "a"), node(3, "b"), node(7, "c"), node(8, "d"), node(None, "e")]
    price = node_price([*rows, node(0.1, "m", "marketplace")])
    assert price is not None
    assert price.usd_per_accelerator_h == 3
    assert (price.low_usd_per_h, price.high_usd_per_h, price.n_providers) == (2, 8, 4)
    assert price.as_of == "2026-01-01"


def test_a_marketplace_counts_only_without_a_cloud() -> None:
    price = node_price([node(0.4, "m", "marketplace"), node(None, "a")])
    assert price is not None
    assert price.usd_per_accelerator_h == 0.4
    assert node_price([]) is None
    assert node_price([node(None)]) is None


@pytest.mark.parametrize(
    ("name", "low", "high"), [("h100", 2, 12), ("a100-80gb", 1, 5), ("t4", 0.2, 1)]
)
def test_prices_are_plausible_and_dated(name: str, low: float, high: float) -> None:
    price = CATALOGUE.price(CATALOGUE.accelerator(name)[0])
    assert price is not None
    assert low < price.usd_per_accelerator_h < high
    assert price.as_of.startswith("202")
    assert price.node.provider in price.rule


def test_nodes_name_known_accelerators_and_positive_figures() -> None:
    known = tables.accelerators()
    for row in tables.nodes():
        assert row.accelerator in known, row.instance
        assert row.n_accelerators >= 1
        usd = row.on_demand_usd_per_accelerator_h
        assert usd is None or 0.05 < usd < 50
        assert (
            row.spot_usd_per_accelerator_h is None
            or usd is None
            or (row.spot_usd_per_accelerator_h <= usd)
        )
        assert row.network_bytes_per_s is None or 1e8 < row.network_bytes_per_s < 1e13
    assert len(tables.nodes()) == 95
    dgx = next(n for n in tables.nodes() if n.instance == "DGX H100")
    assert (dgx.kind, dgx.purchase_usd) == ("on-prem", 350_000)


# -- carbon, utilisation, overheads --------------------------------------------------------------


@pytest.mark.parametrize(
    ("region", "code"),
    [("WORLD", "WORLD"), ("france", "FRA"), ("DE", "DEU"), ("us", "USA"), ("us-east-1", "USA"),
     ("us-central1", "gcp:us-central1"), ("us-east1", "gcp:us-east1"), ("United Kingdom", "GBR")],
)  # fmt: skip
def test_regions(region: str, code: str) -> None:
    assert CATALOGUE.carbon(region).region == code


def test_no_precision_or_region_shares_a_name() -> None:
    tables_of_words = [
        [{plain(w) for w in (r.name, *r.aliases)} for r in tables.precisions().values()],
        [{w.casefold() for w in (r.region, r.name, *r.aliases)} for r in tables.carbon().values()],
    ]
    for rows in tables_of_words:
        words = [word for row in rows for word in row]
        assert not {word for word in words if words.count(word) > 1}


def test_carbon_is_plausible() -> None:
    assert CATALOGUE.carbon().g_co2e_per_kwh == 480
    for row in tables.carbon().values():
        assert 0 < row.g_co2e_per_kwh < 1500
        assert 2005 < row.year < 2027
    with pytest.raises(InputError, match="region"):
        CATALOGUE.carbon("atlantis")


def test_typical_utilisation_takes_the_narrowest_group() -> None:
    h100, _ = CATALOGUE.accelerator("h100-sxm")
    row, assumed = CATALOGUE.typical_mfu(h100, 8e9)
    assert (row.family, row.method, row.precision, row.architecture) == (
        "H100", "full", "16-bit", "dense",
    )  # fmt: skip
    assert row.min_params <= 8e9 < row.max_params
    assert assumed == ()
    mixture, _ = CATALOGUE.typical_mfu(h100, 8e9, is_moe=True)
    assert mixture.median < row.median


@pytest.mark.parametrize("name", ["mi300x", "tpu-v5e", "rtx-4090", "apple m2"])
@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_a_looser_group_is_an_assumption(name: str, method: str, precision: str) -> None:
    row, (assumption,) = CATALOGUE.typical_mfu(
        CATALOGUE.accelerator(name)[0], 7e9, method, precision
    )
    assert assumption.code == "mfu-group"
    assert row.family in ("all", "NVIDIA")


@pytest.mark.parametrize("n_params", [0, -1, float("nan"), float("inf")])
def test_utilisation_needs_a_size(n_params: float) -> None:
    with pytest.raises(InputError):
        CATALOGUE.typical_mfu(CATALOGUE.accelerator("h100")[0], n_params)


def test_utilisation_is_a_fraction_and_names_its_data() -> None:
    for row in tables.mfu():
        assert 0 < row.p10 <= row.median <= row.p90 < 0.9
        assert row.n_rows >= 5
        assert row.source.startswith("published runs: ")
        assert row.n_sources == row.source.count(";") + 1


def test_overheads() -> None:
    assert CATALOGUE.overhead("reserved_frac").typical == 0.04
    assert 3e8 <= CATALOGUE.overhead("context", "NVIDIA").typical <= 1.35e9
    assert CATALOGUE.overhead("context", "Unknown maker").vendor == ""
    assert CATALOGUE.overhead("pue").typical == 1.56
    for row in tables.overheads():
        assert row.low <= row.typical <= row.high
    with pytest.raises(InputError, match="context"):
        CATALOGUE.overhead("nothing")


def test_a_catalogue_without_own_rows_is_the_package() -> None:
    assert Catalogue().accelerators() == CATALOGUE.accelerators()
