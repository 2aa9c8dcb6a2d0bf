"""ConvBERT and SqueezeBERT: BERT's layers with convolutions.

transformers 5.23, ``modeling_convbert.py`` (``ConvBertSelfAttention``), ``modeling_squeezebert.py``
(``SqueezeBertModule``).
"""

from __future__ import annotations

from collections.abc import Mapping

from lmsize.model.spec import Block
from lmsize.stacks.named import Modules
from lmsize.stacks.own import Own
from lmsize.stacks.setting import Setting, Style
from lmsize.tape import ops
from lmsize.tape.program import Program, Tensor

FP32 = 4


def convbert(
    program: Program, stream: Tensor, block: Block, setting: Setting, style: Style
) -> Tensor:  # fmt: skip
    """Half of attention's output comes of a convolution whose kernels are made for every token."""
    modules = Modules.of(program, block, setting, style)
    x = _mixed_attention(modules, stream)
    stream = _added(
        modules, modules.linear("attention.output.dense", x), stream, "attention.output"
    )
    x = modules.linear("intermediate.dense", stream)
    x = style.activation(program, x, setting.conduct.activation)
    return _added(modules, modules.linear("output.dense", x), stream, "output")


def _added(modules: Modules, x: Tensor, stream: Tensor, name: str) -> Tensor:
    program = modules.program
    x = ops.dropout(program, x, modules.setting.conduct.hidden_dropout)
    made = modules.norm(f"{name}.LayerNorm", ops.add(program, x, stream))
    program.hold(x, stream)
    return made


def _mixed_attention(modules: Modules, stream: Tensor) -> Tensor:
    program, of = modules.program, "attention.self"
    k, v = (modules.linear(f"{of}.{name}", stream) for name in ("key", "value"))
    conv = modules.conv(f"{of}.key_conv_attn_layer.depthwise", stream)
    conv = modules.conv(f"{of}.key_conv_attn_layer.pointwise", conv)
    q = modules.linear(f"{of}.query", stream)
    product = ops.mul(program, conv, q)
    kernels = _softmax(program, modules.linear(f"{of}.conv_kernel_layer", product))
    own = ops.copy(program, modules.linear(f"{of}.conv_out_layer", stream))
    taps = kernels.numel // (modules.setting.n_tokens * modules.core.n_heads)
    windows = ops.copy(program, own, numel=own.numel * taps, name="unfolded")
    windows = ops.copy(program, windows, numel=windows.numel, name="windows")
    convolved = ops.matmul(program, windows, kernels, numel=q.numel, name="convolved")
    program.hold(windows, own)
    parts = [_by_head(program, y, modules.setting) for y in (q, k)]
    out = _attended(modules, parts[0], parts[1], v)
    made = ops.cat(program, [out, convolved], name="both")
    program.hold(q, k, v, conv, product, kernels, out, convolved)
    return made


def _attended(modules: Modules, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """BERT's own: scores, a softmax in their type, dropout, weighted values."""
    program, setting = modules.program, modules.setting
    n_scores = setting.n_tokens * modules.core.n_heads * setting.seq_len
    scores = ops.matmul(program, q, k, numel=n_scores, name="scores")
    scores = ops.pointwise(program, scores, name="scaled scores")
    probs = _softmax(program, scores)
    probs = ops.dropout(program, probs, setting.conduct.attention_dropout)
    lowered = ops.lowered(program, probs)
    v = _by_head(program, v, setting)
    out = ops.matmul(program, lowered, v, numel=v.numel, name="attention")
    laid = ops.copy(program, out, numel=out.numel)
    program.hold(scores, probs, out)
    return laid


def _softmax(program: Program, x: Tensor) -> Tensor:
    return ops.softmax(program, x, itemsize=FP32 if program.autocast else x.itemsize)


def _by_head(program: Program, x: Tensor, setting: Setting) -> Tensor:
    return x if setting.micro_batch == 1 else ops.copy(program, x, numel=x.numel, name=x.name)


def squeezebert(
    program: Program, stream: Tensor, block: Block, setting: Setting, style: Style
) -> Tensor:  # fmt: skip
    """Channels come first, so that every norm turns the stream and lays it out anew."""
    modules = Modules.of(program, block, setting, style)
    q, k, v = (modules.conv(f"attention.{name}", stream) for name in ("query", "key", "value"))
    x = _attended(modules, q, k, v)
    program.hold(q, k, v)
    x = modules.conv("post_attention.conv1d", x)
    stream = _squeezed(modules, x, stream, "post_attention")
    x = modules.conv("intermediate.conv1d", stream)
    x = modules.conv("output.conv1d", style.activation(program, x, setting.conduct.activation))
    return _squeezed(modules, x, stream, "output")


def _squeezed(modules: Modules, x: Tensor, stream: Tensor, name: str) -> Tensor:
    program = modules.program
    x = ops.dropout(program, x, modules.setting.conduct.hidden_dropout)
    total = ops.add(program, x, stream)
    turned = ops.copy(program, total, numel=total.numel, name="turned")
    program.hold(x, stream, total)
    return modules.norm(f"{name}.layernorm", turned)


OWN: Mapping[str, Own] = {"convbert": Own(layer=convbert), "squeezebert": Own(layer=squeezebert)}
