"""The tape against the trace: random configurations, and the catalogue at its real shape.

::

    python benchmarks/tape_vs_trace.py catalogue > cases.jsonl
    python benchmarks/tape_vs_trace.py draw --seed 1 --number 300 > cases.jsonl
    python benchmarks/tape_vs_trace.py trace cases.jsonl > traced.jsonl     # needs torch
    python benchmarks/tape_vs_trace.py compare traced.jsonl

A case is a config and options of ``lmsize train``; a traced case has the peak of each phase of the
second step, in bytes as an accelerator's allocator gives them.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

Case = dict[str, Any]
CLASSES = {
    "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM", "gemma2": "Gemma2ForCausalLM", "gpt2": "GPT2LMHeadModel",
    "bert": "BertForMaskedLM", "gpt_neox": "GPTNeoXForCausalLM", "phi3": "Phi3ForCausalLM",
    "olmo2": "Olmo2ForCausalLM", "t5": "T5ForConditionalGeneration",
    "mixtral": "MixtralForCausalLM", "opt": "OPTForCausalLM", "phi": "PhiForCausalLM",
    "starcoder2": "Starcoder2ForCausalLM", "gemma": "GemmaForCausalLM", "cohere": "CohereForCausalLM",
    "stablelm": "StableLmForCausalLM", "roberta": "RobertaForMaskedLM", "olmo": "OlmoForCausalLM",
    "granite": "GraniteForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM", "bloom": "BloomForCausalLM",
}  # fmt: skip

_SHORT = {"micro_batch": 1, "seq_len": 512, "optimizer": "adamw"}
CATALOGUE_SETTINGS: dict[str, Case] = {
    "bf16": _SHORT | {"precision": "bf16"},
    "amp-ckpt": _SHORT | {"precision": "amp-bf16", "recompute": "full"},
    "lora": _SHORT | {"precision": "bf16", "method": "lora"},
}


def drawn(seed: int, number: int) -> Iterator[Case]:
    """`number` cases, always the same for a seed."""
    rng = random.Random(seed)
    for at in range(number):
        family = rng.choice(sorted(CLASSES))
        config = _config(rng, family)
        yield {"id": f"{seed}-{at}-{family}", "config": config, "options": _options(rng, family)}


def _config(rng: random.Random, family: str) -> Case:
    head_dim = rng.choice([32, 64, 128])
    n_heads = rng.choice([4, 8, 12, 16])
    kv = rng.choice([k for k in (1, 2, 4, n_heads) if n_heads % k == 0])
    width = head_dim * n_heads
    ffn = rng.choice([2, 3, 4]) * width
    vocab = rng.choice([1000, 8000, 32000, 50257, 128000, 256000])
    layers = rng.randint(2, 12)
    tied = rng.random() < 0.4
    usual = {
        "model_type": family, "architectures": [CLASSES[family]], "hidden_size": width,
        "num_hidden_layers": layers, "num_attention_heads": n_heads, "vocab_size": vocab,
        "intermediate_size": ffn, "max_position_embeddings": 4096, "tie_word_embeddings": tied,
    }  # fmt: skip
    if family in ("llama", "mistral", "qwen2", "qwen3", "gemma2", "phi3", "olmo2", "mixtral"):
        usual |= {"num_key_value_heads": kv, "head_dim": head_dim, "pad_token_id": 0}
    if family in ("starcoder2", "gemma", "cohere", "stablelm", "granite", "qwen3_moe"):
        usual |= {"num_key_value_heads": kv, "head_dim": head_dim, "pad_token_id": 0}
    if family == "qwen3_moe":
        usual |= {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": ffn // 4}
    if family == "bloom":
        usual |= {"n_layer": layers, "n_head": n_heads}
    if family == "gpt2":
        return {
            "model_type": family, "architectures": [CLASSES[family]], "n_embd": width,
            "n_layer": layers, "n_head": n_heads, "vocab_size": vocab, "n_positions": 4096,
            "n_inner": ffn,
        }  # fmt: skip
    if family == "t5":
        return {
            "model_type": family, "architectures": [CLASSES[family]], "d_model": width,
            "d_kv": head_dim, "d_ff": ffn, "num_layers": layers, "num_heads": n_heads,
            "vocab_size": vocab, "feed_forward_proj": rng.choice(["relu", "gated-gelu"]),
            "tie_word_embeddings": True, "decoder_start_token_id": 0, "pad_token_id": 0,
        }  # fmt: skip
    if family == "mixtral":
        usual |= {"num_local_experts": 4, "num_experts_per_tok": 2, "num_hidden_layers": 2}
    if family == "opt":
        usual |= {"ffn_dim": ffn, "word_embed_proj_dim": width}
    return usual


def _options(rng: random.Random, family: str) -> Case:
    method = rng.choices(["full", "lora"], [3, 1])[0]
    return {
        "method": method, "precision": rng.choice(["fp32", "bf16", "amp-bf16"]),
        "attention": "eager" if family == "gemma2" else rng.choice(["sdpa", "sdpa", "eager"]),
        "recompute": "none" if family == "t5" else rng.choice(["none", "none", "full"]),
        "micro_batch": rng.choice([1, 2, 4, 8]), "seq_len": rng.choice([128, 512, 1024, 2048]),
        "grad_accum": rng.choice([1, 1, 1, 2]),
        "optimizer": rng.choice(["adamw", "adamw", "adamw-fused", "sgd"]),
    }  # fmt: skip


def catalogue_cases() -> Iterator[Case]:
    """Every model of the catalogue at its real shape, in three settings."""
    from lmsize.catalogue import built_in

    for summary in built_in().models():
        found = built_in().find_model(summary.name)
        if found is None:
            continue
        for name, options in CATALOGUE_SETTINGS.items():
            case = {"id": f"{summary.name}-{name}", "config": dict(found[0].config)}
            yield case | {"options": options}


def traced_peaks(case: Case) -> dict[str, int]:
    """Bytes of the fullest instant of each phase of the second step."""
    from lmsize.step.training import built_step
    from lmsize.tracing.peaks import in_blocks, peaks
    from lmsize.tracing.running import Device, traced
    from lmsize.workload.training import TrainSpec, with_defaults

    spec, _ = with_defaults(TrainSpec(**case["options"]), max_positions=None)
    by_name = "foreach" if spec.optimizer != "adamw-fused" else None

    def build() -> Any:
        return built_step(
            case["config"], spec, device="cuda", scale_loss=False, optimizer_implementation=by_name
        )

    found = peaks(traced(build, Device("cuda")).entries, in_blocks)
    return {p.phase[2:]: p.n_bytes for p in found if p.phase.startswith("2.")}


def taped_peaks(case: Case) -> tuple[dict[str, float], bool]:
    """The same by the analytic engine, and whether the tape gave it."""
    from lmsize.catalogue import built_in
    from lmsize.estimate.question import training_question
    from lmsize.memory.training import training_peak
    from lmsize.model.read import read_config
    from lmsize.workload.training import TrainSpec

    question = training_question(
        read_config(case["config"], name="case"), TrainSpec(**case["options"]), built_in(),
        accelerator=None, today=date(2026, 1, 1),
    )  # fmt: skip
    peak = training_peak(question.setup)
    by_phase: dict[str, float] = defaultdict(float)
    for moment in peak.children:
        phase = {"forward": "forward", "optimizer_step": "optimizer"}.get(moment.label, "backward")
        by_phase[phase] = max(by_phase[phase], float(moment.value))
    return dict(by_phase), not question.setup.blocks_by_parts


def compared(lines: Iterator[str]) -> None:
    """Print each case's error, and their distribution."""
    from lmsize.errors import LmsizeError

    errors = []
    for line in lines:
        case = json.loads(line)
        if "error" in case:
            print(f"{case['id']:<16} not traced: {case['error'][:120]}")
            continue
        try:
            taped, is_taped = taped_peaks(case)
        except LmsizeError as error:
            print(f"{case['id']:<16} refused: {error}")
            continue
        real = max(case["peaks"].values())
        error = max(taped.values()) / real - 1
        errors.append(abs(error))
        parts = " ".join(
            f"{phase}={taped.get(phase, 0) / case['peaks'][phase] - 1:+.2%}"
            for phase in ("forward", "backward", "optimizer")
            if phase in case["peaks"]
        )
        said = " ".join(f"{v}" for k, v in case["options"].items())
        print(f"{case['id']:<18} {error:+8.3%} {'' if is_taped else 'TEXTBOOK '}{parts} [{said}]")
    ordered = sorted(errors)
    print(
        f"n={len(ordered)} median={statistics.median(ordered):.4%} "
        f"p90={ordered[int(0.9 * len(ordered))]:.3%} p99={ordered[int(0.99 * len(ordered))]:.3%} "
        f"worst={ordered[-1]:.3%}"
    )


def main() -> None:
    """Draw, trace or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("draw", "catalogue", "trace", "compare"))
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--number", type=int, default=300)
    asked = parser.parse_args()
    if asked.what in ("draw", "catalogue"):
        drawing = drawn(asked.seed, asked.number) if asked.what == "draw" else catalogue_cases()
        for case in drawing:
            print(json.dumps(case))
        return
    lines = iter(asked.file.read_text("utf-8").splitlines())
    if asked.what == "compare":
        compared(lines)
        return
    for line in lines:
        case = json.loads(line)
        try:
            case["peaks"] = traced_peaks(case)
        except Exception as error:  # noqa: BLE001  # said in the comparison
            case["error"] = f"{type(error).__name__}: {error}"
        print(json.dumps(case), flush=True)
        print(case["id"], file=sys.stderr)


if __name__ == "__main__":
    main()
