"""What a run may switch in a stack beside the shapes: Megatron's arguments, torchtitan's compiler."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from lmsize.errors import InputError, nearest_names
from lmsize.layout.schedule import Schedule
from lmsize.layout.split import Split
from lmsize.stacks.few_bits import RECIPES, TORCHAO

BACKENDS = ("auto", "fused", "flash", "unfused")
LOSSES = ("eager", "native", "te")
IMPLEMENTATIONS = ("transformer_engine", "local")
CP_KINDS = ("p2p", "a2a", "allgather")
DISPATCHERS = ("alltoall", "allgather", "flex", "hybridep")
STATE_TYPES = ("fp32", "bf16", "fp16", "fp8")
SCORES = ("softmax", "pre-softmax", "sigmoid")
ROUTER_TYPES = ("fp32", "fp64")
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
        cp_comm: how context-parallel ranks attend: keys and values go round (``p2p``) or are gathered, or
            heads change places with tokens (``a2a``).
        dispatcher: how tokens get to their experts (``flex``: by DeepEP, or by HybridEP).
        router_dtype: number type of the router's scores; empty for that of the weights.
        router_score: softmax of the chosen experts, of all (``pre-softmax``), or ``sigmoid``.
        router_fusion, permute_fusion: routing and sorting of tokens by Transformer Engine's kernels.
        aux_loss: a loss for balance takes scores of all experts.
        capacity_factor: of an expert's even share of the tokens, where more are dropped.
        pads_to_capacity: every expert gets as many rows; router_padding: as many more as kernels of few bits want.
        recompute_modules: what selective recomputation runs again, in order of name.
        deterministic: cuBLAS gets the workspace that makes it so.
        cublas_workspace_kib: what ``CUBLAS_WORKSPACE_CONFIG`` adds up to (``:4096:8`` to 32768).
        gradient_fusion: weight gradients are added to the main gradients by the product itself.
        grouped_gemm: one product for all experts of a rank, on streams of its own.
        grad_reduce_in_bf16: main gradients are in the type of the weights.
        precision_aware: the optimizer keeps, instead of a full copy of 16-bit weights, the 16 bits
            that they lack; `exp_avg_dtype` and `exp_avg_sq_dtype` are its states' types.
        optimizer_offload: share of its copies and states that lies on the host.
        recompute_layers: of each part of a stage, under full recomputation by block; None for all.
        recompute_chunk: layers that run again together, under full recomputation.
        optimizer_instances: copies of the distributed optimizer, over whose ranks states are whole.
        first_stage_layers, last_stage_layers: where the ends have fewer; with `account_for_embedding`
            and `account_for_loss` these take the place of a layer.
        tp_comm_overlap: gathers overlap with products in buffers of Transformer Engine's own.
        fp8_recipe: how tensors are scaled where products run in 8 bits (``nvfp4``: in 4).
        fp8_param_gather: weights are held in 8 bits alone.
        fp8_all_gather: torchtitan gathers its layers' matrices in 8 bits (``enable_fsdp_float8_all_gather``).
        bf16_first_layers, bf16_last_layers: of the model, whose products are not in 8 bits.
        mtp_layers: layers for further tokens, each with a loss.
        stage_layers: layers of every part of the pipeline, in the order in which they run.
        spills_layers: places of layers that do not come out evenly are one more on the first stages.
        decoder_seq_length: tokens of a decoder's sequence, if not the encoder's; for memory only.
        dataloader_mask: the data loader makes a mask of every pair of tokens.
        compile: torchtitan compiles its layers.
        compiled_loss: the loss too (``compile.components``).
        ends_in_root: torchtitan's table, last norm and head are the root's unit, which stays gathered from
            the forward to the end of the backward; so does the last layer, until it is undone.
        fused_norm: torchtitan's ``nn.RMSNorm`` is one kernel where it is not compiled (since torch 2.9).
        fused_adam: DeepSpeed steps by its own Adam, in one kernel, not by torch's.
        fp32_sums: below ZeRO-2 DeepSpeed adds bf16 gradients up in fp32 (``grad_accum_dtype``).
        rope_fusion: queries and keys are turned by one kernel.
        softmax_fusion: scores of Megatron's own attention are masked and normed in one kernel.
        fp32_softmax: where they are not, in fp32.
        microbatch_group: micro-batches that a part of a stage takes before the next one's turn.
        overlaps_experts: tokens travel to their experts while another micro-batch computes.
        deferred_head: gradients of the output layer's weight wait for the end of the step, of the
            first `deferral_limit` micro-batches; None for all.
    """

    attention_backend: str = "auto"
    cross_entropy: str = "eager"
    transformer_impl: str = "transformer_engine"
    cp_comm: str = "p2p"
    dispatcher: str = "alltoall"
    router_score: str = "softmax"
    router_dtype: str = ""
    router_fusion: bool = False
    permute_fusion: bool = False
    aux_loss: bool = True
    capacity_factor: float | None = None
    pads_to_capacity: bool = False
    router_padding: bool = False
    recompute_modules: tuple[str, ...] = ("core_attn",)
    deterministic: bool = False
    gradient_fusion: bool = True
    grouped_gemm: bool = True
    dataloader_mask: bool = True
    compile: bool = True
    compiled_loss: bool = True
    ends_in_root: bool = False
    fused_norm: bool = True
    fp32_sums: bool = True
    fused_adam: bool = True
    grad_reduce_in_bf16: bool = False
    precision_aware: bool = False
    exp_avg_dtype: str = ""
    exp_avg_sq_dtype: str = ""
    optimizer_offload: float = 0.0
    recompute_layers: int | None = None
    recompute_chunk: int | None = None
    optimizer_instances: int = 1
    first_stage_layers: int | None = None
    last_stage_layers: int | None = None
    account_for_embedding: bool = False
    account_for_loss: bool = False
    decoder_seq_length: int | None = None
    cublas_workspace_kib: int | None = None
    softmax_fusion: bool = True
    rope_fusion: bool = True
    fp32_softmax: bool = False
    microbatch_group: int | None = None
    overlaps_experts: bool = False
    deferred_head: bool = False
    deferral_limit: int | None = None
    tp_comm_overlap: bool = False
    fp8_recipe: str = "delayed"
    fp8_param_gather: bool = False
    fp8_all_gather: bool = False
    bf16_first_layers: int | None = None
    bf16_last_layers: int | None = None
    mtp_layers: int | None = None
    stage_layers: tuple[int, ...] = ()
    spills_layers: bool = False

    @property
    def split(self) -> Split:
        """How stages come by their layers."""
        return Split(
            self.first_stage_layers, self.last_stage_layers, self.account_for_embedding,
            self.account_for_loss, self.spills_layers, self.stage_layers,
        )  # fmt: skip

    @property
    def bf16_ends(self) -> dict[str, int]:
        """How many layers at each end of the model compute in 16 bits, whatever the rest does."""
        return {"first": self.bf16_first_layers or 0, "last": self.bf16_last_layers or 0}

    def schedule(self, vp: int) -> Schedule:
        """The order of micro-batches on stages of `vp` parts."""
        return Schedule(vp, self.microbatch_group, self.overlaps_experts)


