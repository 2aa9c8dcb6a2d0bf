"""Accelerator names resolve as people write them; figures are sane and sourced."""

from __future__ import annotations

import time

import pytest

from lmsize.catalogue import Accelerator, built_in
from lmsize.errors import InputError

GIB = 2**30
CATALOGUE = built_in()
ROWS = CATALOGUE.accelerators()

# Every accelerator named in the published measurements, and what it means.
MEASURED = {
    "A100": "A100-SXM-80GB",
    "A100-40GB": "A100-SXM-40GB",
    "A100-80GB": "A100-SXM-80GB",
    "A10G": "A10G",
    "A800": "A800-SXM-80GB",
    "B200": "B200-SXM",
    "B300": "B300-SXM",
    "GB200": "GB200",
    "GB300": "GB300",
    "GH200-144GB": "GH200-144GB",
    "GH200-96GB": "GH200-96GB",
    "H100-80GB": "H100-SXM-80GB",
    "H100-80GB-PCIe": "H100-PCIe-80GB",
    "H100-96GB": "H100-96GB",
    "H100-NVL": "H100-NVL-94GB",
    "H20": "H20-96GB",
    "H200": "H200-SXM-141GB",
    "H800": "H800-SXM-80GB",
    "L40S": "L40S",
    "MI250X (one GCD)": "MI250X-GCD",
    "MI300X": "MI300X",
    "MI325X": "MI325X",
    "MI355X": "MI355X",
    "RTX3090": "RTX 3090",
    "RTX4090": "RTX 4090",
    "RTX5090": "RTX 5090",
    "RTXPRO6000": "RTX PRO 6000 Blackwell",
    "RX 6900 XT-16GB (512 GB/s)": "RX 6900 XT",
    "T4": "T4",
    "TPU v3-256": "TPU v3",
    "TPU v5p": "TPU v5p",
    "TPU v6e (Trillium)": "TPU v6e",
    "Titan RTX-24GB": "Titan RTX",
    "V100": "V100-SXM2-32GB",
    "V100-16GB": "V100-SXM2-16GB",
    "V100-32GB": "V100-SXM2-32GB",
}
TYPED = {
    "a100": "A100-SXM-80GB",
    "a100-40gb": "A100-SXM-40GB",
    "a100_80g": "A100-SXM-80GB",
    "A100 80GB PCIe": "A100-PCIe-80GB",
    "NVIDIA A100-SXM4-80GB": "A100-SXM-80GB",
    "NVIDIA A100-PCIE-40GB": "A100-PCIe-40GB",
    "h100": "H100-SXM-80GB",
    "h100-sxm": "H100-SXM-80GB",
    "h100-pcie": "H100-PCIe-80GB",
    "NVIDIA H100 80GB HBM3": "H100-SXM-80GB",
    "H200": "H200-SXM-141GB",
    "hgx b200": "B200-SXM",
    "rtx-4090": "RTX 4090",
    "4090": "RTX 4090",
    "NVIDIA GeForce RTX 4090": "RTX 4090",
    "rtx a6000": "RTX A6000",
    "NVIDIA RTX 6000 Ada Generation": "RTX 6000 Ada",
    "titan rtx": "Titan RTX",
    "Tesla V100-SXM2-32GB": "V100-SXM2-32GB",
    "Tesla T4": "T4",
    "NVIDIA A10": "A10",
    "mi300x": "MI300X",
    "AMD Instinct MI300X": "MI300X",
    "mi250x": "MI250X-GCD",
    "tpu-v5e": "TPU v5e",
    "v5litepod-16": "TPU v5e",
    "tpu-v4-8": "TPU v4",
    "trillium": "TPU v6e",
    "m2 ultra": "Apple M2 Ultra",
    "apple m2": "Apple M2",
    "trn2": "Trainium2",
    "gaudi-2": "Gaudi2",
}


@pytest.mark.parametrize(("name", "expected"), (MEASURED | TYPED).items())
def test_names_resolve(name: str, expected: str) -> None:
    assert CATALOGUE.accelerator(name)[0].name == expected
    assert CATALOGUE.accelerator(f"  {name.lower()} ")[0].name == expected


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_name_and_its_aliases_mean_their_row_and_nothing_is_ambiguous(row: Accelerator) -> None:
    for word in (row.name, row.name.upper(), row.name.replace(" ", "-"), *row.aliases):
        found, assumed = CATALOGUE.accelerator(word)
        assert found is row, word
        assert "accelerator-variant" not in {a.code for a in assumed}, word


