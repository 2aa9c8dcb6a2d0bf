"""What Megatron and its libraries keep from step to step besides states: workspaces, buffers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lmsize.formula import Term, formula, maximum, total
from lmsize.layout.degrees import Layout
from lmsize.layout.shares import Stage
from lmsize.model.parts import AttentionCore, Experts
from lmsize.numbers import ceil_div, chosen
from lmsize.source import Source
from lmsize.stacks.few_bits import HOPPER
from lmsize.stacks.megatron_router import SIZES
from lmsize.stacks.megatron_switches import MegatronSwitches

CUBLAS = Source(
    "PyTorch 2.13", "aten/src/ATen/cuda/CublasHandlePool.cpp, getChosenWorkspaceSize",
    "https://github.com/pytorch/pytorch",
)  # fmt: skip
ENGINE = Source(
    "Transformer Engine 2.8", "pytorch/module/base.py, get_cublas_workspace_size_bytes",
    "https://github.com/NVIDIA/TransformerEngine",
)  # fmt: skip
MEGATRON = Source(
    "Megatron-LM core 0.15", "core/tensor_parallel/layers.py and core/utils.py, GlobalMemoryBuffer",
    "https://github.com/NVIDIA/Megatron-LM",
)  # fmt: skip
DUMMIES = Source(
    "Transformer Engine 2.10", "pytorch/module/base.py, get_dummy_wgrad",
    "https://github.com/NVIDIA/TransformerEngine",
)  # fmt: skip
KIB, MIB = 2**10, 2**20
LARGE = 32 * MIB  # from Hopper on, and what CUBLAS_WORKSPACE_CONFIG=:4096:8 asks for
SMALL = 8320 * KIB  # :4096:2:16:8
SMALL_ENGINE = 4 * MIB
MASK, MAP = (
    1,
    2 * 4,
)  # bytes of the mask, and of the map by which rows are placed, a token and an expert
N_THREADS = 2  # the forward's and autograd's, each with a handle of its own
N_STREAMS = 4  # that grouped products run on
N_OVERLAPS = 3  # streams of products that overlap with gathers (cpp_extensions/gemm.py there)


@formula(source=CUBLAS)
def workspace_bytes(*, n_workspaces: Any, n_bytes: Any) -> Any:
    """Bytes of scratch that cuBLAS is lent for matrix products, and keeps.

    Assumes: one workspace for each handle and stream, from the caching allocator.
    Valid for: CUDA; the sizes are those of the compute capability.
    """
    return n_workspaces * n_bytes


@formula(source=MEGATRON)
def buffer_bytes(*, n_tokens: Any, width: Any, bytes_per_number: Any) -> Any:
    """Bytes of a tensor of the stream that is kept for the next time or until it is replaced.

    Assumes: GlobalMemoryBuffer for what the output layer and the allgather dispatcher gather;
    the schedule's variable for the gradient of a micro-batch's input.
    Valid for: sequence parallelism, pipelines, that dispatcher.
    """
    return n_tokens * width * bytes_per_number


@formula(source=MEGATRON)
def score_bytes(*, n_pairs: Any, n_heads: Any, bytes_per_number: Any) -> Any:
    """Bytes of the tensor that Megatron's own attention hands to its product of scores, unread.

    Assumes: GlobalMemoryBuffer, ``matmul_input_buffer`` of core/transformer/dot_product_attention.py.
    Valid for: layers of Megatron's own, `n_heads` those of a rank.
    """
    return n_pairs * n_heads * bytes_per_number


@formula(source=MEGATRON)
def routing_bytes(*, n_layers: Any, n_tokens: Any, n_experts: Any, bytes_per_number: Any) -> Any:
    """Bytes of the weights and the mask of all experts that each layer's dispatcher names.

    Assumes: ``self.probs`` and ``self.routing_map`` of core/transformer/moe/token_dispatcher.py, and
    ``self.reversed_local_input_permutation_mapping`` where nothing has saved it, of the last
    micro-batch that passed.
    Valid for: layers with experts.
    """
    return n_layers * n_tokens * n_experts * bytes_per_number


@formula(source=DUMMIES)
def dummy_gradient_bytes(*, n_numbers: Any, bytes_per_number: Any) -> Any:
    """Bytes of the empty gradients that autograd is handed for weights whose products add up by
    themselves: one a shape, kept.

    Assumes: Transformer Engine 2.3 or later (2.10 for experts); made for each product before.
    Valid for: gradient accumulation fused into the products.
    """
    return n_numbers * bytes_per_number


@formula(source=MEGATRON)
def mask_bytes(*, n_masks: Any, n_pairs: Any, bytes_per_number: Any) -> Any:
    """Bytes of the causal masks that the data loader makes, one number a pair of tokens.

    Assumes: --create-attention-mask-in-dataloader, the default; checkpoints of layers or of their
    attention save that of their micro-batch (``_checkpointed_forward`` of transformer_block.py,
    ``_checkpointed_attention_forward`` of attention.py).
    Valid for: one mask a micro-batch.
    """
    return n_masks * n_pairs * bytes_per_number


@dataclass(frozen=True, slots=True)
class Libraries:
    """What decides the workspaces.

    Attributes:
        capability: the accelerator's compute capability, its first number.
        switches: of the stack.
    """

    capability: int
    switches: MegatronSwitches


def workspaces(libraries: Libraries, stage: Stage) -> Iterable[Term]:
    """Of PyTorch's products and of Transformer Engine's."""
    switches = libraries.switches
    is_large = libraries.capability >= HOPPER
    usual = LARGE if is_large or switches.deterministic else SMALL
    asked = (switches.cublas_workspace_kib or 0) * KIB
    yield workspace_bytes.term("cuBLAS of PyTorch", n_workspaces=N_THREADS, n_bytes=asked or usual)
    is_local, has_experts = switches.transformer_impl == "local", _has_experts(stage)
    if is_local and not has_experts:  # a router's product is Transformer Engine's all the same
        return
    has_groups = has_experts and switches.grouped_gemm and not is_local
    n_more = N_STREAMS * has_groups + N_OVERLAPS * switches.tp_comm_overlap
    yield workspace_bytes.term(
        "cuBLAS of Transformer Engine", n_workspaces=1 + n_more,
        n_bytes=LARGE if is_large else SMALL_ENGINE,
    )  # fmt: skip


def _has_experts(stage: Stage) -> bool:
    return any(isinstance(part, Experts) for _, run in stage.runs for part in run.block.parts)


@dataclass(frozen=True, slots=True)
class Shape:
    """A micro-batch on one rank.

    Attributes:
        n_tokens: of it; `n_stream_tokens` those that the rank holds between layers.
        n_pairs: queries times keys, all sequences together.
    """

    n_tokens: Any
    n_stream_tokens: Any
    n_pairs: Any
    width: Any
    bytes_per_number: Any


def _shared(libraries: Libraries, stage: Stage, layout: Layout, shape: Shape) -> Iterator[Term]:
    """What is gathered or computed in the buffer that Megatron's parts share."""
    switches, is_last = libraries.switches, stage.index == stage.n_stages - 1
    is_local = switches.transformer_impl == "local"
    width = {"width": shape.width, "bytes_per_number": shape.bytes_per_number}
    if _has_experts(stage) and switches.dispatcher == "allgather":
        n_gathered = shape.n_stream_tokens * layout.ep * layout.expert_tp
        yield buffer_bytes.term("input of the experts", n_tokens=n_gathered, **width)
    if layout.sequence_parallel and (is_last or is_local):
        yield buffer_bytes.term("input of a linear", n_tokens=shape.n_tokens, **width)
    cores = [p for _, run in stage.runs for p in run.block.parts if isinstance(p, AttentionCore)]
    if cores and is_local:
        n_heads = max(core.n_heads for core in cores)
        yield score_bytes.term(
            "scores", n_pairs=shape.n_pairs, n_heads=ceil_div(n_heads, layout.tp),
            bytes_per_number=shape.bytes_per_number,
        )  # fmt: skip


