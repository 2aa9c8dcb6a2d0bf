"""A layer of transformers against what autograd was seen to save, term by term."""

from __future__ import annotations

from typing import Any

import pytest

from lmsize.model.parts import Linear
from lmsize.model.read import read_config
from lmsize.model.spec import Block, ModelSpec
from lmsize.stacks import transformers
from lmsize.stacks.activations import activation
from lmsize.stacks.layer import layer_program
from lmsize.stacks.setting import Setting
from lmsize.tape.liveness import forward
from lmsize.tape.pieces import piece
from lmsize.tape.program import Program
from lmsize.tape.undoing import backward

B, S, H, F, A, KV, D = 2, 256, 512, 1408, 8, 2, 64
T, HQ, HK = B * S, A * D, KV * D
LLAMA = read_config({
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": H,
    "intermediate_size": F, "num_hidden_layers": 2, "num_attention_heads": A,
    "num_key_value_heads": KV, "vocab_size": 1000,
}, name="llama")  # fmt: skip
GPT2 = read_config({
    "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": H, "n_layer": 2,
    "n_head": A, "vocab_size": 1000, "n_positions": S, "n_inner": 4 * H,
}, name="gpt2")  # fmt: skip
SEEDS = 1024  # two of 512 bytes a fused attention


def layer(model: ModelSpec) -> Block:
    return next(run.block for _, run in model.runs() if run.block.role == "layer")


def saved(model: ModelSpec, **options: Any) -> int:
    setting = Setting(micro_batch=B, seq_len=S, conduct=model.conduct, **options)
    program = layer_program(
        layer(model), setting, transformers.STYLE, width=H,
        itemsize=setting.weight_itemsize, needs_grad=True,
    )  # fmt: skip
    return int(forward(program).saved)


def all_linears(rank: int) -> tuple[tuple[str, int], ...]:
    return tuple((p.name, rank) for p in layer(LLAMA).parts if isinstance(p, Linear))


P_LINEAR = 2 * H * HQ + 2 * H * HK + 3 * H * F


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"weight_itemsize": 2}, T * (16 * H + 8 + 4 * HQ + 4 * HK + 4 * A + 8 * F) + SEEDS),
        (
            {"weight_itemsize": 2, "attention": "eager"},
            T * (16 * H + 8 + 8 * HQ + 6 * A * S + 8 * F),
        ),
        # No kernel takes grouped queries in fp32: torch writes the scores out.
        ({"weight_itemsize": 4}, T * (24 * H + 8 + 16 * HQ + 4 * A * S + 16 * F)),
        (
            {"weight_itemsize": 4, "autocast": 2},
            T * (26 * H + 8 + 4 * HQ + 4 * HK + 4 * A + 8 * F) + 2 * P_LINEAR + SEEDS,
        ),
        (
            {"weight_itemsize": 2, "trains_base": False, "ranks": all_linears(16)},
            T * (28 * H + 8 + 8 * HQ + 4 * HK + 4 * A + 10 * F + 28 * 16) + SEEDS,
        ),
    ],
    ids=["bf16", "bf16 eager", "fp32", "amp", "lora"],
)
def test_a_llama_layer_saves_what_autograd_was_seen_to_save(
    options: dict[str, Any], expected: int
) -> None:
    assert saved(LLAMA, **options) == expected


def test_a_gpt2_layer_saves_what_autograd_was_seen_to_save() -> None:
    """Dropout's masks included; the unfused GELU keeps four tensors of the MLP's width."""
    f = 4 * H
    assert saved(GPT2, weight_itemsize=2) == T * (18 * H + 16 + 10 * f + 4 * A) + SEEDS


def test_recomputation_never_keeps_more() -> None:
    setting = Setting(micro_batch=B, seq_len=S, conduct=LLAMA.conduct, weight_itemsize=2)
    program = layer_program(
        layer(LLAMA), setting, transformers.STYLE, width=H, itemsize=2, needs_grad=True
    )
    assert piece(program, checkpointed=True).saved < piece(program).saved
    assert piece(program, checkpointed=True).gradients == piece(program).gradients


def test_blooms_gelu_holds_four_tensors_forward_and_five_backward() -> None:
    program = Program()
    x = program.input("x", 4096, 2, needs_grad=True)
    program.outputs.append(activation(program, x, "bloom_gelu"))
    each = x.n_bytes
    assert forward(program).saved == each
    assert forward(program).peak == each + 4 * each
    assert backward(program).peak == 2 * each + 5 * each  # beside the input and what came


def test_adapters_over_few_bits_are_not_cast_under_autocast() -> None:
    """The output projection's adapter reads what attention saved; a whole base's keeps a copy."""
    amp = {"weight_itemsize": 4, "autocast": 2, "trains_base": False, "quant_itemsize": 2}
    ranks = (("self_attn.o_proj", 16),)

    def added(quant: str) -> int:
        return saved(LLAMA, **amp, ranks=ranks, quant=quant) - saved(LLAMA, **amp, quant=quant)

    own = 2 * T * 16 + 2 * 16 * (HQ + H)  # what lies between its matrices, and their casts
    assert added("nf4") == own
    assert added("") == own + 2 * T * HQ
