"""The blocks that one rank of a stage runs, each with what it keeps and needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Any

from lmsize.layout.shares import Stage
from lmsize.model.parts import AttentionCore, Linear
from lmsize.model.spec import Block, ModelSpec, Role, Run, Tower
from lmsize.numbers import ceil_div
from lmsize.stacks import habits, litgpt, megatron, torchtitan, transformers, unsloth
from lmsize.stacks.ends import Use, embedding_program, head_program
from lmsize.stacks.layer import layer_program
from lmsize.stacks.sections import is_understood
from lmsize.stacks.setting import Setting, Style
from lmsize.tape.pieces import Piece, piece
from lmsize.tape.program import Program

STYLES: dict[str, Style] = {
    "transformers": transformers.STYLE, "deepspeed": transformers.STYLE,
    "megatron": megatron.STYLE, "torchtitan": torchtitan.STYLE, "litgpt": litgpt.STYLE,
    "unsloth": unsloth.STYLE,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Placed:
    """`n_layers` equal blocks in a row.

    Attributes:
        checkpointed: whether they keep only their input, and run again for the backward.
        gradients: bytes of those of one block that stay, once it is undone.
    """

    label: str
    role: Role
    n_layers: int
    piece: Piece
    checkpointed: bool
    gradients: Any


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
    is_read: bool = False
    n_masks: int = 0
    n_bias_heads: int = 0
    recomputes: bool = False


def as_built(stack: str, model: ModelSpec) -> ModelSpec:
    """The model as the stack's own classes have it."""
    return STYLES[stack].built(model) if stack in STYLES else model


def covers(stack: str, model: ModelSpec, attention: str) -> bool:
    """Whether the stack's programs are known for every block that this model runs."""
    del attention
    live = [tower for tower in model.towers if tower.stream != "idle"]
    is_whole = len(live) == 1 or (len(live) == 2 and model.is_encoder_decoder)
    return stack in STYLES and is_whole and all(
        is_understood(run.block) for tower in live for run in tower.runs
    )  # fmt: skip


def placed_blocks(
    model: ModelSpec, adapters: ModelSpec | None, stage: Stage, setting: Setting, *, stack: str,
    recompute: str, accumulates: bool, gradient_shard: Callable[[Tower, Run], Any] | None = None,
    most_recomputed: int | None = None,
) -> Iterator[Placed]:  # fmt: skip
    """Every run of the stage in order of execution, each with its piece.

    The first of a run of layers may differ from the rest: no gradient flows into the first layer
    of a frozen model.

    Args:
        most_recomputed: how many layers full recomputation takes in, the first; None for all.
        gradient_shard: what stays of one block's gradients where they are divided over ranks as
            soon as they are made; None where they stay as they are.
    """
    itemsize, needs_grad = setting.weight_itemsize, setting.trains_base or stage.index > 0
    ranks = _ranks(adapters)
    layers = sum(run.n_layers for _, run in stage.ordered if run.block.role == "layer")
    budget = layers if most_recomputed is None else most_recomputed
    for tower, run in _as_run(stage.ordered, model):
        block = run.block
        if block.role == "embedding":
            itemsize, needs_grad = setting.weight_itemsize, setting.trains_base
        own = replace(
            setting, ranks=ranks.get((tower.name, block.name), ()), adapting=STYLES[stack].adapting
        )
        own = _for_tower(own, tower)
        left, first = run.n_layers, True
        while left:
            again = _is_checkpointed(block, stack, recompute) and budget > 0
            ask = _Ask(
                stack, own, model.width, itemsize, needs_grad,
                again, accumulates,
                upcasts=STYLES[stack].upcasts(model), use=_use(model, tower),
                n_masks=_n_masks(model), recomputes=recompute == "full",
                n_bias_heads=_n_bias_heads(model, stack), **_crossing(model, tower),
            )  # fmt: skip
            made, itemsize, needs_grad = _made(block, ask)
            steady = needs_grad == ask.needs_grad and itemsize == ask.itemsize
            n = left if steady or not first else 1
            n = min(n, budget) if again else n
            budget -= n if again else 0
            kept = gradient_shard(tower, run) if gradient_shard else made.gradients
            yield Placed(f"{n} x {block.name}", block.role, n, made, ask.checkpointed, kept)
            left, first = left - n, False


def _as_run(
    runs: Iterable[tuple[Tower, Run]], model: ModelSpec
) -> Iterator[tuple[Tower, Run]]:  # fmt: skip
    """The runs whose blocks are programs: a tower's tables are one, whoever owns the first.

    An encoder without a last norm hands over its last layer's output, which a block of its own holds.
    """
    for tower, of_tower in groupby((one for one in runs if one[0].stream != "idle"), itemgetter(0)):
        tables: list[Run] = []
        rest: list[Run] = []
        for _, run in of_tower:
            (tables if run.block.role == "embedding" else rest).append(run)
        if tables:
            parts = tuple(part for run in tables for part in run.block.parts)
            yield tower, replace(tables[-1], block=replace(tables[0].block, parts=parts))
        for run in rest:
            yield tower, run
        is_encoder = model.is_encoder_decoder and tower.stream == "input"
        if is_encoder and rest and rest[-1] is tower.runs[-1] and rest[-1].block.role == "layer":
            yield tower, Run(Block("output", (), role="head"))


