"""``scaled_dot_product_attention`` as transformers calls it: its masks, torch's kernel, what that saves.

Read off transformers 5.23, ``masking_utils.py`` and ``integrations/sdpa_attention.py``, and torch 2.13,
``aten/src/ATen/native/transformers/``.
"""

from __future__ import annotations

from lmsize.model.parts import AttentionCore
from lmsize.numbers import ceil_div
from lmsize.stacks import habits
from lmsize.stacks.positions import mask_of
from lmsize.stacks.setting import QKV, Setting
from lmsize.tape import kernels, ops
from lmsize.tape.program import Program, Tensor

FP32 = 4
MOST_GROUPED = 256  # width of a head up to which grouped queries are asked for
CUDNN_MOST = 128  # the same for cuDNN's kernel, the first choice from Hopper on
CUDNN_WIDE = (192, 128)
ROW = 8  # numbers: the efficient kernel reads masks in rows of a multiple of it


def is_masked(part: AttentionCore, setting: Setting) -> bool:
    """Whether layers get a mask: of a window that the sequence outgrows, or always."""
    if part.cross or setting.attention == "flash":
        return False
    if part.window is None:
        return setting.conduct.model_type in habits.ALWAYS_MASKED
    most = part.window if part.causal else part.window // 2
    return bool(setting.seq_len >= most)


def fused_core(program: Program, qkv: QKV, part: AttentionCore, setting: Setting) -> Tensor:
    """One of torch's kernels, or its own composition where none serves."""
    q, k, v = qkv
    is_grouped, masked = part.n_kv_heads != part.n_heads, is_masked(part, setting)
    if is_grouped and (masked or part.head_dim != part.v_head_dim or part.head_dim > MOST_GROUPED):
        k, v = repeated(program, k, v, part)
        is_grouped = False
    if is_grouped and setting.compute_itemsize == FP32:
        return composed(program, (q, k, v), part, setting)
    bias = _additive_mask(program, part, setting) if masked else None
    if program.bias is not None:
        bias = mask_of(program, program.bias, part, setting)
    out = kernels.fused_attention(
        program, q, k, v, numel=setting.n_tokens * part.n_heads * part.v_head_dim,
        n_log_sums=setting.n_tokens * part.n_heads, bias=bias,
    )  # fmt: skip
    if bias is not None:
        program.hold(bias)
    # cuDNN's kernel and flash's lay their output out as the query lies; the efficient one, for masks
    # and for values of another width, token by token.
    is_efficient = bias is not None or part.head_dim != part.v_head_dim
    by_query = setting.compute_itemsize < FP32 and (_is_cudnn(part, setting) or not is_efficient)
    is_turned = by_query and lies_by_head(part, setting)
    return ops.copy(program, out) if is_turned else out


def lies_by_head(part: AttentionCore, setting: Setting) -> bool:
    """Whether queries and keys lie head by head, as cat has put them, and not token by token."""
    kind = setting.conduct.model_type
    is_latent = part.head_dim != part.v_head_dim
    return kind in habits.SLICED_ROTARY or kind in habits.SINKS or is_latent


def _additive_mask(program: Program, part: AttentionCore, setting: Setting) -> Tensor:
    """The mask as numbers to add, of every sequence: made in each layer, and saved."""
    n_rows = setting.n_tokens
    width = setting.seq_len if _is_cudnn(part, setting) else ceil_div(setting.seq_len, ROW) * ROW
    made = Tensor("additive mask", n_rows * width, setting.compute_itemsize)
    return program.record("additive mask", [], made)


def _is_cudnn(part: AttentionCore, setting: Setting) -> bool:
    """Whether cuDNN's kernel serves; it knows dropout in sixteenths."""
    head, value = part.head_dim, part.v_head_dim
    return (
        setting.compute_itemsize < FP32
        and (max(head, value) <= CUDNN_MOST or (head, value) == CUDNN_WIDE)
        and head % 8 == value % 8 == 0
        and (setting.conduct.attention_dropout * 16).is_integer()
    )


def composed(
    program: Program, qkv: QKV, part: AttentionCore, setting: Setting, *, broadcasts: bool = False
) -> Tensor:
    """Torch's own composition, in fp32 whatever comes: no kernel takes grouped queries in fp32.

    Args:
        broadcasts: one head of keys and values is spread out by the products, which no kernel does.
    """
    given = [ops.lowered(program, x) for x in qkv]
    autocast, program.autocast = program.autocast, None  # which the function has seen to
    q, k, v = raised = [ops.cast(program, x, FP32) for x in given]
    q = ops.copy(program, ops.pointwise(program, q, name="scaled query"))
    if broadcasts:
        k = ops.pointwise(program, k, name="scaled key")
        k = ops.copy(program, k, numel=q.numel)
    else:
        k, v = repeated(program, k, v, part, is_copy=True)
        k = ops.pointwise(program, k, name="scaled key")
    n_scores = setting.n_tokens * part.n_heads * (setting.n_keys or setting.seq_len)
    scores = ops.matmul(program, q, k, numel=n_scores, name="scores")
    if part.causal:
        scores = ops.add(program, scores, Tensor("mask", 0, scores.itemsize, kind="given"))
    probs = ops.softmax(program, scores, itemsize=FP32)
    probs = ops.dropout(program, probs, setting.conduct.attention_dropout)
    numel = q.numel // part.head_dim * part.v_head_dim
    v = ops.copy(program, v, numel=numel) if broadcasts else v
    out = ops.matmul(program, probs, v, numel=numel)
    out = ops.cast(program, out, given[0].itemsize)
    program.hold(*raised)
    program.autocast = autocast
    return ops.copy(program, out)


def repeated(
    program: Program, k: Tensor, v: Tensor, part: AttentionCore, *, is_copy: bool = False
) -> tuple[Tensor, Tensor]:
    """Keys and values for every query head: copies, unless all heads read the same (or `is_copy`)."""
    made = []
    for x in (k, v):
        numel = x.numel // part.n_kv_heads * part.n_heads
        if part.n_kv_heads == 1 and not is_copy:
            made.append(ops.expanded(program, x, numel=numel))
        else:
            made.append(ops.copy(program, x, numel=numel, name=f"{x.name} repeated"))
    return made[0], made[1]