USUAL = Switches()
Choices = Mapping[str, tuple[str, ...]]
CHOICES = {
    "attention_backend": BACKENDS, "cross_entropy": LOSSES, "transformer_impl": IMPLEMENTATIONS,
    "dispatcher": DISPATCHERS, "cp_comm": CP_KINDS, "fp8_recipe": RECIPES, "router_score": SCORES, "router_dtype": ROUTER_TYPES,
    "exp_avg_dtype": STATE_TYPES, "exp_avg_sq_dtype": STATE_TYPES,
}  # fmt: skip
FLAGS = (
    "deterministic", "gradient_fusion", "grouped_gemm", "dataloader_mask", "compile",
    "compiled_loss", "ends_in_root", "fused_norm", "fp32_sums", "fused_adam",
    "grad_reduce_in_bf16", "precision_aware", "account_for_embedding", "account_for_loss",
    "softmax_fusion", "rope_fusion", "fp32_softmax", "overlaps_experts", "deferred_head",
    "fp8_param_gather", "fp8_all_gather", "tp_comm_overlap", "router_fusion", "permute_fusion",
    "aux_loss", "pads_to_capacity", "router_padding",
)  # fmt: skip
COUNTS = (
    "recompute_layers", "recompute_chunk", "optimizer_instances", "first_stage_layers", "last_stage_layers",
    "decoder_seq_length", "cublas_workspace_kib", "microbatch_group", "deferral_limit",
    "bf16_first_layers", "bf16_last_layers", "mtp_layers",
)  # fmt: skip
FACTORS = {"capacity_factor": 1000.0, "optimizer_offload": 1.0}  # the largest of each
KEYS = (*CHOICES, "recompute_modules", "stage_layers", *FACTORS, *COUNTS, *FLAGS)
OF_TORCHTITAN = frozenset(
    ("compile", "compiled_loss", "ends_in_root", "fused_norm", "fp8_all_gather")
)
OF_DEEPSPEED = frozenset(("fp32_sums", "fused_adam"))
OF_STACK = {
    "megatron": frozenset(KEYS) - OF_TORCHTITAN - OF_DEEPSPEED,
    "torchtitan": OF_TORCHTITAN
    | {"fp8_recipe", "bf16_first_layers", "bf16_last_layers", "stage_layers"},
    "deepspeed": OF_DEEPSPEED | {"stage_layers"},
}
CHOICES_OF = {"torchtitan": {"fp8_recipe": TORCHAO}}  # where a stack has other ones
# What a stack does whatever is asked: torchtitan's pipeline_parallel.py counts table and head as layers.
OWN: dict[str, dict[str, Any]] = {
    "torchtitan": {
        "account_for_embedding": True, "account_for_loss": True, "spills_layers": True,
    },
}  # fmt: skip
MOST = 100_000
FACTOR = re.compile(r"\d{1,3}(\.\d{1,6})?")
PARTS = re.compile(r"\d{1,4}(\+\d{1,4}){0,999}")
WHAT = "--stack-options"