def _ranks(adapters: ModelSpec | None) -> dict[tuple[str, str], tuple[tuple[str, int], ...]]:
    """By tower and block: the rank of each adapted linear."""
    found: dict[tuple[str, str], tuple[tuple[str, int], ...]] = {}
    for tower, run in adapters.runs() if adapters else ():
        found[tower.name, run.block.name] = tuple(
            (part.name.removesuffix(".lora_A"), part.n_out)
            for part in run.block.parts
            if isinstance(part, Linear) and part.name.endswith(".lora_A")
        )
    return found


def _is_tied(model: ModelSpec) -> bool:
    return any(
        isinstance(part, Linear) and part.tied
        for _, run in model.runs()
        for part in run.block.parts
    )


def _use(model: ModelSpec, tower: Tower) -> Use:
    """Whether the gradient of this tower's table of tokens meets that of another use."""
    if not model.is_encoder_decoder:
        return "shared" if _is_tied(model) else "parameter"
    if tower.stream != "labels" or _is_tied(model):
        return "shared"
    own = any(run.n_copies and run.block.role == "embedding" for run in tower.runs)
    return "parameter" if own else "waiting"


def _for_tower(setting: Setting, tower: Tower) -> Setting:
    """A decoder's own length, where it has one; the encoder's is that of the keys it reads."""
    length = setting.switches.decoder_seq_length
    if tower.stream != "labels" or length is None:
        return setting
    shards = max(1, setting.layout.cp)
    return replace(setting, seq_len=ceil_div(length, shards), n_keys=setting.seq_len)


def _crossing(model: ModelSpec, tower: Tower) -> dict[str, bool]:
    """What the towers of an encoder-decoder hand over and read."""
    is_decoder = tower.stream == "labels"
    return {
        "reads_encoder": model.is_encoder_decoder and is_decoder,
        "is_read": model.is_encoder_decoder and not is_decoder,
    }


@lru_cache(maxsize=1024)
def _made(block: Block, ask: _Ask) -> tuple[Piece, float, bool]:
    program = _program(block, ask)
    out = program.outputs[0]
    selective = ask.setting.recompute == "selective" and ask.checkpointed
    made = piece(
        program, checkpointed=ask.checkpointed, accumulates=ask.accumulates,
        keeps=torchtitan.keeps if selective else None, offloads=STYLES[ask.stack].offloads,
        reentrant=STYLES[ask.stack].reentrant,
    )  # fmt: skip
    return made, out.itemsize, out.needs_grad


def _program(block: Block, ask: _Ask) -> Program:
    is_megatron = ask.stack == "megatron"
    style = megatron.style(ask.setting.switches) if is_megatron else STYLES[ask.stack]
    if block.role == "embedding":
        return embedding_program(
            block, ask.setting, style, use=ask.use, rotary_numel=_rotary_numel(ask),
            mask_numel=_mask_numel(ask), keeps_mask=ask.recomputes,
            n_bias_heads=ask.n_bias_heads, reads_encoder=ask.reads_encoder,
        )  # fmt: skip
    if block.role == "head":
        return head_program(
            block, ask.setting, style, width=ask.width, itemsize=ask.itemsize,
            needs_grad=ask.needs_grad, upcasts=ask.upcasts, is_read=ask.is_read,
        )  # fmt: skip
    return layer_program(
        block, ask.setting, style, width=ask.width, itemsize=ask.itemsize,
        needs_grad=ask.needs_grad, reads_encoder=ask.reads_encoder,
    )  # fmt: skip


def _rotary_numel(ask: _Ask) -> Any:
    if not ask.setting.conduct.rotary:
        return 0
    return ask.setting.seq_len * ask.setting.head_dim


def _is_checkpointed(block: Block, stack: str, recompute: str) -> bool:
    """Whether a block runs again for its backward, in whole or but for some operations."""
    by_operation = recompute == "selective" and stack == "torchtitan"
    return block.role == "layer" and (recompute == "full" or by_operation)


def _mask_numel(ask: _Ask) -> Any:
    """One mask for each kind of causal attention, for every sequence."""
    setting = ask.setting
    if setting.attention != "eager":
        return 0
    return ask.n_masks * setting.micro_batch * setting.seq_len * setting.seq_len


def _n_bias_heads(model: ModelSpec, stack: str) -> int:
    """Heads that get a learned bias of relative positions."""
    takes_one = model.conduct.model_type in habits.POSITION_BIAS and stack == "transformers"
    return model.n_heads if takes_one else 0


def _n_masks(model: ModelSpec) -> int:
    cores = (p for _, run in model.runs() for p in run.block.parts if isinstance(p, AttentionCore))
    return len({core.window for core in cores if core.causal and not core.cross})


def head_dim(model: ModelSpec) -> int:
    """Width of a query head of the first attention core; 0 without one."""
    cores = (p for _, run in model.runs() for p in run.block.parts if isinstance(p, AttentionCore))
    return next((core.head_dim for core in cores), 0)
