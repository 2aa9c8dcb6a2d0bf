"""Encoders and old decoders whose classes do otherwise: tables, norms, masks, what is never read."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from lmsize.catalogue import built_in
from lmsize.estimate.question import training_question
from lmsize.formula import Term
from lmsize.memory.stack_styles import not_understood
from lmsize.memory.training import training_peak
from lmsize.model.read import read_config
from lmsize.model.spec import ModelSpec
from lmsize.stacks import transformers
from lmsize.stacks.ends import embedding_program
from lmsize.stacks.sections import sections
from lmsize.stacks.setting import Setting
from lmsize.workload.training import TrainSpec

B, S, H, F = 2, 64, 128, 512
SIZES = {
    "hidden_size": H, "intermediate_size": F, "num_hidden_layers": 2, "num_attention_heads": 4,
    "vocab_size": 1000, "max_position_embeddings": 128,
}  # fmt: skip


def model_of(kind: str, architecture: str, **keys: Any) -> ModelSpec:
    config = {"model_type": kind, "architectures": [architecture], **SIZES, **keys}
    return read_config(config, name=kind)


def components(model: ModelSpec, **options: Any) -> dict[str, Term]:
    spec = TrainSpec(
        **{"method": "full", "precision": "fp32", "micro_batch": B, "seq_len": S,
           "optimizer": "adamw", **options}
    )  # fmt: skip
    asked = training_question(model, spec, built_in(), accelerator=None, today=date(2026, 1, 1))
    return {part.label: part for part in training_peak(asked.setup).children[-1].children}


@pytest.mark.parametrize(
    ("kind", "architecture", "is_first"),
    [
        ("esm", "EsmForMaskedLM", True),
        ("roberta-prelayernorm", "RobertaPreLayerNormForMaskedLM", True),
        ("megatron-bert", "MegatronBertForMaskedLM", True),
        ("bert", "BertForMaskedLM", False),
    ],
)
def test_norms_stand_where_they_run(kind: str, architecture: str, is_first: bool) -> None:
    keys = {"position_embedding_type": "absolute", "pad_token_id": 1}
    layer = model_of(kind, architecture, **keys).towers[0].runs[1].block
    for branch in sections(layer):
        assert (branch.before is not None) is is_first
        assert (branch.after is None) is is_first


def test_the_first_gpt_norms_the_sum_after_each_branch() -> None:
    sizes = {"n_embd": H, "n_layer": 2, "n_head": 4, "n_positions": 128}
    model = model_of("openai-gpt", "OpenAIGPTLMHeadModel", **sizes)
    assert all(
        branch.after and not branch.before for branch in sections(model.towers[0].runs[1].block)
    )
    # A triangle of ones for each layer, in the type of the weights.
    assert components(model)["buffers"].value == 2 * 128 * 128 * 4
    assert components(model, precision="bf16")["buffers"].value == 2 * 128 * 128 * 2


@pytest.mark.parametrize(("concat", "width"), [(True, H + 64 + 32), (False, 0)])
def test_rocbert_puts_shapes_and_sounds_beside_words(concat: bool, width: int) -> None:
    model = model_of(
        "roc_bert", "RoCBertForMaskedLM", pronunciation_vocab_size=50, shape_vocab_size=60,
        pronunciation_embed_dim=32, shape_embed_dim=64, concat_input=concat, type_vocab_size=2,
    )  # fmt: skip
    block = model.towers[-1].runs[0].block
    setting = Setting(micro_batch=B, seq_len=S, conduct=model.conduct, weight_itemsize=4)
    program = embedding_program(block, setting, transformers.STYLE, use="parameter")
    widest = (
        max(t.numel for op in program.ops if op.name == "cat" for t in op.writes) if width else 0
    )
    assert widest == B * S * width
    assert (len(model.towers) == 1) is concat  # without a place beside words, both are never read


def test_a_pooler_that_no_loss_reads_has_weights_and_no_gradients() -> None:
    masked, labels = (
        components(model_of("layoutlm", f"LayoutLMFor{task}", max_2d_position_embeddings=64))
        for task in ("MaskedLM", "SequenceClassification")
    )
    pooler, head = (H * H + H) * 4, (H * H + H + 2 * H + 1000) * 4
    classifier = (2 * H + 2) * 4
    assert masked["weights"].value - labels["weights"].value == head - classifier
    assert masked["gradients"].value - labels["gradients"].value == head - classifier - pooler


def test_layers_of_their_own_are_said_to_be_taken_by_parts() -> None:
    assert not_understood(model_of("yoso", "YosoForMaskedLM", type_vocab_size=2)) == ["layer"]
    assert not not_understood(model_of("bert", "BertForMaskedLM"))
