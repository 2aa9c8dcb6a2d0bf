"""The tables of docs/article.md, each made from commands and from the catalogue."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from lmsize.catalogue import built_in
from lmsize.catalogue.tables import mfu
from refresh_docs import figure

BERT = "lmsize train bert-base-uncased"
PEAK = "memory.peak_allocated_bytes"
COMPONENT = "memory.components"
PEAK_A100 = 312e12
EXAMPLES = (
    "https://github.com/NVIDIA/DeepLearningExamples/tree/master/PyTorch/LanguageModeling/BERT"
)
# From the README there, A100 80 GB, mixed precision:
# what was run, accelerators, sequences a second on one and on all of them.
SCALING = (
    ("pre-training, 512 tokens, 32 sequences each", 8, 210.0, 1657.0),
    ("pre-training, 512 tokens, 32 sequences each", 256, 210.0, 49663.0),
    ("fine-tuning, 384 tokens, 32 sequences each", 8, 110.5, 846.7),
)
BERT_LARGE = "lmsize train bert-large-uncased --engine rules --seq-len 512"
FOUNDRY = (
    "[llm-foundry](https://github.com/mosaicml/llm-foundry/tree/main/scripts/train/benchmarking)"
)
# Where it was printed: what ran, on what, model FLOPs over the dense peak, remark, source.
PUBLISHED = (
    ("MPT-7B, BF16", "8 A100", "64 %", "", FOUNDRY),
    ("Llama 3.1 8B, BF16", "8 H100", "62 %", "",
     "[dgxc-benchmarking](https://github.com/NVIDIA/dgxc-benchmarking)"),
    ("GPT, 1T parameters", "3,072 A100", "52 %", "recomputation counted as work",
     "[Narayanan et al. 2021](https://arxiv.org/abs/2104.04473)"),
    ("PaLM 540B", "6,144 TPU v4", "46 %", "58 % with recomputation counted",
     "[Chowdhery et al. 2022](https://arxiv.org/abs/2204.02311)"),
    ("MPT-13B, BF16", "8 A100", "59 %", "79 % with recomputation counted", FOUNDRY),
)  # fmt: skip


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, n_text: int = 1) -> list[str]:
    """Lines of a Markdown table; columns after the first `n_text` are numbers."""
    marks = ["---" if n < n_text else "--:" for n in range(len(head))]
    return [f"| {' | '.join(cells)} |" for cells in (head, marks, *rows)]


def gb(value: float | None) -> str:
    """Bytes as GB (10^9); a dash for what is absent."""
    return "–" if value is None else f"{value / 1e9:,.1f}"


def precisions() -> list[str]:
    """The article's multipliers, and what a real model of that size stores."""
    rows = []
    for name, option, said in (
        ("FP32", "--precision fp32", "×4"), ("FP16", "--precision fp16", "×2"),
        ("INT8", "--quant int8", "×1"), ("INT4", "--quant int4", "÷2"),
    ):  # fmt: skip
        rule = f"lmsize infer --engine rules --params 1B {option}"
        real = f"lmsize infer llama-3.2-1b {option}"
        held = figure(real, f"{COMPONENT}.weights")
        each = held / figure(real, "parameters.total")
        weights = gb(figure(rule, f"{COMPONENT}.weights"))
        rows.append((name, said, f"`{rule}`", weights, gb(held), f"{each:.2f}"))
    head = (
        "type",
        "said",
        "command",
        "1B by the rule, GB",
        "Llama-3.2-1B, GB",
        "its bytes a parameter",
    )
    return table(head, rows, n_text=3)


def decoding() -> list[str]:
    """What a narrower type does to memory, FLOPs and time of serving."""
    rows = []
    for name, option in (
        ("FP32", "--precision fp32"), ("BF16", "--precision bf16"),
        ("INT8 weights", "--quant int8"), ("NF4 weights", "--quant nf4"),
    ):  # fmt: skip
        command = f"lmsize infer llama-2-13b {option} -g a100-80gb"
        flops = figure(command, "compute.model_flops_per_step")
        each = figure(command, "serving.decode_s_per_token")
        weights = gb(figure(command, f"{COMPONENT}.weights"))
        rows.append((name, f"`{option}`", weights, f"{flops / 1e12:.1f}", f"{each * 1e3:.1f}"))
    head = ("type", "option", "weights, GB", "TFLOP of a prompt", "ms a token")
    return table(head, rows, n_text=2)


