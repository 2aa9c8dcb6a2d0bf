"""Unsloth's layers against what its hand-written functions save, and where its checkpoints wait."""

from __future__ import annotations

from typing import Any

import lmsize
from lmsize.model.parts import Linear
from lmsize.model.read import read_config
from lmsize.stacks import unsloth
from lmsize.stacks.layer import layer_program
from lmsize.stacks.setting import Setting
from lmsize.tape.liveness import forward

B, S, H, F, A, KV, D, R = 2, 256, 512, 1408, 8, 2, 64, 16
T = B * S
SHAPE: dict[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": H,
    "intermediate_size": F, "num_hidden_layers": 8, "num_attention_heads": A,
    "num_key_value_heads": KV, "vocab_size": 32000,
}  # fmt: skip
LLAMA = read_config(SHAPE, name="llama")
ASKED: dict[str, Any] = {"method": "qlora", "stack": "unsloth", "recompute": "full"}


def test_a_layer_saves_its_inputs_gate_and_other_half_alone() -> None:
    layer = next(run.block for _, run in LLAMA.runs() if run.block.role == "layer")
    linears = [p for p in layer.parts if isinstance(p, Linear)]
    setting = Setting(
        micro_batch=B, seq_len=S, conduct=LLAMA.conduct, weight_itemsize=2, quant_itemsize=2,
        quant="nf4", trains_base=False, adapting=unsloth.ADAPTING,
        ranks=tuple((linear.name, R) for linear in linears),
    )  # fmt: skip
    program = layer_program(layer, setting, unsloth.STYLE, width=H, itemsize=2, needs_grad=True)
    norms = 2 * (2 * H + 4) + 2 * 2 * H  # their inputs, a deviation a row; what they hand on
    attention = 2 * (2 * H + 2 * KV * D) + 4 * A
    inner = 2 * R * 6  # of every adapter but the last
    assert forward(program).saved == T * (norms + attention + inner + 4 * F) + 1024


def test_checkpoints_wait_on_the_host() -> None:
    deep = read_config({**SHAPE, "num_hidden_layers": 80}, name="deep")
    kept = {
        name: lmsize.train(model, micro_batch=4, **ASKED).memory.components["activations"]
        for name, model in (("deep", deep), ("flat", LLAMA))
    }
    assert kept["deep"] == kept["flat"]


def test_its_own_loss_has_no_logits() -> None:
    own = lmsize.train(LLAMA, micro_batch=4, **ASKED)
    assert own.inputs["loss"] == "cut"
    plain = lmsize.train(LLAMA, micro_batch=4, loss="plain", **ASKED)
    more = (plain.memory.peak_allocated_bytes or 0) - (own.memory.peak_allocated_bytes or 0)
    assert more > 4 * 4 * 2048 * 32000
