"""Build the catalogue's own data files from collected facts.

    python tools/build_catalogue.py CATALOGUE_DIR TRUTH_DIR

CATALOGUE_DIR holds ``accelerators.csv``, ``nodes.csv`` and ``models/*.json``; TRUTH_DIR the
measurements (``throughput.csv``, ``memory.csv``). What was decided by hand (capacities, aliases,
added rows, disagreements) lies beside this file in ``catalogue_facts/``.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from build_mfu_table import build_mfu

FACTS = Path(__file__).parent / "catalogue_facts"
DATA = Path(__file__).parent.parent / "src/lmsize/catalogue/data"
COLLECTED = "2026-11"
MIB, GIB = 2**20, 2**30

ACCELERATOR_COLUMNS = (
    "name", "vendor", "family", "form_factor", "marketed_gb", "reported_bytes", "capacity_bytes",
    "capacity_is_assumed", "capacity_source", "memory_bandwidth_bytes_per_s", "fp32_flops_per_s",
    "tf32_flops_per_s", "fp16_flops_per_s", "bf16_flops_per_s", "fp8_flops_per_s",
    "int8_ops_per_s", "fp4_flops_per_s", "achievable_bf16_flops_per_s", "link",
    "link_bytes_per_s", "pcie", "tdp_w", "launch_year", "named_only", "aliases", "source",
    "source_date", "unsourced", "notes",
)  # fmt: skip
RATES = {
    "memory_bandwidth_gbs": ("memory_bandwidth_bytes_per_s", 1e9),
    "fp32_tflops": ("fp32_flops_per_s", 1e12),
    "tf32_tflops_dense": ("tf32_flops_per_s", 1e12),
    "fp16_tflops_dense": ("fp16_flops_per_s", 1e12),
    "bf16_tflops_dense": ("bf16_flops_per_s", 1e12),
    "fp8_tflops_dense": ("fp8_flops_per_s", 1e12),
    "int8_tops_dense": ("int8_ops_per_s", 1e12),
    "fp4_tflops_dense": ("fp4_flops_per_s", 1e12),
    "achievable_bf16_tflops_measured": ("achievable_bf16_flops_per_s", 1e12),
    "intra_node_gbs_per_direction": ("link_bytes_per_s", 1e9),
}
# Where no driver figure was found: usable bytes from the printed size, by vendor.
RULES = {
    "NVIDIA": (0.99 * GIB, "printed GB read as GiB, less 1 %"),
    "AMD": (0.9985 * GIB, "printed GB read as GiB, less 0.15 % (as MI300X)"),
    "Google": (0.98 * GIB, "printed GB read as GiB, less 2 % that the runtime keeps"),
    "AWS": (0.98 * GIB, "printed GB read as GiB, less 2 % that the runtime keeps"),
    "Intel": (0.98 * GIB, "printed GB read as GiB, less 2 % that the driver keeps"),
    "Apple": (0.75 * GIB, "three quarters of unified memory (Metal's recommended working set)"),
}


# A remark in ``nodes.csv`` whose quotation mark is not closed.
OPEN_QUOTE = re.compile(r',"([\d.]+ in public notes),')
# Cards whose two halves software sees as devices of their own, and what a half is called here.
TWO_DEVICES = {"MI250X": "MI250X-GCD", "Data Center GPU Max 1550": "Data Center GPU Max 1550-stack"}


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file as dictionaries of text; every row must be whole."""
    text = OPEN_QUOTE.sub(r',"\1",', path.read_text("utf-8"))
    header, *lines = csv.reader(text.splitlines(), strict=True)
    return [dict(zip(header, line, strict=True)) for line in lines]


