"""Layers that predict further tokens, as Megatron has them (multi-token prediction).

Each joins the embedding of the next token to the stream, projects both, passes one more layer and
takes a loss of its own. All lie on the last stage, which for that has a copy of the table.

Source: Megatron-LM core/transformer/multi_token_prediction.py, ``MultiTokenPredictionLayer`` and
``process_mtp_loss``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

from lmsize.model.parts import Linear, Norm
from lmsize.model.spec import Block, ModelSpec, Run
from lmsize.stacks.layer import residual
from lmsize.stacks.linears import applied
from lmsize.stacks.local import local_linear, local_section
from lmsize.stacks.own import USUAL, is_understood
from lmsize.stacks.sections import sections
from lmsize.stacks.setting import Setting, Style, new_program, normed
from lmsize.tape import kernels, ops
from lmsize.tape.program import Program, Tensor


@dataclass(frozen=True, slots=True)
class Further:
    """The parts of such a block.

    Attributes:
        norms: of the embedding, of the stream, of the output.
        joined: projects both; `layer` is the layer after it; `output` the head, used once more.
    """

    norms: tuple[Norm, Norm, Norm]
    joined: Linear
    layer: Block
    output: Linear


def with_further(model: ModelSpec, n_layers: int) -> ModelSpec:
    """The model with layers for so many further tokens, each like its last one."""
    if not n_layers:
        return model
    *before, tower = model.towers
    layer = next(run.block for run in reversed(tower.runs) if run.block.role == "layer")
    head = next(run.block for run in reversed(tower.runs) if run.block.role == "head")
    output = [p for p in head.parts if isinstance(p, Linear) and p.per_token >= 1][-1]
    norm = next(p for p in layer.parts if isinstance(p, Norm))
    width = model.width
    block = Block("mtp layer", (
        replace(norm, name="enorm", width=width), replace(norm, name="hnorm", width=width),
        Linear("eh_proj", 2 * width, width, False, "column"), *layer.parts,
        replace(norm, name="final_layernorm", width=width), replace(output, tied=True),
    ), "further")  # fmt: skip
    at = next(i for i, run in enumerate(tower.runs) if run.block is head)
    made = [Run(block, 1, 1)] * n_layers
    runs = (*tower.runs[:at], *made, *tower.runs[at:])
    return replace(model, towers=(*before, replace(tower, runs=runs)))


def parts_of(block: Block) -> Further:
    """What :func:`with_further` put together."""
    first, second, joined, *layer, last, output = block.parts
    if not (isinstance(joined, Linear) and isinstance(output, Linear)):
        raise TypeError(f"{block.name} does not join two streams")
    norms = (cast("Norm", first), cast("Norm", second), cast("Norm", last))
    return Further(norms, joined, Block("layer", tuple(layer)), output)


def is_further_understood(block: Block) -> bool:
    """Whether a program can be built of its layer."""
    return is_understood(parts_of(block).layer, USUAL)


def further_program(
    block: Block, setting: Setting, style: Style, *, width: int, itemsize: float, needs_grad: bool,
    n_before: int,
) -> Program:  # fmt: skip
    """One such layer: the streams that come, and its own after them.

    Args:
        n_before: streams of further tokens that are there already.
    """
    parts = parts_of(block)
    program = new_program(setting, style)
    one = setting.n_stream_tokens * width
    given = program.input("stream", one * (1 + n_before), itemsize, needs_grad=needs_grad)
    hidden = ops.narrow(program, given, numel=one) if n_before else given
    looked = _looked_up(program, parts.output, one, setting)
    x = ops.cat(program, [
        normed(program, looked, parts.norms[0], setting, style),
        normed(program, hidden, parts.norms[1], setting, style),
    ], name="embedding and stream")  # fmt: skip
    x = applied(program, x, local_linear(parts.joined, setting.layout), setting)
    if setting.layout.tp > 1:
        x = ops.copy(program, x, numel=setting.n_tokens * width, name="gathered")
        if setting.sequence_shards > 1:  # a view, so that the whole stays
            x = ops.narrow(program, x, numel=one)
    for section in sections(parts.layer):
        x = residual(program, x, local_section(section, setting.layout), setting, style)
    x = normed(program, x, parts.norms[2], setting, style)
    program.hold(given)
    program.outputs.append(ops.cat(program, [given, x], name="streams"))
    return program


def _looked_up(program: Program, output: Linear, numel: Any, setting: Setting) -> Tensor:
    """Rows of the table; its gradient is made whole before it is added to the main one."""
    local = local_linear(replace(output, tied=True), setting.layout)
    table = program.parameter(
        "word_embeddings", local.n_out * local.n_in, setting.weight_itemsize,
        trained=setting.trains_base, kind="shared",
    )  # fmt: skip
    made = kernels.embedding(program, table, numel=numel)
    program.ops[-1] = replace(program.ops[-1], backward_bytes=table.n_bytes)
    return made
