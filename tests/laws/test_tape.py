"""Laws of the tape: arrays as numbers, ranks as a whole, recomputation never worse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lmsize
from lmsize.layout.columns import Column
from lmsize.layout.degrees import Layout
from lmsize.memory.stack_styles import STYLES
from lmsize.model.parts import Linear
from lmsize.model.read import read_config
from lmsize.model.spec import Block, ModelSpec
from lmsize.stacks.layer import layer_program
from lmsize.stacks.local import local_section
from lmsize.stacks.sections import sections
from lmsize.stacks.setting import Setting
from lmsize.tape.pieces import Piece, piece

SHAPE = {
    "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 8,
    "num_key_value_heads": 4, "vocab_size": 1000, "head_dim": 32,
}  # fmt: skip
FAMILIES = {
    "llama": "LlamaForCausalLM", "gemma2": "Gemma2ForCausalLM", "olmo2": "Olmo2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM", "mixtral": "MixtralForCausalLM", "bert": "BertForMaskedLM",
    "gpt_neox": "GPTNeoXForCausalLM", "cohere": "CohereForCausalLM",
}  # fmt: skip


def model(family: str) -> ModelSpec:
    return read_config(
        {**SHAPE, "model_type": family, "architectures": [FAMILIES[family]]}, name=family
    )


def layer(spec: ModelSpec) -> Block:
    return next(run.block for _, run in spec.runs() if run.block.role == "layer")


def made(
    spec: ModelSpec, stack: str, *, checkpointed: bool = False, reentrant: bool = False,
    **options: Any,
) -> Piece:  # fmt: skip
    setting = Setting(conduct=spec.conduct, **{"weight_itemsize": 2, **options})
    program = layer_program(
        layer(spec), setting, STYLES[stack], width=256, itemsize=setting.weight_itemsize,
        needs_grad=True,
    )  # fmt: skip
    return piece(program, checkpointed=checkpointed, reentrant=reentrant)


@pytest.mark.parametrize("n_sequences", [[2, 3, 7], [1, 1, 1]])
@pytest.mark.parametrize("stack", sorted(STYLES))
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_layer_over_arrays_is_the_layers_one_by_one(
    family: str, attention: str, stack: str, n_sequences: list[int]
) -> None:
    """One sequence and many part: its heads lie together, so that products need no copies."""
    spec = model(family)
    batches, lengths = (np.array(n).view(Column) for n in (n_sequences, [128, 33, 1024]))
    whole = made(spec, stack, attention=attention, micro_batch=batches, seq_len=lengths)
    for at, (batch, length) in enumerate(zip(batches.tolist(), lengths.tolist(), strict=True)):
        one = made(spec, stack, attention=attention, micro_batch=batch, seq_len=length)
        for name in ("saved", "forward_peak", "backward_peak", "peak_saved", "gradients"):
            assert np.broadcast_to(getattr(whole, name), 3)[at] == getattr(one, name), name


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("tp", [2, 4])
def test_ranks_sum_to_the_whole(family: str, tp: int) -> None:
    for section in sections(layer(model(family))):
        local = local_section(section, Layout(tp=tp))
        for part, mine in zip(
            [*section.linears, *section.outputs], [*local.linears, *local.outputs], strict=True
        ):
            ranks = tp if part.split else 1
            assert isinstance(part, Linear)
            assert mine.n_in * mine.n_out * ranks == part.n_in * part.n_out
        if section.core is not None and local.core is not None:
            assert local.core.n_heads * tp == section.core.n_heads


@given(
    batch=st.integers(1, 8), length=st.integers(1, 2048), family=st.sampled_from(sorted(FAMILIES)),
    autocast=st.sampled_from([None, 2]), attention=st.sampled_from(["sdpa", "eager"]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_recomputation_keeps_no_more(
    batch: int, length: int, family: str, autocast: float | None, attention: str
) -> None:
    options: dict[str, Any] = {
        "micro_batch": batch, "seq_len": length, "autocast": autocast, "attention": attention,
        "weight_itemsize": 4 if autocast else 2,
    }  # fmt: skip
    plain = made(model(family), "transformers", **options)
    again = made(model(family), "transformers", checkpointed=True, **options)
    assert again.saved <= plain.saved
    assert again.gradients == plain.gradients
    assert again.forward_peak <= plain.forward_peak
    # Of a checkpoint's hooks what was saved is gone a little sooner; not where a layer just runs again.
    whole = made(model(family), "transformers", checkpointed=True, reentrant=True, **options)
    assert whole.backward_peak >= plain.backward_peak


@pytest.mark.parametrize("stack", ["megatron", "torchtitan", "transformers"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_one_rank_of_one_is_the_whole(family: str, stack: str) -> None:
    options: dict[str, Any] = {"micro_batch": 2, "seq_len": 64}
    alone = made(model(family), stack, layout=Layout(dp=8), **options)
    assert alone == made(model(family), stack, **options)


def test_more_tokens_never_hold_less() -> None:
    for options in ({}, {"method": "lora"}, {"recompute": "full"}, {"stack": "megatron"}):
        peaks = [
            lmsize.train("qwen3-0.6b", seq_len=n, **options).memory.peak_allocated_bytes or 0  # type: ignore[arg-type]
            for n in (1, 64, 512, 4096, 16384)
        ]
        assert peaks == sorted(peaks)
