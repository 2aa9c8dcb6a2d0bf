"""The rows of the catalogue: frozen records with base units in their field names.

A field that is None is unknown, never zero. Rates are dense (no sparsity) and per device, which
is what software sees: a package of two dies that reports two devices is two accelerators.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One device as software sees it.

    Attributes:
        capacity_bytes: what a process can use, its driver context included (the total that
            ``torch.cuda.mem_get_info`` gives).
        reported_bytes: what the driver's own tool prints (nvidia-smi, rocm-smi, hl-smi).
        capacity_is_assumed: the capacity follows a rule (`capacity_source` says which).
        marketed_gb: the number in the product's name; never used in arithmetic.
        link_bytes_per_s: to the others of its node, a direction, all links together.
        named_only: never the answer to a name that leaves its variant open.
    """

    name: str
    capacity_bytes: int
    memory_bandwidth_bytes_per_s: float
    source: str
    source_date: str
    vendor: str = ""
    family: str = ""
    form_factor: str = ""
    marketed_gb: int | None = None
    reported_bytes: int | None = None
    capacity_is_assumed: bool = False
    capacity_source: str = ""
    fp32_flops_per_s: float | None = None
    tf32_flops_per_s: float | None = None
    fp16_flops_per_s: float | None = None
    bf16_flops_per_s: float | None = None
    fp8_flops_per_s: float | None = None
    int8_ops_per_s: float | None = None
    fp4_flops_per_s: float | None = None
    achievable_bf16_flops_per_s: float | None = None
    link: str = ""
    link_bytes_per_s: float | None = None
    pcie: str = ""
    tdp_w: float | None = None
    launch_year: int | None = None
    named_only: bool = False
    aliases: tuple[str, ...] = ()
    unsourced: str = ""
    notes: str = ""

    def peak_flops_per_s(self, precision: str) -> float | None:
        """Dense peak for a number type: fp32, tf32, fp16, bf16, fp8, int8 or fp4 (FLOP/s)."""
        name = "int8_ops_per_s" if precision == "int8" else f"{precision}_flops_per_s"
        value: float | None = getattr(self, name, None)
        return value


@dataclass(frozen=True, slots=True)
class Node:
    """A machine that can be rented or bought, with its dated price.

    Attributes:
        kind: ``cloud``, ``marketplace`` (cheapest offer seen), ``serverless`` or ``on-prem``.
        link_bytes_per_s: between accelerators of the node, a direction, for each of them.
        network_bytes_per_s: of the whole node to other nodes.
        purchase_usd: list price of the whole node; `source` and `source_date` are those of the
            price where there is one.
    """

    instance: str
    provider: str
    accelerator: str
    n_accelerators: int
    source: str
    source_date: str
    kind: str = "cloud"
    link: str = ""
    link_bytes_per_s: float | None = None
    network: str = ""
    network_bytes_per_s: float | None = None
    network_source: str = ""
    n_vcpus: int | None = None
    host_memory_bytes: int | None = None
    on_demand_usd_per_accelerator_h: float | None = None
    spot_usd_per_accelerator_h: float | None = None
    purchase_usd: float | None = None
    region: str = ""
    second_price: str = ""
    notes: str = ""


@dataclass(frozen=True, slots=True)
class Price:
    """What an accelerator-hour costs: a real row, the (lower) median over providers.

    Attributes:
        low_usd_per_h: the cheapest provider of those compared; `high_usd_per_h` the dearest.
        rule: how the row was chosen.
    """

    usd_per_accelerator_h: float
    as_of: str
    source: str
    node: Node
    low_usd_per_h: float
    high_usd_per_h: float
    n_providers: int
    rule: str


@dataclass(frozen=True, slots=True)
class CarbonRow:
    """Carbon intensity of a grid, in grams of CO2 equivalent a kWh."""

    region: str
    name: str
    g_co2e_per_kwh: float
    year: int
    source: str
    source_date: str
    kind: str = "country"
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MfuRow:
    """Model FLOPs utilisation seen in published training runs of one group.

    Attributes:
        family: the accelerator's family, its vendor, or ``all``.
        architecture: ``dense`` or ``moe``.
        method: ``full``, or ``lora`` (qlora too: 4 FLOPs a parameter and token, not 6).
        precision: ``16-bit`` or ``fp8``; the fraction is of the dense peak of that type.
        min_params: smallest model of the bucket; `max_params` is exclusive.
        median: a fraction; `p10` and `p90` are the spread of the rows.
    """

    family: str
    architecture: str
    method: str
    precision: str
    min_params: float
    max_params: float
    median: float
    p10: float
    p90: float
    n_rows: int
    n_sources: int
    source: str
    source_date: str


@dataclass(frozen=True, slots=True)
class Overhead:
    """Bytes or a fraction that no tensor explains: driver context, allocator slack, PUE."""

    name: str
    unit: str
    typical: float
    low: float
    high: float
    source: str
    source_date: str
    vendor: str = ""
    notes: str = ""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A known architecture: its config and what is known of its size.

    Attributes:
        config: the keys of ``config.json`` that decide shapes and counts.
        n_params: unique parameters of `params_class` as built by transformers; None if unbuilt.
        n_params_hub: the total that the Hub prints; `gap_note` says why it differs.
        filled_keys: keys taken from transformers' class defaults, not read in a file.
    """

    name: str
    config: Mapping[str, Any]
    source: str
    source_date: str
    hf_id: str = ""
    confidence: str = ""
    n_params: int | None = None
    n_params_active: int | None = None
    n_params_routed: int | None = None
    n_params_input_embedding: int | None = None
    n_params_text: int | None = None
    n_params_hub: int | None = None
    params_class: str = ""
    verified: str = ""
    gap_note: str = ""
    filled_keys: tuple[str, ...] = ()
    notes: str = ""
    hub_aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """One line of the list of models: enough to show and to search."""

    name: str
    hf_id: str = ""
    model_type: str = ""
    n_params: int | None = None
    n_params_active: int | None = None
    confidence: str = ""
    offset: int = 0
    n_bytes: int = 0
    aliases: tuple[str, ...] = ()
