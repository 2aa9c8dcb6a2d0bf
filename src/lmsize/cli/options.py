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


def section(title: str, *options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options under a title of the help."""

    def add(command: Command) -> Command:
        before = list(getattr(command, "__click_params__", ()))
        marked = stacked(*options)(command)
        for param in getattr(marked, "__click_params__", ()):
            if param not in before:
                param.section = title
        return marked

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


def engine(*names: str) -> Callable[[Command], Command]:
    """The option that chooses among engines."""
    listed = f"{', '.join(names[:-1])} or {names[-1]}."
    return option("--engine", metavar="ENGINE", default="analytic", show_default=True, help=listed)


OUTPUT = (
    option("--catalogue", metavar="FILE", help="Your own rows (TOML or CSV), over the package's."),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON document."),
)
CALIBRATION = option(
    "--calibration", metavar="FILE", help="Corrections of `lmsize calibrate`; none for none."
)
EXPLAIN = click.option(
    "--explain", is_flag=True, help="Open every number down to formula and source."
)
METHOD = (
    option("--method", metavar="METHOD", help="full, lora or qlora (full)."),
    option("--lora-rank", metavar="R", help="Rank of the adapters (16)."),
    option(
        "--lora-targets",
        metavar="TARGETS",
        help="attention, all-linear or module names, comma-separated (all-linear).",
    ),
    option("--adapter", metavar="KIND", help="lora, rslora or dora (lora)."),
    click.option(
        "--lora-experts", is_flag=True, default=None, help="Adapters on routed experts as well."
    ),
    option("--modules-to-save", metavar="NAMES", help="Modules trained whole beside the adapters."),
    option(
        "--precision",
        metavar="TYPE",
        help="fp32, tf32, amp-fp16, amp-bf16, bf16, fp16 or fp8 (amp-bf16; qlora: bf16).",
    ),
    option("--quant", metavar="TYPE", help="qlora: the frozen base, nf4, int8, int4 ... (nf4)."),
    option(
        "--optimizer", metavar="NAME", help="adamw, adafactor, lion, muon, adamw-8bit ... (adamw)."
    ),
)
BATCH = (
    option("--micro-batch", metavar="N", help="Sequences a forward pass (1)."),
    option("--global-batch", metavar="N", help="Sequences an optimizer step, over all ranks."),
    option("--grad-accum", metavar="N", help="Micro-batches a rank runs for a step (1)."),
    option("--seq-len", metavar="TOKENS", help="Tokens a sequence (2048, or the model's maximum)."),
)
HOW_RUN = (
    option("--recompute", metavar="KIND", help="none, selective or full (none)."),
    option("--attention", metavar="KIND", help="eager, sdpa or flash (sdpa)."),
)
ZERO = option("--zero", metavar="0..3", help="ZeRO stage; 3 is FSDP's full sharding (0).")
STEP = (
    section("Method", *METHOD), section("Batch", *BATCH),
    section("The step", ZERO, *HOW_RUN),
)  # fmt: skip
LAYOUT = (
    ZERO,
    *DEGREES,
    option("--cp", metavar="N", help="Context parallelism."),
    option("--vp", metavar="N", help="Virtual stages a rank: an interleaved pipeline (1)."),
    option("--etp", metavar="N", help="Tensor parallelism of the experts (the same as tp)."),
    click.option(
        "--sequence-parallel", is_flag=True, default=None, help="Share norms and dropout over tp."
    ),
    option("--pipeline-stage", metavar="WHICH", help="Whose memory: worst, first or last (worst)."),
)
STACK = (
    option(
        "--stack",
        metavar="NAME",
        help="transformers, torchtitan, megatron, deepspeed, litgpt or unsloth (transformers).",
    ),
    option(
        "--stack-options",
        metavar="LIST",
        help="The stack's own switches, as NAME=VALUE,NAME,no-NAME.",
    ),
    *HOW_RUN,
    option("--loss", metavar="KIND", help="plain, chunked, liger or cut (the stack's own)."),
    option("--lengths", metavar="KIND", help="equal, or varied: --seq-len is the longest (equal)."),
)
TRAINING = (
    section("Accelerators", *ACCELERATOR), section("Method", *METHOD), section("Batch", *BATCH),
    section("Layout", *LAYOUT), section("Software", *STACK),
)  # fmt: skip
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
    option("--params", metavar="N", help="Parameters, in place of MODEL."),
    option("--adapter-fraction", metavar="X", help="Adapter parameters as a fraction (0.02)."),
    option(
        "--activation-bytes",
        metavar="LOW..HIGH",
        help="Activations, a size or a range; textbook: the published formula.",
    ),
    option("--state-precision", metavar="TYPE", help="Optimizer states, fp32 or fp16."),
    option("--leave-out", metavar="WHAT", help="gradients: leave them out of the sum."),
    option(
        "--flops-per-sequence",
        metavar="X",
        help="FLOPs of one sequence, forward and backward.",
    ),
    option("--peak-flops", metavar="X", help="Peak FLOP/s of one accelerator."),
    option("--efficiency", metavar="X", help="Share of the peak that is reached (0.8)."),
)
TRACE_FILES = (
    option("--trace-device", metavar="KIND", help="Tensors pretend to be on cuda or cpu (cuda)."),
    option("--timeline", metavar="FILE", help="Draw memory along the step (.html, .png, .svg)."),
    option("--snapshot", metavar="FILE", help="A file for PyTorch's memory viewer."),
)
TRACE = (
    *TRACE_FILES,
    option("--optimizer-impl", metavar="KIND", help="foreach, fused or loop (as torch chooses)."),
    option("--clip-grad-norm", metavar="X", help="Clip the norm of the gradients (off)."),
    click.option(
        "--keep-outputs",
        is_flag=True,
        default=None,
        help="Outputs live through the backward.",
    ),
    click.option("--reentrant", is_flag=True, default=None, help="Reentrant checkpointing."),
    option("--sequences", metavar="KIND", help="full, padded or packed (full)."),
)
