"""RWKV 4: what came before a token is mixed in, a recurrence by a loop over tokens, squared ReLUs.

transformers 5.23, ``modeling_rwkv.py``: ``RwkvBlock``, ``rwkv_linear_attention_cpu``, which runs wherever the kernel
for CUDA has not been compiled.
"""

from __future__ import annotations

from collections.abc import Mapping

from lmsize.model.spec import Block
from lmsize.stacks.named import Modules
from lmsize.stacks.own import Own
from lmsize.stacks.setting import Setting, Style
from lmsize.tape import kernels, ops
from lmsize.tape.program import Gradient, Program, Tensor

FP32 = 4
PER_TOKEN = 11  # tensors of a channel each, in fp32, that a step of the loop keeps


def layer(program: Program, stream: Tensor, block: Block, setting: Setting, style: Style) -> Tensor:
    """Time mixing and channel mixing, each after a norm; the first block norms the embeddings too."""
    modules = Modules.of(program, block, setting, style)
    if modules.has("pre_ln"):
        stream = modules.norm("pre_ln", stream)
    for name, norm, mixed in (("attention", "ln1", _attention), ("feed_forward", "ln2", _channels)):
        x = modules.norm(norm, stream)
        out = mixed(modules, name, x)
        program.hold(x)
        stream = ops.add(program, stream, out)
    return stream


def _inputs(modules: Modules, name: str, x: Tensor, leaves: tuple[str, ...]) -> list[Tensor]:
    """The token and the one before it in learned shares, projected for each use."""
    program = modules.program
    shifted = ops.copy(program, x, numel=x.numel, name="shifted")
    made = []
    for leaf in leaves:
        share = modules.plain(f"{name}.time_mix_{leaf}")
        rest = ops.pointwise(program, share, name="one less")
        own = ops.mul(program, x, share, small=share)
        made.append(ops.add(program, own, ops.mul(program, shifted, rest, small=rest)))
    found = [modules.linear(f"{name}.{leaf}", y) for leaf, y in zip(leaves, made, strict=True)]
    program.hold(shifted, *made)
    return found


def _attention(modules: Modules, name: str, x: Tensor) -> Tensor:
    program = modules.program
    key, value, receptance = _inputs(modules, name, x, ("key", "value", "receptance"))
    opened = ops.pointwise(program, receptance, name="sigmoid", saves="output")
    out = ops.mul(program, opened, _loop(program, key, value))
    made = modules.linear(f"{name}.output", out)
    program.hold(opened, key, value)
    return made


def _loop(program: Program, key: Tensor, value: Tensor) -> Tensor:
    """Numerator, denominator and maximum of every token, and the exponentials that make them."""
    n_kept = PER_TOKEN + (key.itemsize != FP32)  # a cast of the key
    states = Tensor("states", n_kept * key.numel, FP32)
    made = Tensor("scanned", key.numel, key.itemsize)
    return kernels.scan(
        program, [key, value], made, saves=[states, key, value], side=[states],
        gradients=[Gradient(x, scratch_bytes=made.n_bytes) for x in (key, value)],
    )  # fmt: skip


def _channels(modules: Modules, name: str, x: Tensor) -> Tensor:
    program = modules.program
    key, receptance = _inputs(modules, name, x, ("key", "receptance"))
    value = modules.linear(f"{name}.value", modules.style.activation(program, key, "relu2"))
    opened = ops.pointwise(program, receptance, name="sigmoid", saves="output")
    made = ops.mul(program, opened, value)
    program.hold(key, value, opened)
    return made


OWN: Mapping[str, Own] = {"rwkv": Own(layer=layer)}
