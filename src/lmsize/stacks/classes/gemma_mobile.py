"""Gemma 4's embeddings for every layer, and what a layer does with its own.

transformers 5.23, ``modeling_gemma4.py``: ``Gemma4TextModel.project_per_layer_inputs``,
``Gemma4TextDecoderLayer``. Each layer reads its slice of one tensor; the slice's gradient is made as wide
as all of it, layer by layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lmsize.model.parts import AttentionCore, Embedding, Experts, Linear, Norm
from lmsize.model.spec import Block
from lmsize.stacks.local import local_embedding
from lmsize.stacks.looking_up import looked_up
from lmsize.stacks.mlp import dense_mlp
from lmsize.stacks.named import Modules
from lmsize.stacks.own import Own
from lmsize.stacks.setting import Setting, Style, Use, normed
from lmsize.tape import ops
from lmsize.tape.program import Gradient, Op, Program, Tensor

FP32 = 4


def tables(
    program: Program, block: Block, setting: Setting, style: Style, *, use: Use
) -> tuple[Tensor, Tensor | None]:
    """The stream, and beside it every layer's own input, handed on."""
    vocabulary, *others = (p for p in block.parts if isinstance(p, Embedding))
    row = looked_up(program, local_embedding(vocabulary, setting.layout), setting,
                    setting.n_stream_tokens, use=use)  # fmt: skip
    stream = ops.pointwise(program, row, name="scaled embedding")
    if others:
        modules = Modules.of(program, block, setting, style)
        program.hand_on(_layer_inputs(modules, stream, others[0]))
    return stream, stream if setting.inputs_need_grad else None


def _layer_inputs(modules: Modules, stream: Tensor, table: Embedding) -> Tensor:
    """Of a table of their own and of the stream projected; kept until the first layer is undone."""
    program, setting = modules.program, modules.setting
    own = looked_up(program, table, setting, setting.n_stream_tokens, use="parameter")
    own = ops.pointwise(program, own, name="scaled embedding")
    x = ops.pointwise(program, modules.linear("per_layer_model_projection", stream), name="scaled")
    norm = modules.find("per_layer_projection_norm")
    assert isinstance(norm, Norm)
    n_rows = setting.n_stream_tokens * (table.width // norm.width)
    x = modules.norm("per_layer_projection_norm", x, n_rows=n_rows)
    made = ops.pointwise(program, ops.add(program, x, own), name="layer inputs")
    program.hold(own, x)
    program.ops.append(Op("layer inputs", (made,), (), saves=(made,)))
    return made


def layer(program: Program, stream: Tensor, block: Block, setting: Setting, style: Style) -> Tensor:
    """Attention, MLP (and experts beside it), the layer's own input, all scaled by a buffer."""
    modules = Modules.of(program, block, setting, style)
    x = modules.norm("input_layernorm", stream)
    x = modules.norm("post_attention_layernorm", _attention(modules, x))
    stream = ops.add(program, stream, x)
    x = _mlp(modules, modules.norm("pre_feedforward_layernorm", stream))
    if modules.has("experts"):
        x = ops.add(program, modules.norm("post_feedforward_layernorm_1", x),
                    _experts(modules, stream))  # fmt: skip
    stream = ops.add(program, stream, modules.norm("post_feedforward_layernorm", x))
    if modules.has("per_layer_input_gate"):
        stream = ops.add(program, stream, _own_input(modules, stream))
    scaled = Tensor(stream.name, stream.numel, stream.itemsize)
    scaled.base = stream.base
    return program.record("scaled in place", [stream], scaled, gradients=[Gradient(stream)])


def _attention(modules: Modules, x: Tensor) -> Tensor:
    """Queries, keys and values are normed; a layer may read another's keys and values."""
    program, setting, style, core = modules.program, modules.setting, modules.style, modules.core
    t, turning = setting.n_tokens, replace(setting, head_dim=core.head_dim)
    q = modules.norm("q_norm", modules.linear("q_proj", x), n_rows=t * core.n_heads)
    q = style.rotary(program, q, turning)
    if modules.has("k_proj"):
        k = first = modules.linear("k_proj", x)
        v = modules.linear("v_proj", x) if modules.has("v_proj") else first
        k = modules.norm("k_norm", k, n_rows=t * core.n_kv_heads)
        k = style.rotary(program, k, turning)
        v = modules.norm("v_norm", v, n_rows=t * core.n_kv_heads)
    else:
        k = _shared(program, "keys", setting.weight_itemsize, core, setting)
        v = _shared(program, "values", setting.compute_itemsize, core, setting)
    out = style.core(program, (q, k, v), core, setting)
    program.hold(q, k, v)
    return modules.linear("o_proj", out)


def _shared(
    program: Program, name: str, itemsize: float, core: AttentionCore, setting: Setting
) -> Tensor:
    """Those of the last layer of this kind that has its own."""
    numel = setting.n_tokens * core.n_kv_heads * core.head_dim
    return program.given(
        name, numel, itemsize, needs_grad=program.inputs[0].needs_grad,
        awaited=not setting.is_last,
    )  # fmt: skip


def _mlp(modules: Modules, x: Tensor) -> Tensor:
    linears = [p for p in modules.parts if isinstance(p, Linear) and p.name.startswith("mlp.")]
    return dense_mlp(modules.program, x, linears, modules.setting, modules.style)


def _experts(modules: Modules, stream: Tensor) -> Tensor:
    """The router norms the stream for itself and scales the chosen weights by expert."""
    program, t = modules.program, modules.setting.n_stream_tokens
    bank = modules.find("experts")
    assert isinstance(bank, Experts)
    x = normed(
        program, stream, Norm("router.norm", 0, weight=False), modules.setting, modules.style
    )
    scale = modules.plain("router.scale")
    x = ops.pointwise(program, ops.mul(program, x, scale, small=scale), name="scaled")
    scores = ops.softmax(program, modules.linear("router.proj", x), itemsize=FP32)
    n_rows = t * bank.top_k
    chosen = ops.gather(program, scores, numel=n_rows, n_rows=n_rows)
    chosen = ops.mul(program, chosen, ops.total(program, chosen, numel=t), name="weights")
    by_expert = ops.gather(program, modules.plain("per_expert_scale"), numel=n_rows, n_rows=n_rows)
    weights = ops.mul(program, chosen, by_expert)
    x = modules.norm("pre_feedforward_layernorm_2", stream)
    return modules.norm("post_feedforward_layernorm_2", modules.experts("experts", x, weights))


def _own_input(modules: Modules, stream: Tensor) -> Tensor:
    """The stream, narrowed, opens the layer's slice of what all layers are given."""
    program, setting = modules.program, modules.setting
    every = program.given(
        "layer inputs", setting.n_stream_tokens * setting.conduct.layer_inputs,
        setting.weight_itemsize, awaited=not setting.is_last,
        needs_grad=setting.trains_base or setting.inputs_need_grad or bool(setting.ranks),
    )  # fmt: skip
    gate = modules.linear("per_layer_input_gate", stream)
    slice_ = ops.narrow(program, every, numel=gate.numel)
    opened = modules.style.activation(program, gate, setting.conduct.activation)
    x = ops.mul(program, opened, slice_)
    return modules.norm("post_per_layer_input_norm", modules.linear("per_layer_projection", x))


OWN: Mapping[str, Own] = {
    "gemma4": Own(layer=layer, tables=tables, shares=True),
    "gemma4_text": Own(layer=layer, tables=tables, shares=True),
}
