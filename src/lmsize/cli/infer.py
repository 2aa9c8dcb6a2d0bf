"""``lmsize infer``."""

from __future__ import annotations

from typing import Any

import click

from lmsize.cli.group import SectionedCommand
from lmsize.cli.options import (
    ACCELERATOR,
    DEGREES,
    EXPLAIN,
    OUTPUT,
    RULES,
    engine,
    option,
    section,
    stacked,
)

EXAMPLES = """
lmsize infer llama-3.1-8b -g rtx-4090 --quant gptq-int4
lmsize infer llama-3.1-70b -g h200 --tp 2 --context 32k --concurrency 64
"""

SERVING = (
    option("--precision", metavar="TYPE", help="fp32, tf32, bf16, fp16 or fp8 (bf16)."),
    option(
        "--quant", metavar="TYPE", help="Weights: fp8, int8, int4, nf4, gptq-int4, gguf-Q4_K_M ..."
    ),
    option(
        "--kv-precision", metavar="TYPE", help="Cached keys and values; default: as --precision."
    ),
    option("--context", metavar="TOKENS", help="Tokens of a sequence at most, e.g. 32k (4096)."),
    option("--concurrency", metavar="N", help="Sequences in flight over all replicas (1)."),
    option("--prompt", metavar="TOKENS", help="Tokens of a prompt."),
    option("--output", metavar="TOKENS", help="Tokens generated for it (256)."),
    option("--prefill-chunk", metavar="TOKENS", help="Tokens prefilled at once (8192)."),
    click.option(
        "--prompt-logits",
        is_flag=True,
        default=None,
        help="Keep logits for every token of a prompt, as its log-probabilities need.",
    ),
    click.option(
        "--eager",
        is_flag=True,
        default=None,
        help="Kernels launched one by one (transformers), not from CUDA graphs (vLLM and others).",
    ),
    option("--attention", metavar="KIND", help="eager, sdpa or flash."),
    option("--mfu", metavar="X", help="Share of the peak that prefill reaches (0.5)."),
)


@click.command("infer", cls=SectionedCommand, epilog=EXAMPLES)
@click.argument("model", required=False)
@stacked(
    section("Accelerators", *ACCELERATOR, *DEGREES),
    section("Serving", *SERVING),
    section("Answer", engine("rules", "analytic"), *OUTPUT, EXPLAIN),
    section("With --engine rules", *RULES),
)
def command(model: str | None, as_json: bool, explain: bool, **options: Any) -> int:
    """What serving MODEL needs: weights, caches, working memory, speed.

    MODEL is a catalogue name, a Hub id, or the path of a config.json or of its folder.
    """
    from lmsize.api.serving import infer
    from lmsize.cli.output import deliver

    return deliver(infer(model, **options), as_json=as_json, explain=explain)
