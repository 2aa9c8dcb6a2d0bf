"""What a serving workload is, and the defaults for what was not said."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from lmsize.assumption import Assumption
from lmsize.errors import InputError
from lmsize.workload.training import ATTENTION, check_choice

PRECISIONS = ("fp32", "tf32", "bf16", "fp16", "fp8")
KV_PRECISIONS = ("fp32", "bf16", "fp16", "fp8", "int8", "int4")
DEFAULT_CONTEXT = 4096
DEFAULT_OUTPUT = 256
PREFILL_CHUNK = 8192  # tokens that a server prefills at once; longer prompts go in chunks


@dataclass(frozen=True, slots=True)
class InferSpec:
    """A serving workload. ``None`` is "not said"; :func:`with_serving_defaults` fills those in.

    Attributes:
        context: tokens of one sequence in the cache at most, prompt and output together.
        concurrency: sequences in flight, over all replicas.
        prompt: tokens of a prompt; `output` tokens generated for it.
        prefill_chunk: tokens prefilled at once, of all prompts together.
        eager: whether kernels are launched one by one, not from recorded graphs.
        prompt_logits: whether logits are kept for every token of a prompt, not for its last alone.
    """

    precision: str | None = None
    quant: str | None = None
    kv_precision: str | None = None
    context: int | None = None
    concurrency: int | None = None
    prompt: int | None = None
    output: int | None = None
    accelerators: int | None = None
    tp: int = 1
    pp: int = 1
    ep: int = 1
    attention: str | None = None
    prefill_chunk: int | None = None
    prompt_logits: bool = False
    eager: bool = False
    mfu: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, as the report's ``inputs`` have them."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


def with_serving_defaults(
    spec: InferSpec, *, max_positions: int | None
) -> tuple[InferSpec, tuple[Assumption, ...]]:
    """The spec with every default filled in, and an assumption for each.

    Raises:
        InputError: a word that is not a choice, or a context below prompt and output.
    """
    precision = spec.precision or "bf16"
    check_choice("--precision", precision, PRECISIONS)
    context = spec.context
    if context is None and spec.prompt is not None:
        context = spec.prompt + (spec.output or DEFAULT_OUTPUT)
    context = context or min(DEFAULT_CONTEXT, max_positions or DEFAULT_CONTEXT)
    output = spec.output
    if output is None:
        output = context - spec.prompt if spec.prompt else min(DEFAULT_OUTPUT, context // 2)
    prompt = context - output if spec.prompt is None else spec.prompt
    if prompt < 1 or output < 1 or prompt + output > context:
        expected = f"at least prompt + output = {max(prompt, 1) + max(output, 1)}"
        raise InputError("--context", context, expected)
    wanted: dict[str, Any] = {
        "precision": precision, "context": context, "prompt": prompt, "output": output,
        "kv_precision": _cache_type(precision), "concurrency": 1, "attention": "sdpa",
    }  # fmt: skip
    taken = {k: v for k, v in wanted.items() if getattr(spec, k) is None}
    filled = replace(spec, prefill_chunk=spec.prefill_chunk or PREFILL_CHUNK, **taken)
    check_choice("--kv-precision", str(filled.kv_precision), KV_PRECISIONS)
    check_choice("--attention", str(filled.attention), ATTENTION)
    return filled, tuple(
        Assumption(f"default-{k.replace('_', '-')}", f"{k.replace('_', '-')} {v} (the default)")
        for k, v in taken.items()
    )


def _cache_type(precision: str) -> str:
    """Keys and values are cached in the type that attention runs in."""
    return {"tf32": "fp32", "fp8": "bf16"}.get(precision, precision)