def _routing(
    switches: MegatronSwitches, stage: Stage, shape: Shape, *, runs_again: bool
) -> list[Term]:
    """What each mixture's dispatcher names until its next run."""
    weight = SIZES.get(switches.router_dtype, shape.bytes_per_number)
    routed = weight + MASK + (MAP if runs_again and switches.permute_fusion else 0)
    return [
        routing_bytes.term(
            f"routing, {part.n_experts} experts", n_layers=run.n_layers, n_experts=part.n_experts,
            n_tokens=shape.n_stream_tokens, bytes_per_number=routed,
        )
        for _, run in stage.runs for part in run.block.parts if isinstance(part, Experts)
    ]  # fmt: skip


def standing_term(
    libraries: Libraries, stage: Stage, layout: Layout, shape: Shape, *, n_micro: Any, n_masks: Any,
    runs_again: bool, shapes: Iterable[tuple[Any, Any]],
) -> Term:  # fmt: skip
    """All that stays, whatever the step does.

    Args:
        n_masks: of attention, that are there at once.
        runs_again: whether mixtures run again for their backward.
        shapes: those of the stage's weights, each once.
    """
    switches, itemsize = libraries.switches, shape.bytes_per_number
    parts = list(workspaces(libraries, stage))
    shared = list(_shared(libraries, stage, layout, shape))
    if shared:  # one storage for all, of the largest that was asked for
        parts.append(maximum("GlobalMemoryBuffer", shared))
    parts += _routing(switches, stage, shape, runs_again=runs_again)
    if stage.index > 0 and n_micro > 1:
        parts.append(
            buffer_bytes.term(
                "gradient sent to the stage before", n_tokens=shape.n_stream_tokens,
                width=shape.width, bytes_per_number=itemsize,
            )
        )  # fmt: skip
    if switches.gradient_fusion and switches.transformer_impl != "local":
        parts.append(
            dummy_gradient_bytes.term(
                "empty gradients", n_numbers=_each_once(tuple(shapes)), bytes_per_number=itemsize
            )
        )  # fmt: skip
    if switches.dataloader_mask:
        parts.append(
            mask_bytes.term(
                "attention mask", n_masks=n_masks, n_pairs=shape.n_pairs, bytes_per_number=1
            )
        )
    return total("workspaces", parts)


def _each_once(shapes: Sequence[tuple[Any, Any]]) -> Any:
    """Numbers of matrices of these shapes, those that are alike once; candidate by candidate."""
    total: Any = 0
    for at, (n_in, n_out) in enumerate(shapes):
        own = n_in * n_out
        for other_in, other_out in shapes[:at]:
            own = chosen((other_in == n_in) & (other_out == n_out), 0, own)
        total = total + own
    return total
