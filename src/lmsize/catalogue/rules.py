"""The rows that say how numbers are stored and stepped: precisions, recipes, optimizers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Precision:
    """A number type, or a way of storing quantised weights.

    Attributes:
        bits: stored for one value, scales apart.
        kind: ``float``, ``int`` or ``quantised`` (needs scales).
        block_size: values that share a scale; None with `scale_bits` set means one per output row.
        scale_bits: of one scale; `zero_bits` of one zero point.
        nested_block_size: scales that share a second scale (double quantisation) of
            `nested_scale_bits`; `tensor_bits` once a tensor.
        storage: the type that the peak rate is looked up with when this is computed in.
        mixture_bits: bits a weight over a whole model where the kind mixes types by layer.
        skips: modules left in 16 bits: ``embeddings``, ``head``, ``norms``.
    """

    name: str
    bits: float
    source: str
    source_date: str
    kind: str = "float"
    block_size: int | None = None
    scale_bits: float = 0.0
    zero_bits: float = 0.0
    nested_block_size: int | None = None
    nested_scale_bits: float = 0.0
    tensor_bits: float = 0.0
    mixture_bits: float | None = None
    compute: str = ""
    skips: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    notes: str = ""

    @property
    def bits_per_value(self) -> float:
        """Bits for one value, its share of block scales included; row scales are left out."""
        if self.mixture_bits is not None:
            return self.mixture_bits
        if self.block_size is None:
            return self.bits
        bits = self.bits + (self.scale_bits + self.zero_bits) / self.block_size
        if self.nested_block_size:
            bits += self.nested_scale_bits / (self.block_size * self.nested_block_size)
        return bits


@dataclass(frozen=True, slots=True)
class Recipe:
    """Number types of a training step under one stack and precision; names of precisions.

    Attributes:
        weights: the persistent copy that the model holds (sharded where the stack shards).
        gathered: what a ZeRO-3 or FSDP gather, or autocast, makes of the weights.
        gradients: as accumulated; `reduced` as communicated.
        main_weights: a second full-precision copy that the optimizer owns; None for none.
        main_gradients: a second copy of the gradients that the step works on; None for none.
        step_gradients: what the step takes a shard's gradients to, for as long as it runs; None
            where it works on them as they are.
        compute: of the matrix products.
        autocast: weights are cast at use, and the casts live until the backward.
        cached_weights: extra persistent copies of linear weights (FP8 and its transpose).
        adapters: of LoRA's matrices, their gradients and states.
        unquantised: of what stays whole in a base of few bits (embeddings, norms).
    """

    stack: str
    precision: str
    weights: str
    gradients: str
    states: str
    compute: str
    source: str
    source_date: str
    main_weights: str | None = None
    main_gradients: str | None = None
    step_gradients: str | None = None
    gathered: str = ""
    reduced: str = ""
    autocast: bool = False
    cached_weights: tuple[str, ...] = ()
    adapters: str = "fp32"
    unquantised: str = "fp32"
    notes: str = ""


@dataclass(frozen=True, slots=True)
class Stack:
    """How a stack holds a model on a rank, whatever its number types.

    Attributes:
        ddp_buckets: gradients are reduced through a second copy, as torch's DDP does by default.
        units: roles of the blocks that FSDP2 shares one by one, at ZeRO 2 and 3 (the root has the
            others); empty where ranks do not share by FSDP2.
        whole_under_pipeline: under a pipeline weights stay gathered, and gradients whole, from the
            first micro-batch to the last.
        keeps_root: where ranks share weights, those outside of the layers stay gathered all the time.
        defers_reduction: micro-batches but the last leave their gradients whole on every rank.
        flattens: a sharded unit is one flat tensor, so that its frozen weights get gradients beside
            its trained ones.
        holds_gradients: they lie in buffers of the stack's own, from step to step.
        flat_steps: ZeRO 1 and 2 step a flat copy of a partition, and below them bf16 gradients add
            up in an fp32 copy.
        fused_step: Adam steps in one kernel of the stack's own.
        keeps_sent: a stage of a pipeline keeps what it sent until its gradient is back.
        splits_sent: what it sent is divided over the ranks of tensor parallelism.
        receives_gradients_at_once: it has a buffer for the gradient of every micro-batch.
        library_buffers: workspaces and buffers of the stack and its libraries lie in the allocator.
        expandable_segments: its launcher asks the allocator for them.
        autocasts_alone: where nothing is gathered, autocast does what gathers in 16 bits would.
        fp8_casts: whose casts products in 8 bits keep; empty where they are made at use.
        runs_transformers: its models are transformers' classes.
        prepares_kbit: peft's ``prepare_model_for_kbit_training`` prepares a base of few bits.
    """

    name: str
    source: str
    source_date: str
    ddp_buckets: bool = False
    units: tuple[str, ...] = ()
    whole_under_pipeline: bool = False
    keeps_root: bool = False
    defers_reduction: bool = False
    flattens: bool = False
    holds_gradients: bool = False
    flat_steps: bool = False
    fused_step: bool = False
    keeps_sent: bool = False
    splits_sent: bool = False
    receives_gradients_at_once: bool = False
    library_buffers: bool = False
    expandable_segments: bool = False
    autocasts_alone: bool = False
    fp8_casts: str = ""
    runs_transformers: bool = False
    prepares_kbit: bool = False


@dataclass(frozen=True, slots=True)
class StackScope:
    """Which models a stack trains.

    Attributes:
        trains: kinds of models and of recurrent layers (:mod:`lmsize.stacks.scope`); a model with
            another one cannot be trained.
        own: of a kind, the model types that the stack has code of its own for; any type of a kind that
            is not there.
        otherwise: how a type that is not listed gets in, and what an estimate of it is.
    """

    stack: str
    trains: tuple[str, ...]
    source: str
    source_date: str
    own: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    otherwise: str = ""

    def has_code_for(self, kind: str, model_type: str) -> bool:
        """Whether the stack has code of its own for a type of a kind that it trains."""
        return kind not in self.own or model_type in self.own[kind]


@dataclass(frozen=True, slots=True)
class StateRule:
    """One tensor that an optimizer keeps for each parameter.

    Attributes:
        shape: ``like`` the parameter; ``row`` (without its last dimension); ``column`` (without
            its last but one); ``left_square`` (m x m) and ``right_square`` (n x n);
            ``projected`` (rank x longer side) and ``projector`` (rank x shorter side);
            ``projected_row`` and ``projected_column`` (``row`` and ``column`` of the projected);
            ``rows`` (first dimension); ``scalar``.
        dtype: ``state`` (the recipe's), ``weights``, a number type, or ``int8-block256`` and its
            like: one value a weight plus an fp32 scale for each block.
        on: ``all`` parameters this optimizer handles, ``matrix`` (2-D and more) or ``vector``.
        place: ``device`` or ``host``.
    """

    name: str
    shape: str = "like"
    dtype: str = "state"
    on: str = "all"
    place: str = "device"


@dataclass(frozen=True, slots=True)
class Optimizer:
    """What an optimizer keeps for each parameter and needs while it steps.

    Attributes:
        applies_to: ``all``, ``matrix`` (2-D and more) or ``hidden-matrix`` (those without
            embeddings and head); the others are stepped by `fallback`.
        min_numel: parameters with fewer elements keep every state in `small_dtype` (0: none).
        multiple_of: so do those whose size is no multiple of this (0: any size will do).
        max_preconditioner_dim: sides longer than this get no square state (0: no limit).
        block_dim: sides longer than this are cut into blocks with square states of their own
            (0: never).
        rank: of ``projected`` states.
        paged: states may move to host memory under pressure.
        foreach_copies: temporaries of a step over all parameters at once, as copies of them in
            the state type; None when there is no such implementation. `older_foreach_copies` before
            torch 2.1, where they were more.
        loop_copies: temporaries of the loop, as copies of the largest parameter; `raised_copies`
            more, and all in fp32, where weights in 16 bits are raised for it; `previous_copies` of
            the parameter before, which the loop's variables still name.
        fused_copies: temporaries of the fused kernel; None when there is none.
        gradient_is_freed: the step runs inside the backward and frees each gradient at once.
    """

    name: str
    states: tuple[StateRule, ...]
    source: str
    source_date: str
    label: str = ""
    applies_to: str = "all"
    fallback: str = ""
    min_numel: int = 0
    multiple_of: int = 0
    small_dtype: str = "fp32"
    max_preconditioner_dim: int = 0
    block_dim: int = 0
    rank: int = 0
    paged: bool = False
    default_implementation: str = "loop"
    foreach_copies: float | None = None
    older_foreach_copies: float | None = None
    loop_copies: float | None = None
    raised_copies: float = 0.0
    previous_copies: float = 0.0
    fused_copies: float | None = None
    gradient_is_freed: bool = False
    aliases: tuple[str, ...] = ()
    notes: str = ""