def write_rows(name: str, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Write one of the package's CSV files."""
    with (DATA / name).open("w", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(lines, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def exact(text: str, factor: float) -> str:
    """A figure in base units, without binary noise; empty stays empty."""
    return f"{float(text) * factor:.6g}".replace("e+", "e") if text else ""


def one_device(row: dict[str, str]) -> dict[str, str]:
    """A card that software sees as two devices: the row of one of them."""
    if row["name"] not in TWO_DEVICES:
        return row
    halved = ["memory_gb", "memory_bandwidth_gbs", "tdp_w", "int8_tops_dense"]
    halved += [column for column in RATES if "tflops" in column]
    half = {k: f"{float(row[k]) / 2:g}" for k in halved if row[k]}
    note = "one of the two devices of a card: half of its memory, bandwidth, rates and power"
    name = TWO_DEVICES[row["name"]]
    return {**row, **half, "name": name, "flags": f"{row['flags']}; {note}"}


def capacity(row: Mapping[str, str], known: Mapping[str, Mapping[str, str]]) -> dict[str, object]:
    """Usable and reported bytes: a driver's figure where one was found, else the vendor's rule."""
    fact = known.get(row["name"], {})
    if fact.get("usable_gib"):
        usable, source = float(fact["usable_gib"]) * GIB, fact["source"]
        assumed = fact["assumed"] or "false"
    else:
        factor, source = RULES[row["vendor"]]
        usable, assumed = float(row["memory_gb"]) * factor, "true"
    return {
        "reported_bytes": exact_int(fact.get("reported_mib", ""), MIB),
        "capacity_bytes": round(usable / MIB) * MIB,
        "capacity_is_assumed": assumed, "capacity_source": source,
    }  # fmt: skip


def build_accelerators(folder: Path) -> None:
    """``accelerators.csv`` in base units, with capacities, aliases and decisions."""
    known = {row["name"]: row for row in read_rows(FACTS / "capacities.csv")}
    aliases = {row["name"]: row for row in read_rows(FACTS / "aliases.csv")}
    decided: dict[str, dict[str, str]] = {}
    for row in read_rows(FACTS / "decisions.csv"):
        decided.setdefault(row["name"], {})[row["field"]] = row["reason"]
    rows: list[dict[str, object]] = []
    for raw in read_rows(folder / "accelerators.csv") + read_rows(FACTS / "added_accelerators.csv"):
        row = one_device(raw)
        alias = aliases.get(row["name"], {})
        reasons = [f"{field}: {why}" for field, why in decided.get(row["name"], {}).items()]
        notes = "; ".join(filter(None, [row["flags"].strip("; "), *reasons]))
        rows.append({
            "name": row["name"], "vendor": row["vendor"],
            "family": alias.get("family") or row["name"],
            "form_factor": alias.get("form_factor") or "SoC",
            "marketed_gb": row["memory_gb"], **capacity(row, known),
            **{new: exact(row[old], factor) for old, (new, factor) in RATES.items()},
            "link": row["intra_link"], "pcie": row["pcie"].strip("-"), "tdp_w": row["tdp_w"],
            "launch_year": row["launch_year"], "named_only": alias.get("named_only", ""),
            "aliases": alias.get("aliases", ""), "source": row["sources"].strip(),
            "source_date": COLLECTED, "unsourced": row["unsourced_or_derived"].strip(", "),
            "notes": notes,
        })  # fmt: skip
    write_rows("accelerators.csv", ACCELERATOR_COLUMNS, rows)


def node_kind(provider: str) -> str:
    """How a provider sells: marketplace, serverless, on-prem or cloud."""
    for word, kind in (("Vast", "marketplace"), ("serverless", "serverless"), ("on-prem",) * 2):
        if word in provider:
            return kind
    return "cloud"


def build_nodes(folder: Path) -> None:
    """``nodes.csv``: prices an accelerator-hour, links and networks in bytes a second."""
    rows = []
    for row in read_rows(folder / "nodes.csv"):
        count = int(row["gpus_per_node"] or 1)
        spot, network = row["spot_usd_per_h"], row["network_and_host_source"].strip("; ")
        rows.append({
            "instance": row["instance"], "provider": row["provider"],
            "kind": node_kind(row["provider"]), "accelerator": row["gpu"],
            "n_accelerators": count, "link": row["intra_link"],
            "link_bytes_per_s": exact(row["intra_gbs_per_direction_per_gpu"], 1e9),
            "network": row["network_type"],
            "network_bytes_per_s": exact(row["inter_node_network_gbps"], 1e9 / 8),
            "network_source": network,
            "n_vcpus": row["vcpus"], "host_memory_bytes": exact_int(row["host_ram_gib"], GIB),
            "on_demand_usd_per_accelerator_h": row["ondemand_usd_per_gpu_h"],
            "spot_usd_per_accelerator_h": f"{float(spot) / count:.6g}" if spot else "",
            "purchase_usd": purchase_usd(row["price_source"]), "region": row["price_region"],
            "source": row["price_source"].strip(" ,") or network or "unsourced",
            "source_date": row["price_date"] or COLLECTED,
            "second_price": row["second_price"].strip(" ,"), "notes": row["notes"],
        })  # fmt: skip
    write_rows("nodes.csv", list(rows[0]), rows)


def purchase_usd(text: str) -> str:
    """The list price of a node that is bought, from the note on its source."""
    found = re.search(r"(\d{5,}) USD", text)
    return found[1] if found else ""


def exact_int(text: str, factor: int) -> str:
    """A whole figure in base units; empty stays empty."""
    return str(round(float(text) * factor)) if text else ""


DROPPED = frozenset(
    {
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "cls_token_id",
        "sep_token_id",
        "decoder_start_token_id",
        "initializer_range",
        "initializer_factor",
        "initializer_cutoff_factor",
        "transformers_version",
        "transformers.js_config",
        "tokenizer_class",
        "use_cache",
        "output_past",
        "cache_implementation",
        "image_token_id",
        "video_token_id",
        "audio_token_id",
        "image_token_index",
        "boi_token_id",
        "eoi_token_id",
        "boi_token_index",
        "eoi_token_index",
        "boa_token_id",
        "eoa_token_id",
        "eoa_token_index",
        "vision_start_token_id",
        "vision_end_token_id",
        "image_placeholder",
        "video_placeholder",
        "media_placeholder_token_id",
        "problem_type",
        "return_dict",
        "output_attentions",
        "output_hidden_states",
        "ignore_index",
        "summary_first_dropout",
    }
)


def kept(value: Any) -> Any:
    """A config without tokens, start values and other keys that decide no shape."""
    if isinstance(value, dict):
        return {
            key: kept(member)
            for key, member in value.items()
            if key not in DROPPED and not key.startswith("_")
        }
    return [kept(member) for member in value] if isinstance(value, list) else value


def model_line(raw: Mapping[str, Any]) -> dict[str, Any]:
    """One line of ``models.jsonl``."""
    notes = [raw.get(k, "") for k in ("_params_note", "_provenance_note", "_ffn_note", "_note")]
    line = {
        "name": raw["_name"], "hf_id": "" if raw["_hf_id"].startswith("(") else raw["_hf_id"],
        "source": raw["_source"], "source_date": COLLECTED, "confidence": raw["_confidence"],
        "n_params": raw.get("_params_exact"), "n_params_active": raw.get("_params_active_per_token"),
        "n_params_routed": raw.get("_params_routed_experts"),
        "n_params_input_embedding": raw.get("_params_input_embedding"),
        "n_params_text": raw.get("_params_text_model"),
        "n_params_hub": raw.get("_params_hf_reported"),
        "params_class": raw.get("_params_class", ""), "verified": raw.get("_params_verified", ""),
        "gap_note": raw.get("_params_gap_note", ""),
        "filled_keys": raw.get("_filled_from_transformers_defaults", []),
        "notes": "; ".join(str(n) for n in notes if n), "config": kept(raw),
    }  # fmt: skip
    return {key: value for key, value in line.items() if value not in (None, "", [])}


def build_models(folder: Path) -> None:
    """``models.jsonl`` and ``models_index.csv``, which says where each line begins."""
    hub = {row["name"]: row["hub_aliases"] for row in read_rows(FACTS / "hub_aliases.csv")}
    columns = ("name", "hf_id", "model_type", "n_params", "n_params_active", "confidence", "offset",
               "n_bytes", "aliases")  # fmt: skip
    offset, index = 0, []
    with (DATA / "models.jsonl").open("wb") as lines:
        for path in sorted((folder / "models").glob("*.json")):
            line = model_line(json.loads(path.read_text("utf-8")))
            text = json.dumps(line, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
            lines.write(text)
            index.append({
                **{c: line.get(c, "") for c in columns}, "offset": offset, "n_bytes": len(text),
                "model_type": line["config"].get("model_type", ""),
                "aliases": hub.get(line["name"], ""),
            })  # fmt: skip
            offset += len(text)
    write_rows("models_index.csv", columns, index)


def main(catalogue: Path, truth: Path) -> None:
    """Write every built table."""
    build_accelerators(catalogue)
    build_nodes(catalogue)
    build_models(catalogue)
    build_mfu(truth, DATA)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