def optimizers() -> list[str]:
    """What each optimizer keeps for BERT-base."""
    rows = []
    for name in ("sgd", "sgd-momentum", "adam", "lamb"):
        optimizer = built_in().optimizer(name)
        command = f"lmsize train --engine rules --params 110M --precision fp32 --optimizer {name}"
        kept = [s.name for s in optimizer.states if s.shape == "like"]
        states = figure(command, f"{COMPONENT}.optimizer_states")
        rows.append((
            optimizer.label, f"`{name}`", ", ".join(f"`{k}`" for k in kept) or "nothing",
            f"{states / 1e6:,.0f}", f"{figure(command, PEAK) / 1e6:,.0f}",
        ))  # fmt: skip
    head = (
        "optimizer",
        "`--optimizer`",
        "keeps for a parameter",
        "states, MB",
        "with weights and gradients, MB",
    )
    return table(head, rows, n_text=3)


BERT_WAYS = (
    ("FP32, scores kept", "--precision fp32 --attention eager"),
    ("FP32, fused attention", "--precision fp32"),
    ("mixed, scores kept", "--precision amp-bf16 --attention eager"),
    ("mixed, fused attention", "--precision amp-bf16"),
    ("mixed, checkpointing", "--precision amp-bf16 --recompute full"),
)


def bert_memory() -> list[str]:
    """The total of BERT-base by precision, attention, checkpointing, batch and length."""
    shapes = ((8, 128), (32, 128), (32, 512), (128, 512))
    rows = []
    for name, options in BERT_WAYS:
        asked = [f"{BERT} {options} --micro-batch {b} --seq-len {s}" for b, s in shapes]
        rows.append((name, f"`{options}`", *(gb(figure(command, PEAK)) for command in asked)))
    return table(("how", "options", *(f"{b} × {s}" for b, s in shapes)), rows, n_text=2)


def bert_capacity() -> list[str]:
    """The largest micro-batch of 512 tokens that each A100 holds."""
    rows = []
    for name, options in BERT_WAYS:
        asked = [f"{BERT} {options} --seq-len 512 -g {g}" for g in ("a100-40gb", "a100-80gb")]
        rows.append((name, *(str(figure(command, "limits.max_micro_batch")) for command in asked)))
    return table(("how", "40 GB", "80 GB"), rows)


def layouts() -> list[str]:
    """What one accelerator holds when several share the work."""
    rows = []
    for name, options in (
        ("one accelerator", ""), ("data parallel", "-n 8"), ("with ZeRO-1", "-n 8 --zero 1"),
        ("with ZeRO-3 (FSDP)", "-n 8 --zero 3"), ("the same on 16", "-n 16 --zero 3"),
        ("tensor parallel", "-n 8 --tp 8"), ("pipeline parallel", "-n 8 --pp 8"),
    ):  # fmt: skip
        command = f"lmsize train llama-3.1-8b --seq-len 4096 {options}".strip()
        rows.append((name, f"`{options}`" if options else "", gb(figure(command, PEAK))))
    return table(("layout", "options", "each accelerator, GB"), rows, n_text=2)


def utilisation() -> list[str]:
    """Model FLOPs utilisation of published runs, from the catalogue."""
    rows = []
    for row in mfu():
        if (row.architecture, row.method, row.precision) != ("dense", "full", "16-bit"):
            continue
        if row.family in {"A100", "H100"} and row.max_params <= 1e12:
            low = f"{row.min_params / 1e9:g} to" if row.min_params else "below"
            size = f"{low} {row.max_params / 1e9:g}B"
            shares = (f"{share:.0%}" for share in (row.p10, row.median, row.p90))
            rows.append((row.family, size, *shares, str(row.n_rows), str(row.n_sources)))
    head = (
        "accelerator",
        "parameters",
        "a tenth below",
        "median",
        "a tenth above",
        "runs",
        "sources",
    )
    return table(head, rows, n_text=2)


