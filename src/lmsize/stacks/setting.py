"""What a block's program depends on besides the block, and how a stack writes its pieces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from lmsize.layout.degrees import Layout
from lmsize.model.conduct import Conduct
from lmsize.model.parts import AttentionCore, Norm
from lmsize.model.spec import ModelSpec
from lmsize.numbers import ceil_div
from lmsize.stacks.own import Own, none
from lmsize.stacks.switches import USUAL, Switches
from lmsize.tape.casts import Casts
from lmsize.tape.program import Op, Program, Tensor

ONE = Layout()
QKV = tuple[Tensor, Tensor, Tensor]
Origin = Literal["", "own", "made", "read"]
Use = Literal["parameter", "tied", "shared", "waiting"]


@dataclass(frozen=True, slots=True)
class Adapting:
    """How a stack writes adapters, and products with a frozen base of few bits.

    Attributes:
        itemsize: bytes of an adapter's number; None for that of the base's weights.
        dropout: of an adapter's input (a fraction).
        casts: whether an adapter's input is cast to its type, and the sum back, as peft does.
        keeps_inputs: whether a product of few bits saves its input, which its backward never
            reads, as bitsandbytes did before 0.44 (pull request 1270 there).
        has_magnitudes: whether outputs are scaled to a learned magnitude (DoRA).
        n_dequantised: copies of a weight in full that such a product makes.
    """

    itemsize: float | None = 4.0
    dropout: float = 0.0
    casts: bool = True
    keeps_inputs: bool = False
    n_dequantised: int = 1
    has_magnitudes: bool = False


PEFT = Adapting()


@dataclass(frozen=True, slots=True)
class Setting:
    """One rank's view of a micro-batch, and the number types of the step.

    Attributes:
        micro_batch, seq_len: sequences, and tokens of each that this rank has.
        n_keys: tokens that a cross attention reads, if not `seq_len`.
        weight_itemsize: bytes of a weight as the model holds it; of activations without autocast.
        autocast: bytes of a number under autocast; None without.
        attention: ``eager``, ``sdpa`` or ``flash``.
        trains_base: False where only adapters are trained.
        ranks: LoRA rank of each adapted linear, by its name in the block.
        saved: names of modules that are trained whole though the base is frozen.
        head_dim: width of what rotary positions turn.
        inputs_need_grad: whether looked-up embeddings ask for gradients though their table is
            frozen, as checkpointing of a model with adapters has it.
        layout: of the run; programs are those of one of its ranks.
        quant_itemsize: of products with weights in few bits; `unpacks` whether these are unpacked in
            plain torch (GPTQ) rather than dequantised by a kernel (bitsandbytes).
        switches: of the stack.
        quant: type in which the base's adaptable linears are stored; empty if as they are.
        adapting: how adapters and products of few bits are written.
        casts_inputs: whether what a layer is given is cast to its type, as FSDP2 does that mixes
            precisions.
        spreads: whether tensor parallelism is by DTensors, each collective of which makes a tensor.
        gives_views: whether products are torch's own, which give weights views for gradients.
        reduces_at_once: whether FSDP2 reduces gradients as they are made.
        gathers_once: whether tokens that sequence parallelism gathers are a tensor that products save.
        gathers_in_buffer: whether products gather those tokens in a buffer that is there anyway.
        casts: how hidden linears cast their operands to few bits; None where they do not.
        is_last: whether the layer is the last of its tower, which is undone first.
        bias: of relative positions: each layer's ``own``, ``made`` here for later layers too, or
            ``read``, made by the first; empty without one.
        weights: the same of the weights, where layers share them; empty where they do not.
        is_half: whether 16-bit products are in fp16, which torch's softmax reads as it is.
        loss: how the loss is taken (:data:`lmsize.stacks.losses.LOSSES`); empty: as the stack does.
    """

    micro_batch: Any
    seq_len: Any
    weight_itemsize: float
    conduct: Conduct
    autocast: float | None = None
    attention: str = "sdpa"
    trains_base: bool = True
    ranks: tuple[tuple[str, int], ...] = ()
    saved: tuple[str, ...] = ()
    quant: str = ""
    n_keys: Any = None
    head_dim: int = 0
    inputs_need_grad: bool = False
    layout: Layout = ONE
    recompute: str = "none"
    quant_itemsize: float = 0.0
    unpacks: bool = False
    switches: Switches = USUAL
    adapting: Adapting = PEFT
    casts_inputs: bool = False
    spreads: bool = False
    gives_views: bool = True
    reduces_at_once: bool = False
    gathers_once: bool = False
    gathers_in_buffer: bool = False
    loss: str = ""
    casts: Casts | None = None
    is_half: bool = False
    is_last: bool = False
    bias: Origin = ""
    weights: Origin = ""

    @property
    def of_shared(self) -> Setting:
        """For linears whose input something else saves."""
        return replace(self, casts=self.casts.of_shared) if self.casts is not None else self

    def rank(self, name: str) -> int | None:
        """The rank of a linear's adapter; None if it has none."""
        return next((rank for adapted, rank in self.ranks if adapted == name), None)

    def trains(self, name: str) -> bool:
        """Whether a parameter of the base gets a gradient."""
        return self.trains_base or name in self.saved

    def runs_again(self, module: str) -> bool:
        """Whether selective recomputation, under Megatron, takes in a module."""
        return self.recompute == "selective" and module in self.switches.recompute_modules

    @property
    def n_tokens(self) -> Any:
        return self.micro_batch * self.seq_len

    @property
    def sequence_shards(self) -> int:
        """Over how many ranks norms and the stream divide their tokens."""
        return self.layout.tp if self.layout.sequence_parallel else 1

    @property
    def n_stream_tokens(self) -> Any:
        """Tokens of the stream that this rank holds."""
        return ceil_div(self.n_tokens, self.sequence_shards)

    @property
    def compute_itemsize(self) -> float:
        """Bytes of a number in matrix products."""
        return self.autocast or self.weight_itemsize