@pytest.mark.parametrize("name", ["a100", "h100", "A100-80GB", "v100-16gb", "gh200", "h200"])
def test_an_open_variant_is_an_assumption_that_names_the_others(name: str) -> None:
    row, assumed = CATALOGUE.accelerator(name)
    (text,) = (a.text for a in assumed if a.code == "accelerator-variant")
    assert row.name in text
    assert "it could be" in text


def test_a_part_of_one_operator_is_only_taken_when_named() -> None:
    row, assumed = CATALOGUE.accelerator("h100-sxm")
    assert row.name == "H100-SXM-80GB"
    assert assumed == ()


def test_an_assumed_capacity_is_reported() -> None:
    (assumption,) = CATALOGUE.accelerator("tpu-v4")[1]
    assert assumption.code == "accelerator-capacity"
    assert "less 2 %" in assumption.text


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("h100-60gb", "H100"),
        ("a100-sxm-60gb", "A100"),
        ("rtx-4080x", "RTX 4090"),
        ("H1OO", "H100"),
        ("mi300", "MI300X"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(InputError, match="--accelerator") as caught:
        CATALOGUE.accelerator(name)
    assert any(near in str(n) for n in caught.value.nearest)


@pytest.mark.parametrize("name", ["", " ", "24GB GPU", "gpu", "80gb", "sxm", "☃", "a" * 10_000])
def test_what_names_nothing_is_refused(name: str) -> None:
    with pytest.raises(InputError):
        CATALOGUE.accelerator(name)


@pytest.mark.parametrize(
    ("name", "gib"),
    [
        ("a100-80gb", 79.25),
        ("a100-40gb", 39.5),
        ("h100", 79.18),
        ("h200", 139.8),
        ("rtx-4090", 23.64),
        ("mi300x", 191.98),
        ("mi250x", 63.98),
    ],
)
def test_capacity_is_what_the_driver_gives_a_process(name: str, gib: float) -> None:
    row, _ = CATALOGUE.accelerator(name)
    assert row.capacity_bytes == pytest.approx(gib * GIB, abs=2**20)
    assert not row.capacity_is_assumed


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_figures_are_sane_and_sourced(row: Accelerator) -> None:
    assert row.source
    assert row.source_date
    assert row.capacity_source
    assert 4e9 < row.capacity_bytes < 1e12
    assert row.capacity_bytes <= (row.reported_bytes or row.capacity_bytes)
    assert row.marketed_gb is not None
    assert row.capacity_bytes < 1.015 * row.marketed_gb * GIB
    assert 5e10 < row.memory_bandwidth_bytes_per_s < 1e13
    assert row.launch_year is not None
    assert 2016 < row.launch_year < 2027
    assert row.tdp_w is None or 30 < row.tdp_w < 1500
    assert row.link_bytes_per_s is None or 5e10 <= row.link_bytes_per_s <= 2e12


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_peaks_are_ordered(row: Accelerator) -> None:
    sixteen = row.bf16_flops_per_s or row.fp16_flops_per_s
    steps = [row.fp32_flops_per_s, row.tf32_flops_per_s, sixteen, row.fp8_flops_per_s]
    known = [peak for peak in steps if peak]
    assert known == sorted(known)
    assert all(1e12 < peak < 2e16 for peak in known)
    achievable = row.achievable_bf16_flops_per_s
    assert achievable is None or 0.5 < achievable / (sixteen or 1) < 1


def test_peaks_are_found_by_number_type() -> None:
    row, _ = CATALOGUE.accelerator("h100-sxm")
    assert row.peak_flops_per_s("bf16") == 989.4e12
    assert row.peak_flops_per_s("int8") == 1978.9e12
    assert row.peak_flops_per_s("fp4") is None
    assert row.peak_flops_per_s("nonsense") is None


def test_lists_take_substrings_and_globs() -> None:
    names = {row.name for row in CATALOGUE.accelerators("h100")}
    assert {"H100-SXM-80GB", "H100-PCIe-80GB", "H100-NVL-94GB", "H100-96GB"} == names
    assert {row.name for row in CATALOGUE.accelerators("rtx*90")} == {
        "RTX 3090",
        "RTX 4090",
        "RTX 5090",
    }
    assert len(CATALOGUE.accelerators("amd")) == 6
    assert CATALOGUE.accelerators("nothing-like-it") == []
    assert len(ROWS) == 77


def test_a_look_up_is_quick_once_the_table_is_read() -> None:
    CATALOGUE.accelerator("h100")
    start = time.perf_counter()
    for _ in range(20):
        CATALOGUE.accelerator("h100")
    assert (time.perf_counter() - start) / 20 < 0.005
