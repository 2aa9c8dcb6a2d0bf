"""The blocks that one rank of a stage runs, each with what it keeps and needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from lmsize.layout.ends import ends_apart
from lmsize.layout.shares import Stage
from lmsize.memory.adapted_parts import has_magnitudes, ranks_of, saved_modules
from lmsize.memory.order import in_order, origin_of_bias
from lmsize.memory.shared_tables import masks_of, rotary_numel, windows_of
from lmsize.memory.stack_styles import style_of
from lmsize.memory.units import Unit
from lmsize.model.parts import AttentionCore
from lmsize.model.spec import Block, ModelSpec, Role, Run, Tower
from lmsize.numbers import ceil_div
from lmsize.stacks.ends import embedding_program, head_program
from lmsize.stacks.further import further_program
from lmsize.stacks.layer import layer_program
from lmsize.stacks.setting import Setting, Style, Use
from lmsize.tape.pieces import Piece, chained, piece
from lmsize.tape.program import Program

NO_UNIT = Unit()


@dataclass(frozen=True, slots=True)
class Placed:
    """`n_layers` equal blocks in a row.

    Attributes:
        checkpointed: whether they keep only their input, and run again for the backward.
        gradients: bytes of those of one block that stay, once it is undone.
        unit: what ranks share of one of them, where FSDP2 has them share it.
    """

    label: str
    role: Role
    n_layers: int
    piece: Piece
    checkpointed: bool
    gradients: Any
    unit: Unit = NO_UNIT


@dataclass(frozen=True, slots=True)
class _Ask:
    """What a block's piece depends on besides the block: hashable, so that it is made once."""

    stack: str
    setting: Setting
    width: int
    itemsize: float
    needs_grad: bool
    checkpointed: bool
    accumulates: bool
    upcasts: bool = False
    use: Use = "parameter"
    reads_encoder: bool = False
    encoder_needs_grad: bool = False
    is_read: bool = False
    windows: tuple[AttentionCore, ...] = ()
    recomputes: bool = False
    n_further: int = 0
    lays_out: bool = False


def placed_blocks(
    model: ModelSpec, adapters: ModelSpec | None, stage: Stage, setting: Setting, *, stack: str,
    recompute: str, accumulates: bool, gradient_shard: Callable[[Tower, Run], Any] | None = None,
    most_recomputed: int | None = None, unit_of: Callable[[Tower, Run], Unit] | None = None,
    vp: int = 1, lays_out: bool = False,
) -> Iterator[Placed]:  # fmt: skip
    """Every run of the stage in order of execution, each with its piece.

    The first of a run of layers may differ from the rest: no gradient flows into the first layer
    of a frozen model.

    Args:
        most_recomputed: how many layers full recomputation takes in, the first; None for all.
        gradient_shard: what stays of one block's gradients where they are divided over ranks as
            soon as they are made; None where they stay as they are.
        unit_of: what ranks share of one block; None where they share nothing layer by layer.
        vp: parts of a stage, which take turns with those of the others.
        lays_out: keeps what pieces ask of an allocator whose backward follows a forward at once.
    """
    style, ranks = style_of(stack, setting.switches), ranks_of(adapters)
    setting = _in_style(setting, style, adapters)
    walk = _Walk(
        model, stack, style, recompute, accumulates, setting.weight_itemsize,
        needs_grad=setting.trains_base or stage.index > 0,
        budget=_n_layers(stage) if most_recomputed is None else most_recomputed, lays_out=lays_out,
    )  # fmt: skip
    apart = ends_apart(stage, **setting.switches.bf16_ends, vp=vp)
    for tower, run, is_end, is_last, weights in in_order(apart, model, style):
        own = replace(
            setting, ranks=ranks.get((tower.name, run.block.name), ()),
            gathers_in_buffer=run.block.role in style.buffers, casts=None if is_end else setting.casts,
            is_last=is_last, weights=weights, bias=origin_of_bias(model, tower, run.block, style),
        )  # fmt: skip
        for n, made, again in walk.through(tower, run, _for_tower(own, tower)):
            unit = unit_of(tower, run) if unit_of else NO_UNIT
            kept = gradient_shard(tower, run) if gradient_shard else made.gradients
            # The root's gradients wait for the end, whole.
            kept = unit.kept if unit_of and not unit.in_root else kept
            together = (setting.switches.recompute_chunk or 1) if again else 1
            for count, each in _chunks(n, together):
                label = f"{count} x {f'{each} ' if each > 1 else ''}{run.block.name}"
                yield Placed(
                    label, run.block.role, count, chained(made, each), again, each * kept, unit
                )


def _in_style(setting: Setting, style: Style, adapters: ModelSpec | None) -> Setting:
    """What blocks of a stack and its adapters have in common."""
    adapting = replace(
        style.adapting, has_magnitudes=has_magnitudes(adapters),
        # FSDP2 that mixes precisions gathers adapters in the type of the base's weights.
        itemsize=None if setting.casts_inputs else style.adapting.itemsize,
    )  # fmt: skip
    return replace(
        setting, saved=saved_modules(adapters), adapting=adapting, spreads=style.spreads, gives_views=style.gives_views,
        gathers_once=style.gathers_once,
    )  # fmt: skip


