"""What comes before the first layer and after the last: tables, the head, the loss."""

from __future__ import annotations

from typing import Any, NamedTuple

from lmsize.model.parts import Embedding, Linear, Norm, Plain
from lmsize.model.spec import Block
from lmsize.stacks import habits
from lmsize.stacks.linears import INTEGER, applied
from lmsize.stacks.local import local_embedding, local_linear
from lmsize.stacks.looking_up import looked_up
from lmsize.stacks.losses import LOSSES, capped
from lmsize.stacks.setting import Setting, Style, Use, new_program, normed, parameter
from lmsize.tape import ops
from lmsize.tape.program import Gradient, Op, Program, Tensor

FP32 = 4
BY_TOKEN = ("type", "pronunciation", "shape_embed", "x_pos", "y_pos", "h_pos", "w_pos")


class Masks(NamedTuple):
    """Numbers of the masks that layers are given; their bytes each, if not those of the stream's.

    Whether layers save them.
    """

    numel: Any
    itemsize: float | None = None
    is_saved: bool = False


def embedding_program(
    block: Block, setting: Setting, style: Style, *, use: Use, rotary_numel: Any = 0,
    masks: Masks | None = None, keeps_mask: bool = False,
) -> Program:  # fmt: skip
    """Tables looked up and summed, their norm, dropout; what all layers share.

    Args:
        use: of the vocabulary's table: ``tied`` where its gradient is added to the head's, ``shared`` to
            another's (a decoder's), ``waiting`` where another will be added to it.
        masks: those that layers get.
        keeps_mask: whether they live until the backward, as inputs of checkpointed layers.
    """
    program = new_program(setting, style, compiles=False)
    stream, leaf = _tables(program, block, setting, style, use=use)
    if rotary_numel:
        _rotary_tables(program, rotary_numel, stream)
    if masks is not None:
        _mask(program, masks, stream.itemsize, kept=keeps_mask or masks.is_saved)
    if (
        leaf is not None and leaf is not stream
    ):  # a leaf that asks for a gradient is held by its node
        program.ops.append(Op("leaf", (), (), clings=(leaf,)))
    program.outputs.append(stream)
    if setting.conduct.model_type in habits.NAMES_EMBEDDINGS:
        rows = [op.writes[0] for op in program.ops if op.name == "embedding"]
        program.handed += [row for row in rows if row is not stream]
        program.names_rows = all(row is not stream for row in rows)
    return program


def _tables(
    program: Program, block: Block, setting: Setting, style: Style, *, use: Use
) -> tuple[Tensor, Tensor | None]:
    """The sum of what tables give, normed, dropped out and projected; the leaf that asks for gradients.

    Dropout comes after the first norm, where there is one, and else last.
    """
    if tables := style.own(setting.conduct.model_type).tables:
        return tables(program, block, setting, style, use=use)
    keeps_all = setting.conduct.model_type in habits.KEEPS_EMBEDDINGS
    rate = 0.0 if keeps_all else setting.conduct.embedding_dropout
    is_dropped = False
    meet = _joined if _are_joined(block) else ops.add
    stream: Tensor | None = None
    leaf: Tensor | None = None
    for part in block.parts:
        if isinstance(part, Embedding):
            n_rows = setting.n_stream_tokens if _is_by_token(part) else None
            row = looked_up(
                program, local_embedding(part, setting.layout), setting, n_rows, use=use
            )
            leaf = row if part.is_vocabulary and setting.inputs_need_grad else leaf
            stream = row if stream is None else meet(program, stream, row)
        elif isinstance(part, Norm) and stream is not None:
            stream = normed(program, stream, part, setting, style)
            stream = stream if is_dropped else ops.dropout(program, stream, rate)
            is_dropped = True
        elif isinstance(part, Linear) and stream is not None:
            stream, meet = applied(program, stream, part, setting), ops.add
    if stream is None:
        raise ValueError(f"{block.name} has no embedding")
    scales_outside = setting.conduct.model_type in habits.SCALES_OUTSIDE
    if setting.conduct.scales_embedding or scales_outside:
        stream = ops.pointwise(program, stream, name="scaled embedding")
        leaf = leaf if scales_outside or leaf is None else stream
    return stream if is_dropped else ops.dropout(program, stream, rate), leaf


def _joined(program: Program, stream: Tensor, row: Tensor) -> Tensor:
    return ops.cat(program, [stream, row], name="tables")


def _are_joined(block: Block) -> bool:
    """Whether the tables before a projection lie side by side for it, not on top of each other."""
    widths: list[int] = []
    for part in block.parts:
        if isinstance(part, Linear):
            return len(widths) > 1 and part.n_in == sum(widths)
        widths += [part.width] if isinstance(part, Embedding) else []
    return False


def _is_by_token(part: Embedding) -> bool:
    """Whether each token of each sequence has a row of its own; positions are alike for all."""
    return part.is_vocabulary or any(word in part.name for word in BY_TOKEN)


