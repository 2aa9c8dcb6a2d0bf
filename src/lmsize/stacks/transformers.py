"""transformers: norms and rotary positions in Python, eager or fused attention, its losses.

Read off transformers 5.23; each function is the body of a module there, operation by operation.
"""

from __future__ import annotations

from typing import Any

from lmsize.model.parts import AttentionCore, Norm
from lmsize.model.spec import ModelSpec
from lmsize.stacks import habits
from lmsize.stacks.activations import activation
from lmsize.stacks.derived import with_derived_linears
from lmsize.stacks.masking import masked
from lmsize.stacks.positions import over_sequences
from lmsize.stacks.sdpa import fused_core, lies_by_head, repeated
from lmsize.stacks.setting import QKV, Setting, Style, parameter
from lmsize.tape import kernels, ops
from lmsize.tape.program import Gradient, Op, Program, Tensor

FP32, INT64 = 4, 8


def norm(program: Program, x: Tensor, part: Norm, setting: Setting, *, n_rows: Any) -> Tensor:
    """LayerNorm is torch's; RMSNorm is written out in fp32 and cast back."""
    kind = setting.conduct.model_type
    if not part.weight and part.has_means:  # OLMo: torch's, in fp32
        raised = ops.cast(program, x, FP32, name="norm input in fp32")
        made = kernels.layer_norm(program, raised, None, None, n_rows=n_rows)
        return ops.cast(program, made, x.itemsize)
    weight = parameter(program, f"{part.name}.weight", part.width, setting) if part.weight else None
    if weight is not None and part.has_means:
        bias = parameter(program, f"{part.name}.bias", part.width, setting) if part.bias else None
        if own := OWN_LAYER_NORMS.get(kind):
            return own(program, x, weight, bias, n_rows=n_rows)
        made = kernels.layer_norm(program, x, weight, bias, n_rows=n_rows)
        return ops.cast(program, made, x.itemsize) if kind in habits.CASTS_LAYER_NORM else made
    raised = ops.cast(program, x, FP32, name="norm input in fp32")
    if weight is not None and kind in habits.CENTRED:
        return _centred(program, x, raised, weight, n_rows=n_rows)
    square = ops.power(program, raised, name="square")
    spread = ops.pointwise(program, ops.mean(program, square, numel=n_rows), name="plus epsilon")
    if kind in habits.POWER_ROOT:
        root = ops.power(program, spread, name="power")
    else:
        root = ops.pointwise(program, spread, name="rsqrt", saves="output")
    source = x if kind in habits.T5_NORM else raised
    scaled = ops.mul(program, source, root, small=root, name="normed")
    program.hold(raised, square, spread)
    if weight is None:
        return ops.cast(program, scaled, x.itemsize)
    if kind in habits.ONE_PLUS:
        scale = ops.pointwise(program, ops.cast(program, weight, FP32), name="one plus weight")
        made = ops.mul(program, scaled, scale, small=scale, name="norm")
        program.hold(scaled)
        return ops.cast(program, made, x.itemsize)
    if kind in habits.FP32_WEIGHT:
        weight = ops.cast(program, weight, FP32)
    if kind in habits.CASTS_LAST | habits.FP32_WEIGHT:
        return ops.cast(program, ops.mul(program, weight, scaled, small=weight), x.itemsize)
    scaled = ops.cast(program, scaled, weight.itemsize if kind in habits.T5_NORM else x.itemsize)
    return ops.mul(program, weight, scaled, small=weight, name="norm")


def _lowered_layer_norm(
    program: Program, x: Tensor, weight: Tensor, bias: Tensor | None, *, n_rows: Any
) -> Tensor:
    """Nemotron's: autocast lowers it as it does a product."""
    weight = ops.pointwise(program, weight, name="one plus weight")
    lowered = [None if y is None else ops.lowered(program, y) for y in (x, weight, bias)]
    autocast, program.autocast = program.autocast, None
    assert lowered[0] is not None
    made = kernels.layer_norm(program, lowered[0], lowered[1], lowered[2], n_rows=n_rows)
    program.autocast = autocast
    return made


def _written_layer_norm(
    program: Program, x: Tensor, weight: Tensor, bias: Tensor | None, *, n_rows: Any
) -> Tensor:
    """DeBERTa's, in plain torch: the difference from the mean is taken twice, then divided by a root."""
    raised = ops.cast(program, x, FP32)
    ops.mean(program, raised, numel=n_rows)
    square = ops.power(program, ops.pointwise(program, raised, name="less mean"), name="square")
    spread = ops.pointwise(program, ops.mean(program, square, numel=n_rows), name="plus epsilon")
    again = ops.pointwise(program, raised, name="less mean again")
    root = ops.pointwise(program, spread, name="sqrt", saves="output")
    scaled = ops.cast(program, ops.mul(program, again, root, small=root), x.itemsize)
    made = ops.mul(program, weight, scaled, small=weight)
    program.hold(raised, scaled)
    return made if bias is None else ops.add(program, made, bias, is_row=True)