@dataclass(slots=True)
class _Walk:
    """What flows from block to block.

    Attributes:
        itemsize: of the stream; `needs_grad` whether a gradient flows back along it.
        budget: layers that full recomputation may still take in.
        n_further: blocks for further tokens so far.
        lays_out: whether what pieces ask of an allocator is kept.
    """

    model: ModelSpec
    stack: str
    style: Style
    recompute: str
    accumulates: bool
    itemsize: float
    needs_grad: bool
    budget: int
    lays_out: bool
    encoder_needs_grad: bool = field(init=False)
    n_further: int = 0

    def __post_init__(self) -> None:
        self.encoder_needs_grad = self.needs_grad

    def through(
        self, tower: Tower, run: Run, setting: Setting
    ) -> Iterator[tuple[int, Piece, bool]]:
        """Equal layers of a run: how many, one's piece, and whether they run again."""
        block = run.block.of_text
        if block.role == "embedding":
            self.encoder_needs_grad = self.needs_grad
            self.itemsize, self.needs_grad = setting.weight_itemsize, setting.trains_base
        left, first = run.n_layers, True
        while left:
            again = _is_checkpointed(block, self.style, self.recompute) and (
                self.budget > 0 or block.role == "further"
            )
            ask = self._ask(tower, setting, again=again)
            made, self.itemsize, self.needs_grad = _made(block, ask)
            steady = self.needs_grad == ask.needs_grad and self.itemsize == ask.itemsize
            n = 1 if block.role == "further" or (first and not steady) else left
            if again and block.role == "layer":
                n = min(n, self.budget)
                self.budget -= n
            self.n_further += block.role == "further"
            yield n, made, again
            left, first = left - n, False

    def _ask(self, tower: Tower, setting: Setting, *, again: bool) -> _Ask:
        return _Ask(
            self.stack, setting, self.model.width, self.itemsize, self.needs_grad, again,
            self.accumulates, upcasts=self.style.upcasts(self.model), use=_use(self.model, tower),
            windows=windows_of(tower), recomputes=self.recompute == "full", n_further=self.n_further,
            encoder_needs_grad=self.encoder_needs_grad, lays_out=self.lays_out,
            **_crossing(self.model, tower),
        )  # fmt: skip


def _n_layers(stage: Stage) -> int:
    return sum(run.n_layers for _, run in stage.ordered if run.block.role == "layer")


def _chunks(n_layers: int, together: int) -> Iterator[tuple[int, int]]:
    """How many times so many layers run again together; the last ones may be fewer."""
    whole, rest = divmod(n_layers, together)
    if whole:
        yield whole, together
    if rest:
        yield 1, rest


def _use(model: ModelSpec, tower: Tower) -> Use:
    """Whether the gradient of this tower's table of tokens meets that of another use."""
    if not model.is_encoder_decoder:
        return "tied" if model.is_tied else "parameter"
    if tower.stream != "labels":
        return "shared"
    if model.is_tied:
        return "tied"
    own = any(run.n_copies and run.block.role == "embedding" for run in tower.runs)
    return "parameter" if own else "waiting"


def _for_tower(setting: Setting, tower: Tower) -> Setting:
    """A decoder's own length, where it has one; the encoder's is that of the keys it reads."""
    length = setting.switches.decoder_seq_length
    if tower.stream != "labels" or length is None:
        return setting
    return replace(setting, seq_len=ceil_div(length, setting.layout.cp), n_keys=setting.seq_len)


def _crossing(model: ModelSpec, tower: Tower) -> dict[str, bool]:
    """What the towers of an encoder-decoder hand over and read."""
    is_decoder = tower.stream == "labels"
    return {
        "reads_encoder": model.is_encoder_decoder and is_decoder,
        "is_read": model.is_encoder_decoder and not is_decoder,
    }


@lru_cache(maxsize=1024)
def _made(block: Block, ask: _Ask) -> tuple[Piece, float, bool]:
    style = style_of(ask.stack, ask.setting.switches)
    program = _program(block, ask, style)
    selective = ask.setting.recompute == "selective" and ask.checkpointed
    made = piece(
        program, checkpointed=ask.checkpointed, accumulates=ask.accumulates,
        keeps=style.keeps if selective else None, offloads=style.offloads, reentrant=style.reentrant,
        lays_out=ask.lays_out and (ask.checkpointed or (block.role == "head" and not ask.is_read)),
    )  # fmt: skip
    return made, program.outputs[0].itemsize, program.outputs[0].needs_grad


def _program(block: Block, ask: _Ask, style: Style) -> Program:
    if block.role == "embedding":
        return embedding_program(
            block, ask.setting, style, use=ask.use, rotary_numel=rotary_numel(ask.setting, ask.windows),
            masks=masks_of(ask.setting, ask.windows) if style.hands_masks else None,
            keeps_mask=ask.recomputes,
        )  # fmt: skip
    written = style.own(ask.setting.conduct.model_type)
    n_streams = ask.setting.conduct.n_streams if written.layer else 1
    if block.role == "further":
        return further_program(
            block, ask.setting, style, width=ask.width, itemsize=ask.itemsize,
            needs_grad=ask.needs_grad, n_before=ask.n_further,
        )  # fmt: skip
    if block.role == "head":
        return head_program(
            block, ask.setting, style, width=ask.width * n_streams, itemsize=ask.itemsize,
            needs_grad=ask.needs_grad, upcasts=ask.upcasts, is_read=ask.is_read,
            n_further=ask.n_further,
        )  # fmt: skip
    return layer_program(
        block, ask.setting, style, width=ask.width * n_streams, itemsize=ask.itemsize,
        needs_grad=ask.needs_grad, reads_encoder=ask.reads_encoder,
        encoder_needs_grad=ask.encoder_needs_grad,
    )  # fmt: skip


def _is_checkpointed(block: Block, style: Style, recompute: str) -> bool:
    """Whether a block runs again for its backward, in whole or but for some operations."""
    by_operation = recompute == "selective" and style.keeps is not None
    return block.role in ("layer", "further") and (recompute == "full" or by_operation)
