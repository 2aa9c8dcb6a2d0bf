"""Megatron's arguments that decide which tensors there are."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lmsize.layout.schedule import Schedule
from lmsize.layout.split import Split
from lmsize.stacks.few_bits import BLACKWELL, HOPPER, RECIPES
from lmsize.stacks.options import choice, count, factor, flag, layers, names
from lmsize.stacks.switches import Switches

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
class MegatronSwitches(Switches):
    """Megatron's; what other stacks have too is said there.

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
        pads_to_capacity: every expert gets as many rows; router_padding: as many more as kernels of few
            bits want.
        deterministic: cuBLAS gets the workspace that makes it so.
        cublas_workspace_kib: what ``CUBLAS_WORKSPACE_CONFIG`` adds up to (``:4096:8`` to 32768).
        gradient_fusion: weight gradients are added to the main gradients by the product itself.
        grouped_gemm: one product for all experts of a rank, on streams of its own.
        first_stage_layers, last_stage_layers: where the ends have fewer; with `account_for_embedding`
            and `account_for_loss` these take the place of a layer.
        tp_comm_overlap: gathers overlap with products in buffers of Transformer Engine's own.
        mtp_layers: layers for further tokens, each with a loss.
        dataloader_mask: the data loader makes a mask of every pair of tokens.
        rope_fusion: queries and keys are turned by one kernel.
        softmax_fusion: scores of Megatron's own attention are masked and normed in one kernel.
        fp32_softmax: where they are not, in fp32.
        microbatch_group: micro-batches that a part of a stage takes before the next one's turn.
        overlaps_experts: tokens travel to their experts while another micro-batch computes.
        deferred_head: gradients of the output layer's weight wait for the end of the step, of the
            first `deferral_limit` micro-batches; None for all.
    """

    attention_backend: str = choice("auto", BACKENDS)
    cross_entropy: str = choice("eager", LOSSES)
    transformer_impl: str = choice("transformer_engine", IMPLEMENTATIONS)
    dispatcher: str = choice("alltoall", DISPATCHERS)
    cp_comm: str = choice("p2p", CP_KINDS)
    fp8_recipe: str = choice("delayed", RECIPES)
    router_score: str = choice("softmax", SCORES)
    router_dtype: str = choice("", ROUTER_TYPES)
    exp_avg_dtype: str = choice("", STATE_TYPES)
    exp_avg_sq_dtype: str = choice("", STATE_TYPES)
    recompute_modules: tuple[str, ...] = names(("core_attn",), "recompute-modules", MODULES)
    stage_layers: tuple[int, ...] = layers()
    capacity_factor: float | None = factor(None, most=1000)
    optimizer_offload: float = factor(0.0, most=1)
    recompute_layers: int | None = count()
    recompute_chunk: int | None = count()
    optimizer_instances: int = count(1)
    first_stage_layers: int | None = count()
    last_stage_layers: int | None = count()
    decoder_seq_length: int | None = count()
    cublas_workspace_kib: int | None = count()
    microbatch_group: int | None = count()
    deferral_limit: int | None = count()
    bf16_first_layers: int | None = count()
    bf16_last_layers: int | None = count()
    mtp_layers: int | None = count()
    deterministic: bool = flag(default=False)
    gradient_fusion: bool = flag(default=True)
    grouped_gemm: bool = flag(default=True)
    dataloader_mask: bool = flag(default=True)
    grad_reduce_in_bf16: bool = flag(default=False)
    precision_aware: bool = flag(default=False)
    account_for_embedding: bool = flag(default=False)
    account_for_loss: bool = flag(default=False)
    softmax_fusion: bool = flag(default=True)
    rope_fusion: bool = flag(default=True)
    fp32_softmax: bool = flag(default=False)
    overlaps_experts: bool = flag(default=False)
    deferred_head: bool = flag(default=False)
    fp8_param_gather: bool = flag(default=False)
    tp_comm_overlap: bool = flag(default=False)
    router_fusion: bool = flag(default=False)
    permute_fusion: bool = flag(default=False)
    aux_loss: bool = flag(default=True)
    pads_to_capacity: bool = flag(default=False)
    router_padding: bool = flag(default=False)
    whole_tensors: bool = flag(default=False)

    @property
    def split(self) -> Split:
        """How stages come by their layers."""
        return Split(
            self.first_stage_layers, self.last_stage_layers, self.account_for_embedding,
            self.account_for_loss, parts=self.stage_layers,
        )  # fmt: skip

    def schedule(self, vp: int) -> Schedule:
        """The order of micro-batches on stages of `vp` parts."""
        return Schedule(vp, self.microbatch_group, self.overlaps_experts)

    def on(self, capability: int) -> MegatronSwitches:
        """The same with the attention that ``auto`` is there."""
        if self.attention_backend != "auto":
            return self
        has_fused = capability == HOPPER or (capability >= BLACKWELL and not self.deterministic)
        return replace(self, attention_backend="fused" if has_fused else "flash")
