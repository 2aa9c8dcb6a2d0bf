"""BitNet: Llama's layers with a norm before each projection back to the stream.

transformers 5.23, ``modeling_bitnet.py``.
"""

from __future__ import annotations

from collections.abc import Mapping

from lmsize.model.spec import Block
from lmsize.stacks.mlp import gated_mlp
from lmsize.stacks.named import Modules
from lmsize.stacks.own import Own
from lmsize.stacks.setting import Setting, Style
from lmsize.tape import ops
from lmsize.tape.program import Program, Tensor


def layer(program: Program, stream: Tensor, block: Block, setting: Setting, style: Style) -> Tensor:
    """Attention and MLP, the inner norms among them."""
    modules = Modules.of(program, block, setting, style)
    for norm, branch in (("input_layernorm", _attention), ("post_attention_layernorm", _mlp)):
        x = modules.norm(norm, stream)
        out = branch(modules, x)
        program.hold(x)
        stream = ops.add(program, stream, out)
    return stream


def _attention(modules: Modules, x: Tensor) -> Tensor:
    program, setting, style = modules.program, modules.setting, modules.style
    q, k, v = (modules.linear(f"self_attn.{name}_proj", x) for name in ("q", "k", "v"))
    q, k = style.rotary(program, q, setting), style.rotary(program, k, setting)
    out = style.core(program, (q, k, v), modules.core, setting)
    program.hold(q, k, v)
    return modules.linear("self_attn.o_proj", modules.norm("attn_sub_norm", out))


def _mlp(modules: Modules, x: Tensor) -> Tensor:
    kind = modules.setting.conduct.activation
    gate = modules.linear("gate_proj", x)
    inner = gated_mlp(
        modules.program, gate, lambda: modules.linear("up_proj", x), kind, modules.style
    )
    return modules.linear("down_proj", modules.norm("ffn_sub_norm", inner))


OWN: Mapping[str, Own] = {"bitnet": Own(layer=layer)}
