"""The tape against the trace of one rank of many: FSDP2 at stages 2 and 3, tensor parallelism, both.

::

    python benchmarks/sharded_tape_vs_trace.py draw --number 30 > cases.jsonl
    python benchmarks/sharded_tape_vs_trace.py trace cases.jsonl > traced.jsonl     # needs torch
    python benchmarks/sharded_tape_vs_trace.py compare traced.jsonl
    python benchmarks/sharded_tape_vs_trace.py keep traced.jsonl                    # in traced/sharded.csv

A case is a config and options of ``lmsize train``; a traced case has the peak of each phase of the
second step on rank 0, in bytes as an accelerator's allocator gives them.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path

from kept import Table
from tape_cases import Case
from tape_vs_trace import error_of, taped_peaks, trace

SEEDS = {11: 30, 77: 36, 78: 60}  # those that are written down, and how many cases of each
CLASSES = {
    "llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM",
    "mistral": "MistralForCausalLM", "olmo2": "Olmo2ForCausalLM", "granite": "GraniteForCausalLM",
    "starcoder2": "Starcoder2ForCausalLM", "gemma": "GemmaForCausalLM", "phi3": "Phi3ForCausalLM",
    "gemma2": "Gemma2ForCausalLM", "gpt2": "GPT2LMHeadModel", "gpt_neox": "GPTNeoXForCausalLM",
    "bert": "BertForMaskedLM", "opt": "OPTForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM",
}  # fmt: skip
# Families whose class has a plan for tensor parallelism, and more that FSDP2 takes.
SPREAD = ("llama", "qwen2", "qwen3", "mistral", "olmo2", "granite", "starcoder2", "gemma", "phi3")
SHARDED = (*SPREAD, "gemma2", "gpt2", "gpt_neox", "bert", "opt", "qwen3_moe")
LAYOUTS = ("stage 3", "stage 3", "stage 2", "tp", "tp + stage 3", "tp + stage 2")
TABLE = Table(
    "sharded.csv",
    ("case", "layout", "dp", "tp", "zero", "precision", "method", "recompute", "attention",
     "grad_accum", "traced_bytes", "taped_bytes", "error"),
    key=("case",), order=tuple(
        (f"{seed}-{at}-{family}",) for seed, n in SEEDS.items() for at in range(n) for family in SHARDED
    ),
)  # fmt: skip


def drawn(seed: int, number: int) -> Iterator[Case]:
    """`number` cases, always the same for a seed; every kind of layout in turn."""
    rng = random.Random(seed)
    for at in range(number):
        layout = LAYOUTS[at % len(LAYOUTS)]
        has_tp = layout.startswith("tp")
        family = rng.choice(SPREAD if has_tp else SHARDED)
        options = _options(rng, family, layout)
        yield {
            "id": f"{seed}-{at}-{family}", "layout": layout, "config": _config(rng, family),
            "options": options,
        }  # fmt: skip


def _config(rng: random.Random, family: str) -> Case:
    head_dim, n_heads = rng.choice([64, 128]), rng.choice([8, 16])
    width = head_dim * n_heads
    ffn = rng.choice([2, 3, 4]) * width + rng.choice([0, 0, 40])
    vocab = rng.choice([1000, 32000, 50257, 128256])
    layers, tied = rng.randint(2, 12), rng.random() < 0.3
    config: Case = {
        "model_type": family, "architectures": [CLASSES[family]], "hidden_size": width,
        "num_hidden_layers": layers, "num_attention_heads": n_heads, "vocab_size": vocab,
        "intermediate_size": ffn, "max_position_embeddings": 4096, "tie_word_embeddings": tied,
    }  # fmt: skip
    if family == "gpt2":
        config |= {"n_embd": width, "n_layer": layers, "n_head": n_heads, "n_positions": 4096}
        config |= {"n_inner": ffn}
    elif family == "opt":
        config |= {"ffn_dim": ffn, "word_embed_proj_dim": width}
    elif family not in ("bert", "gpt_neox"):
        config |= {"num_key_value_heads": rng.choice([4, n_heads]), "head_dim": head_dim}
        config |= {"pad_token_id": 0}
    if family == "qwen3_moe":
        config |= {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": ffn // 4}
    return config


def _options(rng: random.Random, family: str, layout: str) -> Case:
    has_tp = layout.startswith("tp")
    tp = rng.choice([2, 4]) if has_tp else 1
    dp = 1 if layout == "tp" else rng.choice([2, 3, 8, 16] if has_tp else [2, 3, 8, 24, 64])
    # Over tensor-parallel ranks peft spreads adapters of some layers only.
    method = "full" if has_tp else rng.choices(["full", "lora"], [3, 1])[0]
    return {
        "method": method, "precision": rng.choice(["fp32", "bf16", "amp-bf16", "amp-bf16"]),
        "attention": "eager" if family == "gemma2" else rng.choice(["sdpa", "sdpa", "eager"]),
        "recompute": rng.choice(["none", "none", "full"]), "micro_batch": rng.choice([1, 2, 4]),
        "seq_len": rng.choice([128, 512, 1021, 2048]), "grad_accum": rng.choice([1, 1, 1, 2]),
        "optimizer": rng.choice(["adamw", "adamw", "adamw-fused", "sgd"]),
        "accelerators": dp * tp, "tp": tp,
        "zero": int(layout[-1]) if layout[-1].isdigit() else 0,
    }  # fmt: skip


def recorded_errors() -> Iterator[float]:
    """How far the tape is from every trace that was put down."""
    cases = {case["id"]: case for seed, n in SEEDS.items() for case in drawn(seed, n)}
    for row in TABLE.rows().values():
        taped, _ = taped_peaks(cases[row["case"]])
        yield max(taped.values()) / int(row["traced_bytes"]) - 1


def compared(cases: Iterable[Case], table: Table | None) -> None:
    """Print each case's error and their distribution; add them to what is written down if asked to."""
    rows = []
    for case in cases:
        if "error" in case:
            print(f"{case['id']:<18} not traced: {case['error'][:160]}")
            continue
        error, parts = error_of(case)
        options, traced = case["options"], max(case["peaks"].values())
        row = {"case": case["id"], "dp": options["accelerators"] // options["tp"], **options}
        row |= {"layout": case["layout"], "traced_bytes": traced}
        rows.append(row | {"taped_bytes": round(traced * (1 + error)), "error": f"{error:.5f}"})
        said = " ".join(f"{v}" for v in options.values())
        print(f"{case['id']:<18} {error:+8.3%} {parts} [{said}]")
    errors = sorted(abs(float(row["error"])) for row in rows)
    print(f"n={len(errors)} median={statistics.median(errors):.3%} worst={errors[-1]:.3%}")
    for row in rows if table is not None else ():
        table.add(row)


def main() -> None:
    """Draw, trace, compare or keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("draw", "trace", "compare", "keep"))
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--number", type=int, default=30)
    asked = parser.parse_args()
    if asked.what == "draw":
        for case in drawn(asked.seed, asked.number):
            print(json.dumps(case))
        return
    cases = map(json.loads, asked.file.read_text("utf-8").splitlines())
    if asked.what == "trace":
        trace(cases)
    else:
        compared(cases, TABLE if asked.what == "keep" else None)


if __name__ == "__main__":
    main()
