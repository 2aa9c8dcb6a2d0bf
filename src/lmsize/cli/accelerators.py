"""``lmsize accelerators``."""

from __future__ import annotations

import click

from lmsize.cli.options import option


@click.command("accelerators")
@click.argument("pattern", default="")
@option("--catalogue", metavar="FILE", help="Your own rows (TOML or CSV), over the package's.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(pattern: str, catalogue: str | None, as_json: bool) -> int:
    """List the accelerators whose name, alias or vendor holds PATTERN (or fits a glob)."""
    from dataclasses import asdict

    from lmsize.api.training import opened
    from lmsize.cli.output import print_json

    rows = opened(catalogue)
    found = rows.accelerators(pattern)
    prices = [rows.price(row) for row in found]
    if as_json:
        print_json({
            "accelerators": [
                {**asdict(row), "usd_per_h": price.usd_per_accelerator_h if price else None,
                 "usd_as_of": price.as_of if price else None}
                for row, price in zip(found, prices, strict=True)
            ]
        })  # fmt: skip
        return 0
    from lmsize.quantity import format_bytes
    from lmsize.report.listing import show_listing

    show_listing(
        ("name", "memory", "bandwidth", "16-bit TFLOP/s", "W", "USD/h", "as of"),
        [
            (
                row.name, format_bytes(row.capacity_bytes),
                f"{row.memory_bandwidth_bytes_per_s / 1e9:,.0f} GB/s",
                _tera(row.bf16_flops_per_s or row.fp16_flops_per_s), f"{row.tdp_w or '':g}" if row.tdp_w else "",
                f"{price.usd_per_accelerator_h:.2f}" if price else "", price.as_of if price else "",
            )
            for row, price in zip(found, prices, strict=True)
        ],
        nothing=f"no accelerator matches {pattern!r}",
    )  # fmt: skip
    return 0


def _tera(rate: float | None) -> str:
    return f"{rate / 1e12:,.1f}" if rate else ""
