"""What a run may switch in a stack beside the shapes: Megatron's arguments, torchtitan's compiler."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from lmsize.errors import InputError, nearest_names
from lmsize.layout.split import Split

BACKENDS = ("auto", "fused", "flash", "unfused")
LOSSES = ("eager", "native", "te")
IMPLEMENTATIONS = ("transformer_engine", "local")
DISPATCHERS = ("alltoall", "allgather", "flex")
MODULES = (
    "core_attn", "moe_act", "layernorm", "mla_up_proj", "mlp", "moe", "shared_experts",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Switches:
    """Megatron's arguments that decide which tensors there are (``--stack-options``).

    Attributes:
        attention_backend: of Transformer Engine; ``auto`` is cuDNN's from Hopper on
            (on Blackwell not if deterministic), else flash-attention's.
        cross_entropy: ``eager``, or fused by Megatron itself (``native``) or Transformer Engine.
        transformer_impl: ``local`` has Megatron's own linears and unfused attention.
        dispatcher: how tokens get to their experts.
        recompute_modules: what selective recomputation runs again, in order of name.
        deterministic: cuBLAS gets the workspace that makes it so.
        gradient_fusion: weight gradients are added to the main gradients by the product itself.
        rope_fusion: rotary positions by one kernel.
        grouped_gemm: one product for all experts of a rank, on streams of its own.
        grad_reduce_in_bf16: main gradients are in the type of the weights.
        recompute_layers: of each part of a stage, under full recomputation by block; None for all.
        optimizer_instances: copies of the distributed optimizer, over whose ranks states are whole.
        first_stage_layers, last_stage_layers: where the ends have fewer; with `account_for_embedding`
            and `account_for_loss` these take the place of a layer.
        stage_layers: layers of every part of the pipeline, in the order in which they run.
        decoder_seq_length: tokens of a decoder's sequence, if not the encoder's; for memory only.
        dataloader_mask: the data loader makes a mask of every pair of tokens.
        compile: torchtitan compiles its layers.
        compiled_loss: the loss too (``compile.components``).
        fused_adam: DeepSpeed steps by its own Adam, in one kernel, not by torch's.
        fp32_sums: below ZeRO-2 DeepSpeed adds bf16 gradients up in fp32 (``grad_accum_dtype``).
    """

    attention_backend: str = "auto"
    cross_entropy: str = "eager"
    transformer_impl: str = "transformer_engine"
    dispatcher: str = "alltoall"
    recompute_modules: tuple[str, ...] = ("core_attn",)
    deterministic: bool = False
    gradient_fusion: bool = True
    rope_fusion: bool = True
    grouped_gemm: bool = True
    dataloader_mask: bool = True
    compile: bool = True
    compiled_loss: bool = True
    fp32_sums: bool = True
    fused_adam: bool = True
    grad_reduce_in_bf16: bool = False
    recompute_layers: int | None = None
    optimizer_instances: int = 1
    first_stage_layers: int | None = None
    last_stage_layers: int | None = None
    account_for_embedding: bool = False
    account_for_loss: bool = False
    decoder_seq_length: int | None = None
    stage_layers: tuple[int, ...] = ()

    @property
    def split(self) -> Split:
        """How stages come by their layers."""
        return Split(
            self.first_stage_layers, self.last_stage_layers, self.account_for_embedding,
            self.account_for_loss, self.stage_layers,
        )  # fmt: skip


USUAL = Switches()
CHOICES = {
    "attention_backend": BACKENDS, "cross_entropy": LOSSES, "transformer_impl": IMPLEMENTATIONS,
    "dispatcher": DISPATCHERS,
}  # fmt: skip
FLAGS = (
    "deterministic",
    "gradient_fusion",
    "rope_fusion",
    "grouped_gemm",
    "dataloader_mask",
    "compile",
    "compiled_loss",
    "fp32_sums",
    "fused_adam",
    "grad_reduce_in_bf16",
    "account_for_embedding",
    "account_for_loss",
)
COUNTS = (
    "recompute_layers", "optimizer_instances", "first_stage_layers", "last_stage_layers",
    "decoder_seq_length",
)  # fmt: skip
KEYS = (*CHOICES, "recompute_modules", "stage_layers", *COUNTS, *FLAGS)
OF_STACK = {
    "megatron": frozenset(KEYS) - {"compile", "compiled_loss", "fp32_sums", "fused_adam"},
    "torchtitan": frozenset(("compile", "compiled_loss")),
    "deepspeed": frozenset(("fp32_sums", "fused_adam", "stage_layers")),
}  # fmt: skip
MOST = 100_000
PARTS = re.compile(r"\d{1,4}(\+\d{1,4}){0,999}")
WHAT = "--stack-options"


def read_switches(text: str | None, stack: str | None = "megatron") -> Switches:
    """``attention-backend=flash,deterministic,no-gradient-fusion`` as switches.

    Raises:
        InputError: a name or a value that is not known, or that the stack does not have.
    """
    known = OF_STACK.get(stack or "")
    if text and known is None:
        raise InputError(WHAT, text, f"--stack {' or '.join(OF_STACK)}, which have some")
    found: dict[str, Any] = {}
    for item in (text or "").split(","):
        name, _, value = item.strip().lower().partition("=")
        if name:
            key, read = _one(name.replace("-", "_"), value.strip(), known or ())
            found[key] = read
    return Switches(**found)


def _one(key: str, value: str, known: Collection[str]) -> tuple[str, Any]:
    own = key.removeprefix("no_") if key.removeprefix("no_") in FLAGS else key
    if own not in known:
        near = nearest_names(key, known, n_names=1)
        raise InputError(WHAT, key, f"one of {', '.join(sorted(known))}", nearest=near)
    if not value and key.removeprefix("no_") in FLAGS:
        return key.removeprefix("no_"), not key.startswith("no_")
    if key == "recompute_modules" and value:
        names = tuple(sorted(value.split("+")))
        for name in names:
            _check(f"{WHAT} {key}", name, MODULES)
        return key, names
    if key in COUNTS and value.isdigit() and 0 < int(value[:6]) < MOST:
        return key, int(value[:6])
    if key == "stage_layers" and PARTS.fullmatch(value):
        return key, tuple(int(n) for n in value.split("+"))
    if key in CHOICES and value:
        _check(f"{WHAT} {key}", value, CHOICES[key])
        return key, value
    expected = f"one of {', '.join(sorted(known))}"
    raise InputError(WHAT, key, expected, nearest=nearest_names(key, known, n_names=1))


def _check(what: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        near = nearest_names(value, choices, n_names=1)
        raise InputError(what, value, f"one of {', '.join(choices)}", nearest=near)
