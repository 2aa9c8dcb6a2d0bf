"""Choosing one row where several would do: the price of an hour, a typical utilisation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from lmsize.assumption import Assumption
from lmsize.catalogue.records import (
    Accelerator,
    MfuRow,
    Node,
    Price,
)
from lmsize.errors import InputError

# Experts at least this wide keep their matrix products as large as a dense model's, and run at a
# dense model's utilisation: Mixtral's published runs take 0.34 to 0.51 of the time that the
# median of mixtures with narrow experts predicts (4 calibration rows, 3 kinds of accelerator).
COARSE_EXPERT_WIDTH = 8192
# Ways of selling that count, in order: the next is asked only when the one before has no price.
SOLD = (("cloud",), ("marketplace", "serverless"))


def node_price(nodes: Iterable[Node]) -> Price | None:
    """The lower median, over providers, of each one's lowest on-demand price an hour.

    Marketplaces and serverless offers count only where no cloud has a price. The answer is a
    real row, so its date and its source are that row's.
    """
    priced = [n for n in nodes if n.on_demand_usd_per_accelerator_h is not None]
    for kinds in SOLD:
        cheapest: dict[str, Node] = {}
        for node in sorted((n for n in priced if n.kind in kinds), key=_usd):
            cheapest.setdefault(node.provider, node)
        if cheapest:
            return _median(list(cheapest.values()), kinds)
    return None


def _usd(node: Node) -> float:
    return node.on_demand_usd_per_accelerator_h or 0.0


def _median(rows: Sequence[Node], kinds: Sequence[str]) -> Price:
    ordered = sorted(rows, key=_usd)
    row = ordered[(len(ordered) - 1) // 2]
    rule = (
        f"lower median of the lowest on-demand price of {len(ordered)} provider(s) "
        f"({', '.join(kinds)}): {row.instance} of {row.provider}"
    )
    return Price(
        usd_per_accelerator_h=_usd(row), as_of=row.source_date, source=row.source, node=row,
        low_usd_per_h=_usd(ordered[0]), high_usd_per_h=_usd(ordered[-1]),
        n_providers=len(ordered), rule=rule,
    )  # fmt: skip


def mfu_row(
    rows: Sequence[MfuRow], accelerator: Accelerator, n_params: float, *, is_moe: bool = False,
    method: str = "full", precision: str = "bf16",
) -> tuple[MfuRow, tuple[Assumption, ...]]:  # fmt: skip
    """The narrowest group of published runs: family, else vendor, else all; each by size first.

    Raises:
        InputError: for a number of parameters that is not positive.
    """
    if not 0 < n_params < math.inf:
        raise InputError("parameters", n_params, "a positive number")
    wanted = (
        "moe" if is_moe else "dense",
        "full" if method == "full" else "lora",
        "fp8" if precision == "fp8" else "16-bit",
    )
    for group in (wanted, (*wanted[:2], "16-bit"), ("dense", *wanted[1:2], "16-bit")):
        for family in (accelerator.family, accelerator.vendor, "all"):
            fitting = [
                row for row in rows
                if row.family == family and _group(row) == group
                and row.min_params <= n_params < row.max_params
            ]  # fmt: skip
            if fitting:
                row = min(fitting, key=lambda r: r.max_params - r.min_params)
                return row, _looser(row, accelerator, wanted)
    raise InputError("method", method, "a method with published runs")


def _group(row: MfuRow) -> tuple[str, ...]:
    return row.architecture, row.method, row.precision


def _looser(
    row: MfuRow, accelerator: Accelerator, wanted: tuple[str, ...]
) -> tuple[Assumption, ...]:
    if row.family == accelerator.family and _group(row) == wanted:
        return ()
    text = (
        f"too few published runs of {', '.join(wanted)} on {accelerator.family}: "
        f"utilisation of {', '.join(_group(row))} on {row.family}"
    )
    return (Assumption("mfu-group", text),)
