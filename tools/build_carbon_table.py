"""Build the table of grid carbon intensities from the data of codecarbon (MIT).

    python tools/build_carbon_table.py CODECARBON_DIR

CODECARBON_DIR is the unpacked package, e.g. of ``pip download codecarbon``.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

DATA = Path(__file__).parent.parent / "src/lmsize/catalogue/data"
COLUMNS = ("region", "name", "kind", "g_co2e_per_kwh", "year", "aliases", "source", "source_date")
# Figures that stand for the world and for codes people type.
WORLD = {
    "region": "WORLD", "name": "World average", "kind": "world", "g_co2e_per_kwh": 480,
    "year": 2023, "aliases": "global;default",
    "source": "Ember, Global Electricity Review 2024", "source_date": "2026-11",
}  # fmt: skip
# Codes that people type, and cloud regions without a figure of their own, by country.
SHORT = {
    "USA": "US;United States of America;us-east-1;us-east-2;us-west-1;us-west-2;eastus;eastus2;"
    "westus;westus2;westus3;southcentralus;centralus;northcentralus;us-east;us-west",
    "GBR": "UK;GB;Great Britain;eu-west-2;uksouth", "DEU": "DE;eu-central-1;germanywestcentral",
    "FRA": "FR;eu-west-3;francecentral", "CHN": "CN", "IND": "IN;ap-south-1;centralindia",
    "JPN": "JP;ap-northeast-1;japaneast", "CAN": "CA;ca-central-1;canadacentral",
    "AUS": "AU;ap-southeast-2;australiaeast", "SWE": "SE;eu-north-1;swedencentral", "NOR": "NO",
    "FIN": "FI", "NLD": "NL;westeurope", "IRL": "IE;eu-west-1;northeurope", "ESP": "ES;eu-south-2",
    "ITA": "IT;eu-south-1", "POL": "PL", "KOR": "KR;ap-northeast-2;koreacentral",
    "BRA": "BR;sa-east-1;brazilsouth", "SGP": "SG;ap-southeast-1;southeastasia",
    "CHE": "CH;switzerlandnorth", "DNK": "DK", "ISL": "IS", "TWN": "TW",
}  # fmt: skip


def countries(folder: Path) -> list[dict[str, object]]:
    """One row a country, with the year of its figure."""
    path = folder / "data/private_infra/global_energy_mix.json"
    mixes = json.loads(path.read_text("utf-8"))
    return [
        {
            "region": code, "name": mix["country_name"], "kind": "country",
            "g_co2e_per_kwh": mix["carbon_intensity"], "year": mix["year"],
            "aliases": SHORT.get(code, ""),
            "source": "codecarbon 3.3.2, global_energy_mix.json (Our World in Data)",
            "source_date": "2026-11",
        }
        for code, mix in mixes.items() if mix.get("carbon_intensity")
    ]  # fmt: skip


def clouds(folder: Path) -> list[dict[str, object]]:
    """One row a cloud region; the file gives no year, so that of the package's release stands."""
    rows = []
    with (folder / "data/cloud/impact.csv").open(encoding="utf-8-sig", newline="") as lines:
        for row in csv.DictReader(lines):
            if row["impact"] and float(row["impact"]) > 0:
                place = row["city"] or row["state"] or row["country_name"]
                rows.append({
                    "region": f"{row['provider']}:{row['region']}",
                    "name": f"{row['providerName']} {row['region']} ({place})",
                    "kind": "cloud", "g_co2e_per_kwh": float(row["impact"]), "year": 2024,
                    "aliases": row["region"],
                    "source": f"codecarbon 3.3.2, impact.csv: {row['source'] or 'no source given'}",
                    "source_date": "2026-11",
                })  # fmt: skip
    return rows


def main(folder: Path) -> None:
    """Write ``carbon.csv``."""
    with (DATA / "carbon.csv").open("w", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(lines, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows([WORLD, *countries(folder), *clouds(folder)])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
