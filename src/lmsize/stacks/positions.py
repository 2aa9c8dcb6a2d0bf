"""T5's learned bias of relative positions: a tower's first layer makes it, all of them read it.

transformers 5.23: ``T5Attention.compute_bias`` and ``forward`` (``models/t5/modeling_t5.py``),
``create_position_bias_mask`` (``integrations/sdpa_attention.py``).
"""

from __future__ import annotations

from typing import Any

from lmsize.model.parts import AttentionCore, Embedding
from lmsize.numbers import ceil_div
from lmsize.stacks.sections import Section
from lmsize.stacks.setting import Setting, parameter
from lmsize.tape import ops
from lmsize.tape.program import Gradient, Op, Program, Tensor

INT64, FP32, BOOL = 8, 4, 1
READ_ALIGNMENT, GRADIENT_ALIGNMENT = 8, 16  # of the efficient kernel's rows of keys, in numbers


def position_bias(
    program: Program, q: Tensor, section: Section, core: AttentionCore, setting: Setting
) -> Tensor:
    """What is added to every head's scores, for all sequences alike; zeros in cross attention."""
    if core.cross:
        return _zeros(program, q.itemsize, core, setting)
    if section.table is None:
        return program.given(
            "position bias", _numel(core, setting), setting.weight_itemsize,
            needs_grad=setting.trains_base, awaited=not setting.is_last,
        )  # fmt: skip
    bias = _looked_up(program, section.table, core, setting)
    if setting.bias == "made":
        program.hand_on(bias)
    return bias


def _numel(core: AttentionCore, setting: Setting) -> Any:
    return core.n_heads * setting.seq_len * (setting.n_keys or setting.seq_len)


def _zeros(program: Program, itemsize: float, core: AttentionCore, setting: Setting) -> Tensor:
    """Made by the first layer, in the type of the queries.

    Checkpointing makes them a leaf that asks for a gradient, which the last layer makes, others add to
    and nothing uses: both are there as long as the graph.
    """
    wants = setting.recompute == "full"
    zeros = Tensor("no bias", _numel(core, setting), itemsize, wants)
    makes_gradient = setting.is_last or setting.bias == "own"
    zeros.kind = "given" if not wants else "waiting" if makes_gradient else "shared"
    if setting.bias == "read":
        return zeros
    made = zeros.base = Tensor("no bias", zeros.numel, zeros.itemsize)
    program.ops.append(Op("zeros", (), (made,), clings=(made,) if wants else ()))
    if setting.bias == "made":
        program.hand_on(made)
    return zeros


def _looked_up(program: Program, table: Embedding, core: AttentionCore, setting: Setting) -> Tensor:
    """The bucket of every pair of positions, and a number of each head for it.

    At its fullest the arithmetic of buckets holds five tensors of int64 and a mask where only
    positions before count, six where both sides do.
    """
    weight = parameter(program, table.name, table.n_rows * table.width, setting)
    pairs = setting.seq_len * (setting.n_keys or setting.seq_len)
    made = Tensor("position bias", core.n_heads * pairs, weight.itemsize)
    buckets, distances = Tensor("buckets", pairs, INT64), Tensor("distances", pairs, INT64)
    beyond = (3 if core.causal else 4) * buckets.n_bytes + Tensor("is near", pairs, BOOL).n_bytes
    program.record("buckets", [], buckets, side=[distances], forward_bytes=beyond)
    program.record(
        "embedding", [weight, buckets], made, saves=[buckets], gradients=[Gradient(weight)]
    )
    program.hold(buckets, distances)
    return made


def mask_of(program: Program, bias: Tensor, core: AttentionCore, setting: Setting) -> Tensor:
    """The bias as fused attention reads it: what is not to be seen masked, laid out by heads.

    Rows that are no multiple of the kernel's alignment are padded; its gradient is whole, one for
    each sequence, before it is summed.
    """
    laid = bias
    if core.causal:
        seen = Tensor("seen", setting.seq_len * (setting.n_keys or setting.seq_len), BOOL)
        laid = Tensor("masked bias", bias.numel, bias.itemsize)
        program.record("where", [bias], laid, saves=[seen], gradients=[Gradient(bias)], side=[seen])
    if not core.cross:
        laid = ops.copy(program, laid, name="bias laid out")
    return over_sequences(program, _aligned(program, ops.lowered(program, laid), setting), setting)


def _aligned(program: Program, bias: Tensor, setting: Setting) -> Tensor:
    keys = setting.n_keys or setting.seq_len
    if not keys % READ_ALIGNMENT:
        return bias
    numel = bias.numel // keys * READ_ALIGNMENT * ceil_div(keys, READ_ALIGNMENT)
    padded = Tensor("padded bias", numel, bias.itemsize)
    program.record("pad", [bias], padded, gradients=[Gradient(bias)])
    return ops.narrow(program, padded, numel=bias.numel)


def over_sequences(program: Program, bias: Tensor, setting: Setting) -> Tensor:
    """The bias for each sequence, without a copy; its gradient is summed over them."""
    if setting.micro_batch == 1:
        return bias
    return ops.expanded(program, bias, numel=setting.micro_batch * bias.numel)