def published() -> list[str]:
    """The best utilisations in print, and the well-known ones."""
    _, _, per_s, _ = SCALING[0]
    reached = per_s * figure(BERT_LARGE, "compute.model_flops_per_step") / PEAK_A100
    source = f"[DeepLearningExamples]({EXAMPLES})"
    bert = (
        "BERT-Large, mixed precision",
        "1 A100",
        f"{reached * 100:.0f} %",
        f"{per_s:g} sequences of 512 tokens a second, by 6·N",
        source,
    )
    return table(("what", "on", "of the peak", "", "source"), [bert, *PUBLISHED], n_text=5)


def scaling() -> list[str]:
    """Published speeds of BERT-Large on one and several accelerators."""
    rows = [
        (what, str(n), f"{one:,.1f}", f"{many:,.1f}", f"{many / one:.1f}×", f"{many / one / n:.0%}")
        for what, n, one, many in SCALING
    ]
    head = (
        "BERT-Large, mixed precision",
        "A100s",
        "sequences/s on one",
        "on all",
        "faster",
        "of linear",
    )
    return table(head, rows)


def bert_time() -> list[str]:
    """The article's run, its inputs put right one after another, and BERT's own recipe."""
    rules = "--engine rules --params 110M --precision fp32 --micro-batch 32"
    speed = "--peak-flops 312e12 --efficiency 0.8 --steps 1M --deadline 7d"
    real = "bert-base-uncased -g a100-80gb"
    week = "--steps 1M --deadline 7d"
    asked = (
        ("the article's", f"{rules} --flops-per-sequence 3.3e12 {speed}"),
        ("6·N·tokens for 3.3e12", f"{rules} --seq-len 512 {speed}"),
        ("each matrix counted, the median MFU", f"{real} --micro-batch 32 --seq-len 512 {week}"),
        ("256 sequences a step, as BERT had", f"{real} --micro-batch 256 --seq-len 512 {week}"),
        ("BERT's recipe: 90 % of it short", f"{real} --micro-batch 256 --seq-len 128 --steps 900k"),
        ("and 10 % long", f"{real} --micro-batch 256 --seq-len 512 --steps 100k"),
    )
    rows = []
    for name, options in asked:
        command = f"lmsize train {options}"
        step, run = figure(command, "time.step_s"), figure(command, "time.total_s") / 3600
        needed = figure(command, "accelerators.needed_for_deadline") or "–"
        rows.append((name, f"`{options}`", f"{step:.3f}", f"{run:,.1f}", str(needed)))
    head = ("what", "`lmsize train`", "s a step", "hours on one", "A100s for a week")
    return table(head, rows, n_text=2)


KEPT = ("weights", "main_weights", "gradients", "optimizer_states")


def example_2() -> list[str]:
    """The model-sized parts of a 13B model by ways of training that are in use."""
    rows = []
    for name, options in (
        ("FP32", "--precision fp32"),
        ("mixed (autocast)", "--precision amp-bf16"),
        ("mixed (Megatron)", "--precision bf16 --stack megatron"),
        ("16 bits throughout", "--precision bf16"),
    ):
        command = f"lmsize train llama-2-13b --seq-len 2048 {options}"
        moments = {moment["label"]: moment for moment in figure(command, "memory.tree.children")}
        parts = {part["label"]: part["value"] for part in moments["optimizer_step"]["children"]}
        kept = max(
            part["value"] for moment in moments.values() for part in moment["children"]
            if part["label"] == "activations"
        )  # fmt: skip
        held = [parts.get(name) for name in KEPT]
        each = sum(filter(None, held)) / figure(command, "parameters.total")
        sizes = (gb(part) for part in (*held, sum(filter(None, held))))
        rows.append((name, f"`{options}`", *sizes, f"{each:.0f}", gb(kept)))
    head = ("13B, Adam; GB", "options", "weights", "main copy", "gradients", "states", "sum",
            "bytes a parameter", "activations")  # fmt: skip
    return table(head, rows, n_text=2)


TABLES: dict[str, Callable[[], list[str]]] = {
    "precisions": precisions, "decoding": decoding, "optimizers": optimizers,
    "bert-memory": bert_memory, "bert-capacity": bert_capacity, "layouts": layouts,
    "utilisation": utilisation, "published": published, "scaling": scaling, "bert-time": bert_time, "example-2": example_2,
}  # fmt: skip
