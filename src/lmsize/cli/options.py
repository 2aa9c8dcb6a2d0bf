"""Options that commands share. Values stay text here; lmsize.workload.parse reads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def option(
    *names: str, help: str, metavar: str = "TEXT", **kwargs: Any
) -> Callable[[Command], Command]:
    """A text option."""
    return click.option(*names, help=help, metavar=metavar, **kwargs)


def stacked(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, listed in help in the order given."""

    def add(command: Command) -> Command:
        for one in reversed(options):
            command = one(command)
        return command

    return add


ACCELERATOR = (
    option("-g", "--accelerator", metavar="NAME", help="Accelerator, e.g. a100-80gb."),
    option("-n", "--accelerators", metavar="COUNT", help="How many accelerators."),
)
DEGREES = (
    option("--tp", metavar="N", help="Tensor parallelism."),
    option("--pp", metavar="N", help="Pipeline stages."),
    option("--ep", metavar="N", help="Expert parallelism."),
)
OUTPUT = (
    option(
        "--engine",
        metavar="ENGINE",
        default="analytic",
        show_default=True,
        help="rules, analytic or trace.",
    ),
    option("--catalogue", metavar="FILE", help="Your own rows (TOML or CSV), over the package's."),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON document."),
)
CALIBRATION = option(
    "--calibration", metavar="FILE", help="Corrections of `lmsize calibrate`; none for none."
)
EXPLAIN = click.option(
    "--explain", is_flag=True, help="Open every number down to formula and source."
)
STEP = (
    option("--method", metavar="METHOD", help="full, lora or qlora."),
    option("--lora-rank", metavar="R", help="Rank of the adapters (16)."),
    option(
        "--lora-targets",
        metavar="TARGETS",
        help="attention, all-linear or module names, comma-separated.",
    ),
    option("--adapter", metavar="KIND", help="lora, rslora or dora."),
    click.option(
        "--lora-experts", is_flag=True, default=None, help="Adapters on routed experts as well."
    ),
    option("--modules-to-save", metavar="NAMES", help="Modules trained whole beside the adapters."),
    option(
        "--precision", metavar="TYPE", help="fp32, tf32, amp-fp16, amp-bf16, bf16, fp16 or fp8."
    ),
    option("--quant", metavar="TYPE", help="Weights of the frozen base: nf4, int8, int4 ..."),
    option("--optimizer", metavar="NAME", help="adamw, adafactor, lion, muon, adamw-8bit ..."),
    option("--micro-batch", metavar="N", help="Sequences a forward pass (1)."),
    option("--global-batch", metavar="N", help="Sequences an optimizer step, over all ranks."),
    option("--grad-accum", metavar="N", help="Micro-batches a rank runs for a step."),
    option("--seq-len", metavar="TOKENS", help="Tokens a sequence (2048, or the model's maximum)."),
    option("--zero", metavar="0..3", help="ZeRO stage; 3 is FSDP's full sharding."),
    option("--recompute", metavar="KIND", help="none, selective or full."),
    option("--attention", metavar="KIND", help="eager, sdpa or flash."),
)
TRAINING = (
    *STEP,
    option("--cp", metavar="N", help="Context parallelism."),
    option("--vp", metavar="N", help="Virtual stages a rank: an interleaved pipeline (1)."),
    option("--etp", metavar="N", help="Tensor parallelism of the experts (the same as tp)."),
    click.option(
        "--sequence-parallel", is_flag=True, default=None, help="Share norms and dropout over tp."
    ),
    option("--stack", metavar="NAME", help="transformers, torchtitan, megatron, litgpt ..."),
    option(
        "--stack-options",
        metavar="LIST",
        help="The stack's own switches, e.g. attention-backend=flash,no-gradient-fusion.",
    ),
    option("--loss", metavar="KIND", help="plain, chunked, liger or cut (the stack's own)."),
    option("--lengths", metavar="KIND", help="equal, or varied: --seq-len is the longest (equal)."),
    option("--pipeline-stage", metavar="WHICH", help="Whose memory: worst, first or last (worst)."),
)
RUN = (
    option("--steps", metavar="N", help="Length of the run in optimizer steps."),
    option("--tokens", metavar="N", help="Length of the run in tokens, e.g. 1B."),
    option("--epochs", metavar="X", help="Length of the run in passes over --dataset-tokens."),
    option("--dataset-tokens", metavar="N", help="Tokens of the data set."),
    option("--deadline", metavar="TIME", help="When the run must be done, e.g. 7d."),
    option(
        "--mfu", metavar="X", help="Model FLOPs utilisation (0-1), in place of the typical one."
    ),
)
RULES = (
    option("--params", metavar="N", help="rules: parameters, in place of MODEL."),
    option(
        "--adapter-fraction", metavar="X", help="rules: adapter parameters as a fraction (0.02)."
    ),
    option(
        "--activation-bytes",
        metavar="LOW..HIGH",
        help="rules: activations, a size or a range; textbook: the published formula.",
    ),
    option("--state-precision", metavar="TYPE", help="rules: optimizer states, fp32 or fp16."),
    option("--leave-out", metavar="WHAT", help="rules: leave out gradients."),
    option(
        "--flops-per-sequence",
        metavar="X",
        help="rules: FLOPs of one sequence, forward and backward.",
    ),
    option("--peak-flops", metavar="X", help="rules: peak FLOP/s of one accelerator."),
    option("--efficiency", metavar="X", help="rules: share of the peak that is reached (0.8)."),
)
TRACE_FILES = (
    option(
        "--trace-device", metavar="KIND", help="trace: tensors pretend to be on cuda or cpu (cuda)."
    ),
    option(
        "--timeline", metavar="FILE", help="trace: draw memory along the step (.html, .png, .svg)."
    ),
    option("--snapshot", metavar="FILE", help="trace: a file for PyTorch's memory viewer."),
)
TRACE = (
    *TRACE_FILES,
    option(
        "--optimizer-impl", metavar="KIND", help="trace: foreach, fused or loop (as torch chooses)."
    ),
    option("--clip-grad-norm", metavar="X", help="trace: clip the norm of the gradients (off)."),
    click.option(
        "--keep-outputs",
        is_flag=True,
        default=None,
        help="trace: outputs live through the backward.",
    ),
    click.option("--reentrant", is_flag=True, default=None, help="trace: reentrant checkpointing."),
    option("--sequences", metavar="KIND", help="trace: full, padded or packed (full)."),
)
