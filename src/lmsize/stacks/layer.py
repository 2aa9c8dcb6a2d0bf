"""The skeleton of a layer: branches, norms and the residual stream, in any stack's style."""

from __future__ import annotations

from lmsize.model.parts import Norm
from lmsize.model.spec import Block
from lmsize.stacks import habits
from lmsize.stacks.attention import attention
from lmsize.stacks.by_parts import by_parts
from lmsize.stacks.experts import mixture
from lmsize.stacks.latent import is_latent
from lmsize.stacks.local import local_section
from lmsize.stacks.mlp import mlp
from lmsize.stacks.recurrences import RECURRENCES
from lmsize.stacks.sections import Section, is_plain, recurrence, sections
from lmsize.stacks.setting import Setting, Style, new_program, normed
from lmsize.stacks.spread import keeps_heads_whole
from lmsize.tape import ops
from lmsize.tape.program import Op, Program, Tensor

FP32 = 4


def layer_program(
    block: Block, setting: Setting, style: Style, *, width: int, itemsize: float, needs_grad: bool,
    reads_encoder: bool = False, encoder_needs_grad: bool = False,
) -> Program:  # fmt: skip
    """One layer, from the stream that comes to the stream that goes.

    Args:
        reads_encoder: whether its cross attention reads the output of an encoder, which a
            gradient flows to or not (`encoder_needs_grad`).
    """
    program = new_program(setting, style)
    given = program.input(
        "stream", setting.n_stream_tokens * width, itemsize, needs_grad=needs_grad
    )
    stream = given
    if setting.casts_inputs and setting.conduct.model_type in habits.FP32_ROTARY:
        _cast_tables(program, setting, itemsize)
    if reads_encoder:
        read = setting.micro_batch * (setting.n_keys or setting.seq_len)
        program.memory = program.given(
            "encoder output", read * width, itemsize, needs_grad=encoder_needs_grad,
            awaited=not setting.is_last,
        )  # fmt: skip
    if layer := style.own(setting.conduct.model_type).layer:
        stream = layer(program, stream, block, setting, style)
    else:
        stream = _usual(program, stream, block, setting, style)
    # The loop over the layers still names what it was given.
    program.hold(given, *program.named, *program.returned)
    program.outputs.append(stream)
    return program


def _usual(
    program: Program, stream: Tensor, block: Block, setting: Setting, style: Style
) -> Tensor:
    """Branches one after the other, or side by side."""
    whole = keeps_heads_whole(setting)
    branches = [
        local_section(section, setting.layout, whole_heads=whole) for section in sections(block)
    ]
    if _is_parallel(branches, setting):
        return _parallel(program, stream, branches, setting, style)
    for branch in branches:
        stream = residual(program, stream, branch, setting, style)
    return stream


def _cast_tables(program: Program, setting: Setting, itemsize: float) -> None:
    """The layer's own copies of cosines and sines that were made in fp32."""
    numel = setting.seq_len * setting.head_dim
    tables = [
        program.input(name, numel, itemsize, needs_grad=False) for name in ("cosines", "sines")
    ]
    program.ops.append(Op("rotary tables cast", tuple(tables), (), saves=tuple(tables)))


def _is_parallel(branches: list[Section], setting: Setting) -> bool:
    """Attention and MLP side by side: said so, or sharing one norm."""
    if len(branches) < 2 or branches[0].before is None:
        return False
    return setting.conduct.parallel or (branches[1].before is None and branches[0].after is None)


def residual(
    program: Program, stream: Tensor, branch: Section, setting: Setting, style: Style
) -> Tensor:
    """One branch of a layer, added to the stream."""
    x = stream
    start = len(program.ops)
    if setting.conduct.fp32_stream:
        x = ops.cast(program, stream, setting.weight_itemsize)
        stream = ops.cast(program, stream, FP32)
    if branch.before is not None:
        x = normed(program, x, branch.before, setting, style)
    entered, after_norm = x, len(program.ops)
    x = _branch(program, x, branch, setting, style)
    if style.recomputes_modules:
        _recompute(program, branch, setting, start=start, after_norm=after_norm)
    is_bare = setting.conduct.model_type in habits.UNDROPPED.get(branch.kind, ())
    rate = 0.0 if is_bare else setting.conduct.hidden_dropout
    norms_sum = branch.before is None and branch.after is not None and branch.after.bias  # BERT
    if norms_sum or branch.after is None:
        x = ops.dropout(program, x, rate)
    _let_go_of_branch(program, entered, x, branch, setting)
    if norms_sum and branch.after is not None:
        return _normed_sum(program, x, stream, branch.after, setting=setting, style=style)
    if branch.after is not None:
        x = normed(program, x, branch.after, setting, style)
        x = ops.dropout(program, x, rate)
    if setting.conduct.model_type in habits.SCALES_BRANCHES:
        x = ops.pointwise(program, x, name="scaled branch")
    if setting.conduct.model_type in habits.NAMES_OUTPUT and branch.kind == "attention":
        program.named.append(x)
    total = ops.add(program, stream, x)
    program.end_branch()
    return total


