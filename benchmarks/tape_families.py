"""The tape against the trace for every family of language models that transformers has.

::

    python benchmarks/tape_families.py draw --seed 1 > cases.jsonl              # needs transformers
    python benchmarks/tape_families.py trace cases.jsonl > traced.jsonl         # needs torch
    python benchmarks/tape_families.py keep traced.jsonl                        # in traced/families.csv
    python benchmarks/tape_families.py compare [traced.jsonl]

A case is one random config of a family (:mod:`zoo`'s, with wider layers) and options of ``lmsize train``;
a seed always gives the same ones. A class that refuses fused attention, checkpointing or adapters is
traced without. A traced case has the peak of each phase of the second step, in bytes as an
accelerator's allocator gives them; a row keeps its config, so that comparing needs no transformers.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import zoo
from kept import Table
from tape_cases import Case
from tape_rows import PHASES
from tape_vs_trace import compared, traced_peaks

TABLE = Table(
    "families.csv",
    ("case", "options", *(f"{phase}_bytes" for phase in PHASES), "said", "config"),
    key=("case",),
)
WIDER = 8  # times the zoo's widths, so that what varies with them outweighs tables of positions
WIDTHS = (
    "hidden_size d_model n_embd dim embedding_size emb_dim attention_hidden_size lru_width "
    "intermediate_size ffn_dim d_ff n_inner encoder_ffn_dim decoder_ffn_dim hidden_dim ffn_hidden_size "
    "dense_intermediate_size intermediate_size_mlp shared_intermediate_size moe_intermediate_size "
    "shared_expert_intermediate_size expert_ffn_size head_dim kv_channels d_kv v_head_dim "
    "qk_nope_head_dim attention_head_dim"
)
# What a class may refuse, by the option that its refusal names, and what is traced instead.
INSTEAD = {
    "--attention": {"attention": "eager"},
    "--recompute": {"recompute": "none"},
    "--lora-targets": {"method": "full"},
}


def drawn(seed: int, options_of_all: dict[str, str]) -> Iterator[Case]:
    """A case of every family, in the order of their names; some options the same for all of them."""
    from lmsize.errors import LmsizeError

    for family in zoo.families():
        rng = random.Random(zlib.crc32(f"{family} {seed} tape".encode()))
        config, options = _config(family, rng), _options(rng, options_of_all)
        if config is None:
            continue
        try:
            _keep_in_table(config, options)
        except LmsizeError as refusal:
            print(f"{family}: {refusal}", file=sys.stderr)
        else:
            yield {"id": f"{seed}-{family}", "config": config, "options": options}


def _config(family: str, rng: random.Random) -> dict[str, Any] | None:
    """Of the family's class; None where that is another family's, or does not take the sizes."""
    import transformers

    sizes = {k: v * WIDER if k in WIDTHS.split() else v for k, v in zoo.shape(rng).items()}
    try:
        made = zoo.configured(family, sizes)
    except Exception as error:  # noqa: BLE001  # sizes that the class does not take together
        print(f"{family}: {' '.join(str(error).split())}", file=sys.stderr)
        return None
    name = zoo.families()[family]
    cls = getattr(transformers, name)
    is_borrowed = cls.__module__.split(".")[:3] != type(made).__module__.split(".")[:3]
    if not isinstance(made, cls.config_class) or (is_borrowed and hasattr(made, "text_config")):
        return None
    left_out = ("transformers_version", "id2label", "label2id", "_name_or_path")
    found = {k: v for k, v in made.to_dict().items() if v is not None and k not in left_out}
    return found | {"architectures": [name]}


def _options(rng: random.Random, given: dict[str, str]) -> dict[str, Any]:
    options: dict[str, Any] = {
        "method": rng.choice(["full", "full", "lora"]), "quant": None,
        "precision": rng.choice(["fp32", "bf16", "amp-bf16"]),
        "attention": rng.choice(["eager", "sdpa"]), "recompute": rng.choice(["none", "none", "full"]),
        "micro_batch": rng.choice([1, 2, 4]), "seq_len": rng.choice([128, 256, 200]), "grad_accum": 1,
        "optimizer": "adamw",
    } | given  # fmt: skip
    if options["method"] == "lora":
        options |= {"lora_rank": 16, "lora_targets": "all-linear"}
    return options


def _keep_in_table(config: dict[str, Any], options: dict[str, Any]) -> None:
    """A sequence no longer than the model's table of positions."""
    from lmsize.model.read import read_config

    model = read_config(dict(config), name="case")
    if model.learned_positions and model.max_positions:
        options["seq_len"] = min(options["seq_len"], model.max_positions)


def trace(cases: Iterable[Case]) -> None:
    """Print each case with its peaks, or with what is said instead."""
    for case in cases:
        print(json.dumps(_traced(case)), flush=True)
        print(case["id"], file=sys.stderr)


def _traced(case: Case) -> Case:
    try:
        return case | {"peaks": traced_peaks(case)}
    except Exception as error:  # noqa: BLE001  # said in the comparison
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
    for option, instead in INSTEAD.items():
        if option in said and instead.items() - case["options"].items():
            lora = ("lora_rank", "lora_targets") if "method" in instead else ()
            kept = {k: v for k, v in case["options"].items() if k not in lora}
            return _traced(case | {"options": kept | instead})
    return case | {"error": said}


def keep(traced: Iterable[Case]) -> None:
    """Add traced cases to the rows, in the place of older ones."""
    rows = {key[0]: row for key, row in TABLE.rows().items()}
    for case in traced:
        peaks = {f"{p}_bytes": case.get("peaks", {}).get(p, "") for p in PHASES}
        rows[case["id"]] = {
            "case": case["id"], "options": json.dumps(case["options"]), **peaks,
            "said": case.get("error", "")[:200], "config": json.dumps(case["config"]),
        }  # fmt: skip
    TABLE.write(rows[name] for name in sorted(rows, key=_order))


def _order(name: str) -> tuple[int, str]:
    seed, _, family = name.partition("-")
    return int(seed), family


def recorded() -> Iterator[Case]:
    """The traced cases, with their peaks or why there are none."""
    for row in TABLE.rows().values():
        case: Case = {
            "id": row["case"], "config": json.loads(row["config"]),
            "options": json.loads(row["options"]),
        }  # fmt: skip
        peaks = {p: int(row[f"{p}_bytes"]) for p in PHASES if row[f"{p}_bytes"]}
        yield case | ({"error": row["said"]} if row["said"] else {"peaks": peaks})


def _read(path: Path | None) -> Iterator[Case]:
    return recorded() if path is None else map(json.loads, path.read_text("utf-8").splitlines())


def main() -> None:
    """Draw, trace, keep or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("draw", "trace", "keep", "compare"))
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--all", nargs="*", default=[], metavar="OPTION=VALUE", help="for every family"
    )
    asked = parser.parse_args()
    if asked.what == "draw":
        for case in drawn(asked.seed, dict(one.split("=", 1) for one in asked.all)):
            print(json.dumps(case))
        return
    {"trace": trace, "keep": keep, "compare": compared}[asked.what](_read(asked.file))


if __name__ == "__main__":
    main()