def head_program(
    block: Block, setting: Setting, style: Style, *, width: int, itemsize: float, needs_grad: bool,
    upcasts: bool, is_read: bool = False, n_further: int = 0,
) -> Program:  # fmt: skip
    """The last norm, the projections and the loss of every token.

    Args:
        is_read: the output is not a loss but what a decoder reads, until it is undone.
        n_further: streams of further tokens that come beside, whose losses are taken first.
    """
    program = new_program(setting, style, compiles=False)
    one = setting.n_stream_tokens * width
    x = program.input("stream", one * (1 + n_further), itemsize, needs_grad=needs_grad)
    if n_further:
        x, *others = ops.split(program, x, (one,) * (1 + n_further))
        _further_losses(program, others, block, setting, style, upcasts=upcasts)
    ending = style.own(setting.conduct.model_type).ending
    x, parts = ending(program, x, block, setting, style)
    last: Linear | None = None
    outputs = x  # of the model below the head, which names them until the loss is taken
    for part in parts:
        if isinstance(part, Norm):
            x = normed(program, x, part, setting, style)
            if setting.conduct.model_type in habits.T5_NORM:
                x = ops.dropout(program, x, setting.conduct.hidden_dropout)
            outputs = x if last is None else outputs
        elif isinstance(part, Linear) and part.per_token >= 1:
            last, local = part, local_linear(part, setting.layout)
            if _is_output(part, block) and setting.loss and not is_read:
                made = LOSSES[setting.loss](program, x, local, setting, upcasts)
                program.hold(outputs)
                program.outputs.append(made)
                return program
            x = _projected(program, x, local, setting)
            if not _is_output(part, block):
                x = style.activation(program, x, setting.conduct.activation)
    x = _biased(program, x, block, setting)
    if is_read:
        kept = (x,) if _is_saved(x, setting) else ()
        program.ops.append(Op("kept for the decoder", (x,), (), saves=kept))
        program.cached.append(x)  # which the decoder's code names
    elif last is None:
        x = ops.mean(program, x, numel=1)
    else:
        x = _whole_loss(program, x, setting, style, upcasts=upcasts)
        program.hold(outputs)
    program.outputs.append(x)
    return program


def _biased(program: Program, x: Tensor, block: Block, setting: Setting) -> Tensor:
    """The logits plus a parameter, in the larger of both types, where a class writes it so."""
    part = next((part for part in block.parts if isinstance(part, Plain)), None)
    if part is None or setting.conduct.model_type not in habits.BIAS_APART:
        return x
    bias = parameter(program, part.name, part.shape[-1], setting)
    made = Tensor("logits", x.numel, max(x.itemsize, bias.itemsize))
    to_logits = Gradient(x, "same" if x.itemsize == made.itemsize else "new")
    return program.record("add", [x, bias], made, gradients=[to_logits, Gradient(bias)])


def _is_saved(x: Tensor, setting: Setting) -> bool:
    """Whether a decoder's layers save what they read of the encoder, and not copies in another type.

    Checkpointed layers do; so do products with trained keys' and values' matrices, or with adapters
    of its type, and bitsandbytes' in int8.
    """
    in_own_type = setting.trains_base or x.itemsize == (setting.adapting.itemsize or x.itemsize)
    return (
        setting.recompute == "full" or setting.quant == INTEGER
        or (setting.autocast is None and in_own_type)
    )  # fmt: skip


def _whole_loss(
    program: Program, logits: Tensor, setting: Setting, style: Style, *, upcasts: bool
) -> Tensor:
    """The stack's own loss of all logits, capped where the model caps them."""
    if setting.conduct.model_type in habits.LOGITS_BIAS:
        bias = Tensor("final_logits_bias", 0, setting.weight_itemsize, kind="given")
        logits = ops.add(program, logits, bias)
    logits = capped(program, logits, setting)
    loss = style.loss
    if style.spread_loss is not None and setting.layout.tp > 1:
        loss = style.spread_loss
    x = loss(program, logits, upcasts=upcasts, n_tokens=setting.n_tokens)
    program.hold(logits)
    return x


def _further_losses(
    program: Program, streams: list[Tensor], block: Block, setting: Setting, style: Style, *,
    upcasts: bool,
) -> None:  # fmt: skip
    """A loss for each stream of further tokens, by the same projection."""
    output = [p for p in block.parts if isinstance(p, Linear) and p.per_token >= 1][-1]
    local = local_linear(output, setting.layout)
    for stream in streams:
        if setting.loss:
            made = LOSSES[setting.loss](program, stream, local, setting, upcasts)
        else:
            logits = applied(program, stream, local, setting)
            made = _whole_loss(program, logits, setting, style, upcasts=upcasts)
        program.outputs.append(made)


def _projected(program: Program, x: Tensor, part: Linear, setting: Setting) -> Tensor:
    """Mamba's classes cast the stream to the head's type, and the logits to fp32."""
    if not setting.conduct.fp32_stream:
        return applied(program, x, part, setting)
    x = x if setting.autocast else ops.cast(program, x, setting.weight_itemsize)
    return ops.cast(program, applied(program, x, part, setting), FP32)


def _is_output(part: Linear, block: Block) -> bool:
    """Whether it is the block's last projection, which the loss reads."""
    linears = [p for p in block.parts if isinstance(p, Linear) and p.per_token >= 1]
    return part is linears[-1]


def _rotary_tables(program: Program, numel: Any, stream: Tensor | None) -> None:
    """Cosines and sines, in the type of the stream, which every layer saves and reads."""
    itemsize = 4 if stream is None else stream.itemsize
    tables = [Tensor(name, numel, itemsize) for name in ("cosines", "sines")]
    program.ops.append(Op("rotary tables", (), tuple(tables), saves=tuple(tables)))


def _mask(program: Program, masks: Masks, itemsize: float, *, kept: bool) -> None:
    """What every layer is given, until the last of them has run or a backward is over."""
    mask = Tensor("mask", masks.numel, masks.itemsize or itemsize)
    program.ops.append(Op("mask", (), (mask,), saves=(mask,) if kept else ()))
    program.hand_on(mask)