def _let_go_of_branch(
    program: Program, entered: Tensor, x: Tensor, branch: Section, setting: Setting
) -> None:
    """What the layer's code names of a branch: what entered it until it is done, or more for longer."""
    kind, is_attention = setting.conduct.model_type, branch.kind == "attention"
    if kind in habits.NAMES_BRANCH and is_attention:
        program.named += [entered, x]
    elif branch.kind != "mlp" or kind not in habits.INLINE_MLP:
        program.hold(entered)
    if kind in habits.NAMES_ATTENTION and is_attention:
        program.named.append(x)


def _normed_sum(
    program: Program, x: Tensor, stream: Tensor, norm: Norm, *, setting: Setting, style: Style
) -> Tensor:
    """The norm of a branch's sum with the stream, and what is named until it is made."""
    kind = setting.conduct.model_type
    made = normed(program, ops.add(program, x, stream), norm, setting, style)
    program.hold(stream, *([x] if kind in habits.SUMS_IN_CALL else []))
    if program.inner is not None and kind in habits.OUTPUT_APART:
        program.hold(program.inner)
    return made


def _recompute(
    program: Program, branch: Section, setting: Setting, *, start: int, after_norm: int
) -> None:
    """The branch's modules that run again: its norm where that is a module of its own, its MLP."""
    is_apart = branch.kind == "experts" or is_latent(branch)
    if is_apart and after_norm > start and setting.runs_again("layernorm"):
        program.recompute(start, stop=after_norm, outputs=True)
    module = {"mlp": "mlp", "experts": "moe"}.get(branch.kind)
    if module and setting.runs_again(module):
        program.recompute(after_norm if is_apart else start)


def _parallel(
    program: Program, stream: Tensor, branches: list[Section], setting: Setting, style: Style
) -> Tensor:
    """Each branch reads the stream through its norm, or through the one that they share."""
    norms = [branch.before for branch in branches if branch.before is not None]
    is_first = len(norms) == 1 or setting.conduct.model_type in habits.NORMS_FIRST
    made = [normed(program, stream, part, setting, style) for part in norms] if is_first else []
    waiting, shared = list(made), stream
    stream_first = setting.conduct.model_type in habits.ADDS_TO_STREAM
    total: Tensor | None = None
    outputs: list[Tensor] = []
    for branch in branches:
        if branch.before is not None:
            shared = (
                waiting.pop(0)
                if waiting
                else normed(program, stream, branch.before, setting, style)
            )
        x = _branch(program, shared, branch, setting, style)
        program.hold(shared)
        x = ops.dropout(program, x, setting.conduct.hidden_dropout)
        made.append(x)
        outputs.append(x)
        if not stream_first:
            total = x if total is None else _summed(program, total, x, setting)
    if total is not None:
        stream = ops.add(program, total, stream)
    for x in outputs if stream_first else ():
        stream = ops.add(program, stream, x)
    program.hold(*made)  # which the layer names
    return stream


def _summed(program: Program, total: Tensor, x: Tensor, setting: Setting) -> Tensor:
    """The sum of two branches: a new tensor, or the second one written over."""
    if setting.conduct.model_type in habits.ADDS_IN_PLACE:
        return ops.in_place(program, x, total, name="add")
    return ops.add(program, total, x)


def _branch(program: Program, x: Tensor, branch: Section, setting: Setting, style: Style) -> Tensor:
    own = style.own(setting.conduct.model_type).branches.get(branch.kind)
    if own is None and (not is_plain(branch) or setting.conduct.model_type in habits.OWN_LAYERS):
        width = program.inputs[0].numel // setting.n_stream_tokens
        return by_parts(program, x, branch, setting, style, width=width)
    if own is not None and branch.kind != "attention":
        return own(program, x, branch, setting, style)
    if branch.kind == "attention":
        made = (own or attention)(program, x, branch, setting, style)
        if setting.conduct.model_type in habits.NAMES_PROJECTION:
            program.named.append(made)
        return made
    if branch.kind == "experts":
        return (style.mixture or mixture)(program, x, branch, setting, style)
    if branch.scan is not None:
        return RECURRENCES[recurrence(branch)](program, x, branch, setting, style)
    return mlp(program, x, branch, setting, style)
