"""The tables of docs/tape.md and docs/trace.md: the tape beside recorded traces, and what those cost."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from article_tables import table
from tape_cases import Case
from tape_rows import recorded
from tape_vs_trace import error_of, quantile
from traced_catalogue import SETTINGS, TABLE, compared, traced_rows

GROUPS: dict[str, Callable[[Case], bool]] = {
    "all": lambda _case: True,
    "full fine-tuning": lambda case: case["options"]["method"] == "full",
    "LoRA": lambda case: case["options"]["method"] == "lora",
    "QLoRA": lambda case: case["options"]["method"] == "qlora",
    "autocast": lambda case: case["options"]["precision"].startswith("amp"),
    "checkpointing": lambda case: case["options"]["recompute"] == "full",
    "eager attention": lambda case: case["options"]["attention"] == "eager",
}


def against_traces() -> list[str]:
    """By group: cases, and quantiles of their error."""
    cases = [case for case in recorded() if "peaks" in case]
    errors = {case["id"]: abs(error_of(case)[0]) for case in cases}
    seeds = sorted({int(case["id"].partition("-")[0]) for case in cases})
    groups = dict(GROUPS)
    for seed in seeds:
        groups[f"seed {seed}"] = lambda case, seed=seed: case["id"].startswith(f"{seed}-")  # type: ignore[misc]

    def rows() -> Iterator[tuple[str, ...]]:
        for label, belongs in groups.items():
            found = [errors[case["id"]] for case in cases if belongs(case)]
            if found:
                shares = (quantile(found, share) for share in (0.5, 0.9, 0.99, 1.0))
                yield label, str(len(found)), *(f"{share:.3%}" for share in shares)

    return table(("cases", "n", "median", "90th percentile", "99th", "worst"), rows(), n_text=1)


SETTING_WORDS = {
    "full": "full, bf16, 512 tokens",
    "lora": "LoRA, autocast, recomputed, 512",
    "long": "full, autocast, 4,096",
}
SHOWN = ("llama-3.1-8b", "llama-3.1-70b", "llama-3.1-405b", "deepseek-v3")


def against_catalogue() -> list[str]:
    """By setting: models, and quantiles of the tape's error."""
    made = [compared(row) for row in traced_rows()]

    def rows() -> Iterator[tuple[str, ...]]:
        for setting in SETTINGS:
            found = [abs(row["error"]) for row in made if row["setting"] == setting]
            if found:
                shares = (f"{quantile(found, share):.3%}" for share in (0.5, 0.9, 0.99, 1.0))
                yield SETTING_WORDS[setting], str(len(found)), *shares

    head = ("catalogue models", "n", "median", "90th percentile", "99th", "worst")
    return table(head, rows(), n_text=1)


def traced_catalogue() -> list[str]:
    """By setting: what became of the traces, and what they took."""
    known = TABLE.rows().values()

    def rows() -> Iterator[tuple[str, ...]]:
        for setting in SETTINGS:
            mine = [row for row in known if row["setting"] == setting]
            done = [row for row in mine if row["status"] == "traced"]
            seconds = [float(row["seconds"]) for row in done]
            counts = (
                sum(row["status"] == kind for row in mine) for kind in ("refused", "too slow")
            )
            shares = (f"{quantile(seconds, share):.1f}" for share in (0.5, 0.9, 1.0))
            most = max((row["rss_mib"] for row in done if row["rss_mib"]), key=int, default="-")
            yield SETTING_WORDS[setting], str(len(done)), *map(str, counts), *shares, most

    head = (
        "setting",
        "traced",
        "refused",
        "too slow",
        "s, median",
        "90th pct",
        "most",
        "MiB, most",
    )
    return table(head, rows(), n_text=1)


def shown_traces() -> list[str]:
    """Processor seconds of some models, by setting."""
    known = TABLE.rows()

    def seconds(name: str, setting: str) -> str:
        return str(known.get((name, setting), {}).get("seconds") or "-")

    rows = ((name, *(seconds(name, setting) for setting in SETTINGS)) for name in SHOWN)
    return table(("processor seconds", *SETTING_WORDS.values()), rows, n_text=1)


TABLES: dict[str, Callable[[], list[str]]] = {
    "tape-against-traces": against_traces,
    "tape-against-catalogue": against_catalogue,
    "traced-catalogue": traced_catalogue,
    "traced-models": shown_traces,
}