OWN_LAYER_NORMS = {"nemotron": _lowered_layer_norm, "deberta": _written_layer_norm}


def _centred(program: Program, x: Tensor, raised: Tensor, weight: Tensor, *, n_rows: Any) -> Tensor:
    """Cohere's LayerNorm, written out: the difference from the mean is taken twice."""
    ops.mean(program, raised, numel=n_rows)
    first = ops.pointwise(program, raised, name="less mean")
    square = ops.power(program, first, name="square")
    spread = ops.pointwise(program, ops.mean(program, square, numel=n_rows), name="plus epsilon")
    second = ops.pointwise(program, raised, name="less mean again")
    root = ops.pointwise(program, spread, name="rsqrt", saves="output")
    scaled = ops.mul(program, second, root, small=root)
    scale = ops.cast(program, weight, FP32)
    made = ops.cast(program, ops.mul(program, scale, scaled, small=scale), x.itemsize)
    program.hold(raised, scaled)
    return made


def rotary(program: Program, x: Tensor, setting: Setting) -> Tensor:
    """``x * cos + rotate_half(x) * sin``, with tables that all layers share."""
    kind = setting.conduct.model_type
    in_fp32 = kind in habits.FP32_ROTARY and not setting.casts_inputs
    itemsize = FP32 if in_fp32 else setting.weight_itemsize
    table = Tensor("rotary table", 0, itemsize, kind="given")
    if kind in habits.COMPLEX_ROTARY:
        return complex_rotary(program, x)
    if kind not in habits.SLICED_ROTARY:
        raised = ops.cast(program, x, FP32) if kind in habits.RAISES_QUERIES else x
        turned = _turned(program, raised, table, raises_twice=kind in habits.RAISES_TWICE)
        return ops.cast(program, turned, x.itemsize) if in_fp32 else turned
    n_turned = round_half(x.numel * setting.conduct.rotary_frac)
    part = ops.narrow(program, x, numel=n_turned)
    rest = ops.narrow(program, x, numel=x.numel - n_turned)
    return ops.cat(program, [_turned(program, part, table), rest])


def complex_rotary(program: Program, x: Tensor) -> Tensor:
    """A complex product in fp32, cast back; the table asks for no gradient, so nothing is saved."""
    raised = ops.cast(program, x, FP32)
    return ops.cast(program, ops.pointwise(program, raised, name="complex product"), x.itemsize)


def round_half(value: Any) -> Any:
    """A part of a tensor in whole numbers."""
    return value // 1


def _turned(program: Program, x: Tensor, table: Tensor, *, raises_twice: bool = False) -> Tensor:
    straight = ops.mul(program, ops.cast(program, x, FP32) if raises_twice else x, table)
    x = ops.cast(program, x, FP32) if raises_twice else x
    half = x.numel // 2
    first, second = ops.narrow(program, x, numel=half), ops.narrow(program, x, numel=half)
    turned = ops.cat(program, [ops.pointwise(program, second, name="negative"), first])
    return ops.add(program, straight, ops.mul(program, turned, table))


def core(program: Program, qkv: QKV, part: AttentionCore, setting: Setting) -> Tensor:
    """Scores and weighted values: written out, or one of torch's kernels."""
    if setting.attention == "eager":
        return _eager(program, qkv, part, setting)
    return fused_core(program, qkv, part, setting)


def _eager(program: Program, qkv: QKV, part: AttentionCore, setting: Setting) -> Tensor:
    q, k, v = qkv
    is_grouped = part.n_kv_heads != part.n_heads
    if is_grouped:
        # Products want one stride over sequences and heads together.
        is_copy = part.n_kv_heads > 1 or bool(setting.micro_batch > 1)
        k, v = repeated(program, k, v, part, is_copy=is_copy)
    n_scores = setting.n_tokens * part.n_heads * (setting.n_keys or setting.seq_len)
    is_by_head = lies_by_head(part, setting)
    q_by_head = q if is_by_head else _by_head(program, q, setting)
    k_by_head = k if is_by_head or is_grouped else _by_head(program, k, setting)
    scores = ops.matmul(program, q_by_head, k_by_head, numel=n_scores, name="scores")
    if setting.conduct.model_type not in habits.LEAVES_SCORES:
        scores = ops.pointwise(program, scores, name="scaled scores")
    if setting.conduct.attention_softcap:
        scores = ops.pointwise(program, scores, name="over cap")
        scores = ops.pointwise(program, scores, name="tanh", saves="output")
        scores = ops.pointwise(program, scores, name="times cap")
    if program.bias is not None:
        scores = ops.add(program, scores, over_sequences(program, program.bias, setting))
    scores = names = masked(program, scores, part, setting)
    scores = _beside_sinks(program, scores, part, setting)
    left = _left_of_sink(program, scores, part, setting)
    probs = _probabilities(program, scores, q, v, setting)
    program.hold(names)  # a name that the dropped-out probabilities take
    whole, probs = probs, ops.dropout(program, probs, setting.conduct.attention_dropout)
    out = ops.matmul(
        program, probs, v if is_grouped else _by_head(program, v, setting),
        numel=setting.n_tokens * part.n_heads * part.v_head_dim, name="attention",
    )  # fmt: skip
    if left is not None:
        left = ops.cast(program, left, out.itemsize)
        out = ops.mul(program, out, left, small=left, name="scaled attention")
    out = ops.copy(program, out)
    program.hold(k, v)
    kind = setting.conduct.model_type
    if kind in habits.ENDS_WITH_PROBABILITIES:
        program.in_branch.append(probs)
    else:  # attention returns them too, and the layer names both
        program.returned = (whole if kind in habits.RETURNS_WHOLE else probs,)
    return out