@dataclass(frozen=True, slots=True)
class Style:
    """How a stack writes the pieces of a layer; each appends its operations to a program.

    Attributes:
        norm: of a tensor's rows; `core` scores and weighted values of queries, keys and values.
        rotary: turns queries and keys.
        activation: by transformers' name; `gated` an activation times its gate.
        loss: logits of the labels' tokens -> the loss; told whether the class upcasts them.
        gated: an activation times its gate in one operation; None where they are two.
        mixture: routed and shared experts; None for those of transformers.
        fuses_weight_gradients: whether products add to the main gradients themselves.
        fuses_matrices: whether queries, keys and values, gate and up are one matrix each.
        is_compiled: whether a compiler computes cheap tensors again rather than save them.
        recomputes_modules: whether selective recomputation goes by modules.
        upcasts: whether a model's loss takes logits to fp32.
        adapting: how adapters and products of few bits are written.
        qkv: queries, keys and values from the normed stream, where they are not one projection
            each; None where they are.
        down: the last product of a gated MLP, where its input is not saved.
        casts_inputs: whether what a layer is given is cast to its type, as FSDP2 does that mixes
            precisions.
        spreads: whether tensor parallelism is by DTensors (:mod:`lmsize.stacks.spread`).
        gives_views: whether products are torch's own, not functions of the stack's.
        gathers_once: whether tokens that sequence parallelism gathers are a tensor that products save,
            not gathered again for the backward.
        buffers: roles of the blocks whose products gather tokens in a buffer that is there anyway.
        offloads: whether the inputs of layers that run again wait on the host.
        spread_loss: the loss of a share of the vocabulary's logits, where it is another.
        reentrant: whether a layer runs again as one function's backward, before any of its own.
        keeps: which operations selective recomputation does not run again, by what came before;
            None where it goes by modules.
        has_position_bias: whether scores get their learned bias as a tensor of its own.
        copies_values: whether values unfolded from a latent get a tensor of their own.
        hands_masks: whether eager layers are handed a mask to add, made for every micro-batch; their
            softmax masks by itself where not.
        built: a model as the stack's own classes have it, where they differ from transformers'.
        own: by model type, what its classes write for themselves.
    """

    norm: Callable[..., Tensor]
    rotary: Callable[[Program, Tensor, Setting], Tensor]
    core: Callable[[Program, QKV, AttentionCore, Setting], Tensor]
    activation: Callable[[Program, Tensor, str], Tensor]
    loss: Callable[..., Tensor]
    gated: Callable[[Program, Tensor, Tensor, str], Tensor] | None = None
    mixture: Callable[..., Tensor] | None = None
    fuses_weight_gradients: bool = False
    fuses_matrices: bool = False
    is_compiled: bool = False
    recomputes_modules: bool = False
    upcasts: Callable[[ModelSpec], bool] = field(default=lambda _model: True)
    adapting: Adapting = PEFT
    qkv: Callable[..., QKV] | None = None
    down: Callable[..., Tensor] | None = None
    spreads: bool = False
    gives_views: bool = True
    gathers_once: bool = False
    buffers: tuple[str, ...] = ()
    offloads: bool = False
    spread_loss: Callable[..., Tensor] | None = None
    reentrant: bool = False
    keeps: Callable[[Op, int], bool] | None = None
    has_position_bias: bool = False
    copies_values: bool = False
    hands_masks: bool = True
    built: Callable[[ModelSpec], ModelSpec] = field(default=lambda model: model)
    own: Callable[[str], Own] = field(default=none)


def new_program(setting: Setting, style: Style, *, compiles: bool = True) -> Program:
    """An empty program of a setting in a style; `compiles` what a compiler of the layers takes in."""
    return Program(
        autocast=setting.autocast, fuses_weight_gradients=style.fuses_weight_gradients,
        is_compiled=style.is_compiled and compiles, trains_base=setting.trains_base,
        weights=setting.weights, is_last=setting.is_last,
    )  # fmt: skip


def parameter(
    program: Program, name: str, numel: Any, setting: Setting, *, tied: bool = False
) -> Tensor:
    """A parameter of the base model, trained or not; a tied one waits for its other gradient."""
    return program.parameter(
        name, numel, setting.weight_itemsize, trained=setting.trains(name),
        kind="waiting" if tied and name not in setting.saved else "parameter",
    )  # fmt: skip


def normed(
    program: Program, x: Tensor, norm: Norm, setting: Setting, style: Style, *, n_rows: Any = None
) -> Tensor:
    """A norm part on a tensor; `n_rows` where it norms heads rather than tokens."""
    rows = setting.n_stream_tokens if n_rows is None else n_rows
    return style.norm(program, x, norm, setting, n_rows=rows)