def read_switches(text: str | None, stack: str | None = "megatron") -> Switches:
    """``attention-backend=flash,deterministic,no-gradient-fusion`` as switches.

    Raises:
        InputError: a name or a value that is not known, or that the stack does not have.
    """
    return Switches(**OWN.get(stack or "", {}) | named_switches(text, stack))


def named_switches(text: str | None, stack: str | None = "megatron") -> dict[str, Any]:
    """The switches that a text names, as the fields of :class:`Switches`.

    Raises:
        InputError: as :func:`read_switches`; or one that is named twice, differently.
    """
    known = OF_STACK.get(stack or "")
    if text and known is None:
        some = f"no value with --stack {stack}: only {', '.join(OF_STACK)} have switches"
        raise InputError(WHAT, text, some)
    found: dict[str, Any] = {}
    for item in text.split(",") if text else ():
        key, read = _one(item, known or (), CHOICES | CHOICES_OF.get(stack or "", {}))
        if found.setdefault(key, read) != read:
            raise InputError(WHAT, text, f"{_shown(key)} once, or the same both times")
    return found


def _shown(key: str) -> str:
    """A field as people name the switch."""
    return key.replace("_", "-")


def _one(item: str, known: Collection[str], choices: Choices) -> tuple[str, Any]:
    """One switch of the list: its field and its value."""
    name, has_value, value = (part.strip().lower() for part in item.partition("="))
    key = name.replace("-", "_")
    own = key.removeprefix("no_") if key.removeprefix("no_") in FLAGS else key
    if own not in known:
        near = [_shown(n) for n in nearest_names(key.removeprefix("no_"), known, n_names=1)]
        names = ", ".join(sorted(map(_shown, known)))
        expected = f"one of {names}" if name else f"a switch between the commas, one of {names}"
        raise InputError(WHAT, item.strip(), expected, nearest=near)
    if own in FLAGS and not has_value:
        return own, not key.startswith("no_")
    if own not in FLAGS and (read := _value(key, value, choices)) is not None:
        return key, read
    what = f"{WHAT} {_shown(key)}"
    if own in FLAGS or value:
        near = nearest_names(value, choices.get(key, ()), n_names=1)
        raise InputError(what, value, _values(own, choices), nearest=near)
    raise InputError(WHAT, item.strip(), f"{_shown(key)}={_form(key)}, {_values(own, choices)}")


def _value(key: str, value: str, choices: Choices) -> Any:
    """What a switch is set to; None where it cannot be that."""
    if key == "recompute_modules" and value:
        names = tuple(sorted(value.split("+")))
        for name in names:
            _check(f"{WHAT} {_shown(key)}", name, MODULES)
        return names
    if key in FACTORS and FACTOR.fullmatch(value) and 0 < float(value) <= FACTORS[key]:
        return float(value)
    if key in COUNTS and value.isascii() and value.isdigit() and 0 < int(value[:6]) < MOST:
        return int(value[:6])
    if key == "stage_layers" and PARTS.fullmatch(value):
        return tuple(int(n) for n in value.split("+"))
    return value if value in choices.get(key, ()) else None


def _form(key: str) -> str:
    """A word for what stands after the equals sign."""
    if key in COUNTS or key in FACTORS:
        return "NUMBER"
    return "NUMBERS" if key == "stage_layers" else "KIND"


def _values(key: str, choices: Choices) -> str:
    """What a switch may be set to, in words."""
    if key in FACTORS:
        return f"a number above 0, {FACTORS[key]:g} at most"
    if key in COUNTS:
        return f"a whole number from 1 to {MOST - 1}"
    if key == "stage_layers":
        return "layers of each part, as 3+2+2+1"
    if key in FLAGS:
        return f"no value: {_shown(key)} or no-{_shown(key)}"
    return f"one of {', '.join(MODULES if key == 'recompute_modules' else choices[key])}"


def _check(what: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        near = nearest_names(value, choices, n_names=1)
        raise InputError(what, value, f"one of {', '.join(choices)}", nearest=near)
