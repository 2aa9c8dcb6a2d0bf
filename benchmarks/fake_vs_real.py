"""Fake tensors against real steps on the CPU: small models of many architectures.

::

    python benchmarks/fake_vs_real.py run [PATTERN ...]     # a process each, goes on where it stopped
    python benchmarks/fake_vs_real.py summary

The real peak is what `lmsize measure` reads: the allocator's events, as PyTorch's profiler reports
them, of the step after the first. The rows are in ``benchmarks/traced/fake_vs_real.csv``.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kept import Row, Table, apart, import_all

MODELS = Path(__file__).parents[1] / "tests" / "trace" / "small_models.toml"
LIMIT = 2e-4
SHORT = {"micro_batch": 4, "seq_len": 104}
FP32, BF16, EAGER = {"precision": "fp32"}, {"precision": "bf16"}, {"attention": "eager"}
CKPT, LORA, TWICE = {"recompute": "full"}, {"method": "lora"}, {"grad_accum": 2}
# Model, options of the question, options of the step.
CASES: tuple[tuple[str, Row, Row], ...] = (
    ("mistral", {}, {}), ("mistral", FP32 | CKPT, {"reentrant": True}),
    ("qwen2", BF16, {}), ("qwen2", LORA | CKPT | BF16, {}),
    ("gemma", FP32, {"optimizer_implementation": "foreach"}), ("gemma", BF16 | EAGER, {}),
    ("gemma3_text", {}, {}), ("gemma3_text", BF16, {"optimizer_implementation": "fused"}),
    ("cohere", {}, {}), ("cohere2", FP32 | TWICE, {}), ("olmo", BF16, {"clip_grad_norm": 1.0}),
    ("olmo2", {}, {}), ("olmo2", LORA, {}), ("stablelm", FP32, {}), ("starcoder2", {}, {}),
    ("gpt_neox", BF16, {}), ("gpt_neox", EAGER, {}), ("gptj", FP32 | EAGER, {}),
    ("falcon", {}, {}), ("bloom", FP32 | EAGER, {}), ("bloom", EAGER, {}), ("mpt", FP32 | EAGER, {}),
    ("phi", {}, {}), ("granite", CKPT | FP32, {}), ("smollm3", LORA | FP32, {}),
    ("glm4", BF16, {}), ("gpt_oss", BF16 | EAGER, {}), ("gpt_oss", FP32 | EAGER, {}),
    ("qwen2_moe", FP32, {}), ("qwen2_moe", {}, {}), ("qwen3_moe", BF16, {}),
    ("qwen3_moe", CKPT | FP32, {}), ("olmoe", {}, {}), ("phimoe", FP32, {}),
    ("deepseek_v2", {}, {}), ("deepseek_v2", FP32 | LORA, {}), ("deepseek_v3", BF16, {}),
    ("deepseek_v3", FP32 | CKPT, {}), ("deepseek_v3", CKPT, {}), ("glm4_moe", {}, {}),
    ("dbrx", FP32, {}), ("dbrx", BF16 | EAGER, {}), ("mamba2", FP32 | EAGER, {}),
    ("mamba2", BF16 | EAGER, {}), ("falcon_mamba", FP32 | EAGER, {}), ("jamba", FP32, {}),
    ("zamba2", FP32, {}), ("qwen3_next", FP32, {}), ("mt5", {}, {}), ("mt5", FP32 | TWICE, {}),
    ("mbart", FP32, {}), ("mbart", CKPT | FP32, {}), ("pegasus", BF16, {}), ("roberta", {}, {}),
    ("roberta", FP32 | LORA, {}), ("distilbert", FP32, {"keep_outputs": True}),
    ("distilbert", BF16, {}), ("electra", FP32, {}), ("albert", {}, {}), ("albert", FP32, {}),
    ("deberta-v2", FP32 | EAGER, {}), ("deberta-v2", EAGER, {}), ("modernbert", FP32, {}),
    ("modernbert", BF16, {}), ("gemma3", FP32, {}), ("gemma3", {}, {}),
    *(("qwen2", FP32 | {"optimizer": name}, {}) for name in (
        "adafactor", "adagrad", "rmsprop", "nadam", "radam", "adamw-amsgrad", "adadelta", "sgd",
        "adamax", "asgd", "rprop", "adafactor-torch",
    )),
    ("olmo2", FP32 | {"micro_batch": 1, "seq_len": 1}, {}),
    ("mistral", {"micro_batch": 1, "seq_len": 37}, {}),
    ("gemma", BF16 | {"micro_batch": 3, "seq_len": 129}, {}),
    ("glm4", FP32 | CKPT | LORA | {"seq_len": 65}, {"reentrant": True}),
    ("olmo", {"precision": "amp-fp16"}, {}), ("bert", BF16, {}), ("bart", BF16, {}),
    ("llama", CKPT, {}), ("llama", CKPT | BF16, {}), ("bert", CKPT, {}), ("gpt2", CKPT | BF16, {}),
    ("gpt2", CKPT, {}), ("roberta", CKPT | BF16, {"reentrant": True}), ("gpt2", LORA | BF16, {}),
)  # fmt: skip


def config(model: str) -> Row:
    """The config of a small model."""
    with MODELS.open("rb") as file:
        table = tomllib.load(file)
    own = table["models"][model]
    usual = {} if own.pop("only", False) else table["usual"]
    return {"model_type": model, **usual, **own}


def name(case: tuple[str, Row, Row]) -> str:
    """A case in one word."""
    model, options, run = case
    words = [str(v) if k != "grad_accum" else f"accumulate-{v}" for k, v in options.items()]
    words += [k if v is True else f"{k.split('_')[0]}-{v}" for k, v in run.items()]
    return " ".join([model, *words]) if words else f"{model} amp-bf16"


TABLE = Table(
    "fake_vs_real.csv", ("case", "real_bytes", "traced_bytes", "error", "said"), key=("case",),
    order=tuple((name(case),) for case in CASES),
)  # fmt: skip


def checked(case: tuple[str, Row, Row]) -> Row:
    """Both peaks of a case."""
    from lmsize.measuring.meters import cpu_reading
    from lmsize.step.training import built_step
    from lmsize.tracing.peaks import as_requested, peaks
    from lmsize.tracing.pretence import weights_left_blank
    from lmsize.tracing.running import Device, traced
    from lmsize.workload.training import TrainSpec, with_defaults

    model, options, run = case
    spec, _ = with_defaults(TrainSpec(**(SHORT | options)), max_positions=None)

    def build(**more: Any) -> Any:
        return built_step(config(model), spec, device="cpu", **run, **more)

    def blank() -> Any:
        with weights_left_blank():
            return build(scale_loss=False)

    found = peaks(traced(blank, Device("cpu")).entries, as_requested)
    said = max(p.n_bytes for p in found if p.phase.startswith("2."))
    reading = cpu_reading(build, n_warmup=1, n_steps=0, tell=lambda _: None)
    real = reading.peaks[0].n_bytes
    return {"real_bytes": real, "traced_bytes": said, "error": f"{said / real - 1:+.6f}"}


def run(patterns: list[str], *, again: bool) -> None:
    """Check what is asked for and not there yet."""
    import_all()
    for case in _asked(patterns):
        label = name(case)
        known = TABLE.rows().get((label,))
        if known is not None and not known["said"] and not again:
            continue
        row = {"case": label, **apart(checked, case)}
        TABLE.add(row)
        print(json.dumps(row), flush=True)


def _asked(patterns: list[str]) -> Iterator[tuple[str, Row, Row]]:
    for case in CASES:
        if not patterns or any(fnmatch.fnmatch(name(case), one) for one in patterns):
            yield case


def summary() -> None:
    """How many are within the limit, and those that are not."""
    found = list(TABLE.rows().values())
    done = [row for row in found if row["error"]]
    off = [row for row in done if abs(float(row["error"])) > LIMIT]
    exact = sum(float(row["error"]) == 0 for row in done)
    worst = max(abs(float(row["error"])) for row in done)
    print(f"{len(done)} cases of {len(CASES)}, {exact} equal to the byte, worst {worst:.4%}")
    for row in [*off, *(row for row in found if row["said"])]:
        print(f"{row['case']}: {row['error'] or row['said']}")
    sys.exit(bool(off) or len(done) < len(CASES))


def main() -> None:
    """Run or sum up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("run", "summary"))
    parser.add_argument("patterns", nargs="*")
    parser.add_argument("--again", action="store_true")
    given = parser.parse_intermixed_args()
    if given.what == "run":
        run(given.patterns, again=given.again)
    else:
        summary()


if __name__ == "__main__":
    main()