def _beside_sinks(
    program: Program, scores: Tensor, part: AttentionCore, setting: Setting
) -> Tensor:
    """With a learned sink of each head beside them, and less their maximum, whose places are saved."""
    kind = setting.conduct.model_type
    if kind not in habits.SINKS | habits.WINDOW_SINKS:
        return scores
    n_rows = setting.n_tokens * part.n_heads
    if kind in habits.SINKS or part.window is not None:
        sinks = Tensor("sinks", n_rows, scores.itemsize, kind="given")
        scores = ops.cat(program, [scores, sinks], name="scores and sinks")
    return ops.pointwise(program, scores, name="less their maximum", n_masked=n_rows * INT64)


def _left_of_sink(
    program: Program, scores: Tensor, part: AttentionCore, setting: Setting
) -> Tensor | None:
    """``sigmoid(logsumexp(scores) - sink)`` of every row, in fp32; None without sinks."""
    if setting.conduct.model_type not in habits.SINK_SCALES:
        return None
    sums = Tensor("log-sum-exp", setting.n_tokens * part.n_heads, scores.itemsize)
    program.record(
        "logsumexp", [scores], sums, saves=[scores, sums],
        gradients=[Gradient(scores, scratch_bytes=scores.n_bytes)],
    )  # fmt: skip
    sinks = parameter(program, "self_attn.sinks", part.n_heads, setting)
    beyond = ops.cast(program, ops.add(program, sums, sinks), FP32)
    return ops.pointwise(program, beyond, name="sigmoid", saves="output")


def _by_head(program: Program, x: Tensor, setting: Setting) -> Tensor:
    """What lies by tokens is copied for a product over many sequences' heads."""
    if setting.micro_batch == 1:
        return x
    return ops.copy(program, x, numel=x.numel, name=x.name)


def _probabilities(
    program: Program, scores: Tensor, q: Tensor, v: Tensor, setting: Setting
) -> Tensor:
    """The softmax in fp32 and cast back; or in the scores' own type, fp32 under autocast."""
    kind = setting.conduct.model_type
    own = kind in habits.OWN_SOFTMAX
    itemsize = FP32 if program.autocast or not own else scores.itemsize
    probs = ops.softmax(program, scores, itemsize=itemsize, reads_half=setting.is_half)
    if not own or kind in habits.CASTS_PROBABILITIES:
        probs = ops.cast(program, probs, v.itemsize if own else q.itemsize)
    program.hold(scores)  # whose name the probabilities take
    return probs


def loss(program: Program, logits: Tensor, *, upcasts: bool, n_tokens: Any) -> Tensor:
    """Cross-entropy of all tokens; ``ForCausalLMLoss`` takes logits to fp32 and shifts labels."""
    targets = None
    if upcasts:
        logits = ops.cast(program, logits, FP32, name="logits in fp32")
        padded, targets = (Tensor(name, n_tokens, 8) for name in ("padded labels", "labels"))
        program.ops.append(Op("shifted labels", (), (padded, targets)))
    # cross_entropy asks for the log-softmax in the logits' own type, which autocast respects.
    probs = ops.pointwise(program, logits, name="log_softmax", saves="output")
    made = kernels.nll_loss(program, ops.raised(program, probs), targets)
    if upcasts:
        program.hold(logits, padded)
    return made


def upcasts_logits(model: ModelSpec) -> bool:
    """Whether the class takes its loss by ``loss_function``: decoders do, BERT and T5 do not."""
    if model.conduct.model_type in habits.RAISES_LOGITS:
        return True
    if not model.is_encoder_decoder and model.architecture.endswith("ConditionalGeneration"):
        return True  # decoders that see or hear as well
    masked = ("MaskedLM", "PreTraining", "ConditionalGeneration", "SequenceClassification")
    return not model.architecture.endswith(masked)


STYLE = Style(
    norm,
    rotary,
    core,
    activation,
    loss,
    upcasts=upcasts_logits,
    spreads=True,
    has_position_bias=True,
    built=with_derived_linears,
)
