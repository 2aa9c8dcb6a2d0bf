"""What the golden counts of encoder-decoders cannot say: heads that transformers 5 drops, towers."""

from __future__ import annotations

from typing import Any

import pytest

from lmsize.errors import ModelError
from lmsize.model.count import n_params, n_params_active
from lmsize.model.parts import AttentionCore, Linear
from lmsize.model.read import read_config
from lmsize.model.spec import ModelSpec, Tower

T5_SMALL = {
    "model_type": "t5", "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6,
    "num_decoder_layers": 6, "num_heads": 8, "relative_attention_num_buckets": 32,
    "feed_forward_proj": "relu", "vocab_size": 32128,
}  # fmt: skip
FLAN_T5_SMALL = T5_SMALL | {
    "d_ff": 1024, "num_layers": 8, "num_decoder_layers": 8, "num_heads": 6,
    "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
}  # fmt: skip
BART_LIKE = {
    "d_model": 24, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 3,
    "decoder_attention_heads": 4, "vocab_size": 50, "encoder_ffn_dim": 40, "decoder_ffn_dim": 44,
    "max_position_embeddings": 16,
}  # fmt: skip


def read(config: dict[str, Any], **changes: Any) -> ModelSpec:
    return read_config(config | changes, name="case")


def cores(tower: Tower) -> list[AttentionCore]:
    return [p for run in tower.runs for p in run.block.parts if isinstance(p, AttentionCore)]


def linears(tower: Tower) -> list[Linear]:
    return [p for run in tower.runs for p in run.block.parts if isinstance(p, Linear)]


@pytest.mark.parametrize(
    ("changes", "published"),
    [
        ({}, 60_506_624),  # t5-small
        # Published totals of T5 v1.1 and Flan-T5, whose checkpoints hold a head of their own.
        (FLAN_T5_SMALL, 76_961_152),
        (FLAN_T5_SMALL | {
            "d_model": 768, "d_ff": 2048, "num_layers": 12, "num_decoder_layers": 12,
            "num_heads": 12,
        }, 247_577_856),
        (FLAN_T5_SMALL | {
            "d_model": 4096, "d_ff": 10240, "num_layers": 24, "num_decoder_layers": 24,
            "num_heads": 64,
        }, 11_135_332_352),
    ],
)  # fmt: skip
def test_t5_totals_as_published(changes: dict[str, Any], published: int) -> None:
    assert n_params(read(T5_SMALL, **changes)) == published


@pytest.mark.parametrize("model_type", ["t5", "mt5", "umt5"])
def test_untied_t5_has_a_head_of_its_own_and_one_token_table(model_type: str) -> None:
    """transformers 5 forces ``tie_word_embeddings`` to true here; the checkpoints are untied."""
    small = FLAN_T5_SMALL | {"model_type": model_type, "vocab_size": 100}
    own, tied = read(small), read(small, tie_word_embeddings=True)
    assert n_params(own) - n_params(tied) == 100 * 512
    absent = {k: v for k, v in small.items() if k != "tie_word_embeddings"}
    assert n_params(read(absent)) == n_params(tied)


@pytest.mark.parametrize("head", ["EncoderModel", "Model", "ForQuestionAnswering"])
def test_tying_matters_only_to_t5_with_a_language_head(head: str) -> None:
    own = read(FLAN_T5_SMALL, architectures=[f"T5{head}"])
    tied = read(FLAN_T5_SMALL, architectures=[f"T5{head}"], tie_word_embeddings=True)
    assert n_params(own) == n_params(tied)


def test_longt5_is_always_tied() -> None:
    config = FLAN_T5_SMALL | {"model_type": "longt5"}
    assert n_params(read(config)) == n_params(read(config, tie_word_embeddings=True))


def test_decoder_depth_of_t5_defaults_to_the_encoders() -> None:
    sparse = {k: v for k, v in T5_SMALL.items() if k != "num_decoder_layers"}
    assert n_params(read(sparse)) == n_params(read(T5_SMALL))
    assert n_params(read(T5_SMALL, num_decoder_layers=None)) == n_params(read(T5_SMALL))


@pytest.mark.parametrize("config", [T5_SMALL, BART_LIKE | {"model_type": "bart"}])
def test_towers_read_their_own_stream(config: dict[str, Any]) -> None:
    spec = read(config)
    encoder, decoder = spec.towers
    assert (encoder.stream, decoder.stream, spec.is_encoder_decoder) == ("input", "labels", True)
    assert all(not core.causal and not core.cross for core in cores(encoder))
    assert {(core.causal, core.cross) for core in cores(decoder)} == {(True, False), (False, True)}


def test_shared_table_is_counted_once() -> None:
    spec = read(T5_SMALL)
    copies = [run.n_copies for _, run in spec.runs() if run.block.name == "embedding"]
    assert copies == [1, 0]


def test_encoder_alone_has_one_tower() -> None:
    spec = read(T5_SMALL, architectures=["T5EncoderModel"])
    assert [tower.name for tower in spec.towers] == ["encoder"]
    assert not spec.is_encoder_decoder


@pytest.mark.parametrize("model_type", ["bart", "mbart", "pegasus", "blenderbot", "marian"])
def test_decoder_alone_keeps_cross_attention_that_never_runs(model_type: str) -> None:
    spec = read(
        BART_LIKE, model_type=model_type, architectures=["XForCausalLM"], tie_word_embeddings=True
    )
    decoder, crossing = sorted(spec.towers, key=lambda tower: tower.stream == "idle")
    assert decoder.stream == "input"
    assert crossing.stream == "idle"
    assert not any(core.cross for core in cores(decoder))
    assert not any(part.name.startswith("encoder_attn") for part in linears(decoder))
    idle = [part for part in linears(crossing) if part.name.startswith("encoder_attn")]
    assert len(idle) == 4
    assert all(part.per_token == 0 for part in idle)


def test_decoder_alone_needs_no_encoder_keys() -> None:
    keys = {k: v for k, v in BART_LIKE.items() if not k.startswith("encoder")}
    alone = {"model_type": "bart", "architectures": ["BartForCausalLM"]}
    assert n_params(read(keys | alone)) == n_params(read(BART_LIKE | alone))
    with pytest.raises(ModelError, match="encoder_layers, encoder_attention_heads"):
        read(keys | {"model_type": "bart"})


def test_one_expert_of_a_switch_layer_is_active() -> None:
    config = T5_SMALL | {"model_type": "switch_transformers", "num_experts": 8}
    spec = read(config, num_sparse_encoder_layers=3, num_sparse_decoder_layers=3)
    idle = 6 * 7 * 2 * 512 * 2048  # 6 sparse layers, 7 of 8 experts, two matrices
    assert n_params(spec) - n_params_active(spec) == idle


@pytest.mark.parametrize(
    ("config", "changes", "window"),
    [
        (T5_SMALL, {"model_type": "longt5", "local_radius": 9}, 19),
        (BART_LIKE, {"model_type": "led", "attention_window": 8}, 9),
        (BART_LIKE, {"model_type": "bigbird_pegasus", "block_size": 4}, (5 + 3) * 4),
        (BART_LIKE, {"model_type": "pegasus_x", "block_size": 8, "num_global_tokens": 2}, 10),
    ],
)
def test_window_of_an_encoder_is_the_tokens_that_one_sees(
    config: dict[str, Any], changes: dict[str, Any], window: int
) -> None:
    encoder, decoder = read(config, **changes).towers
    assert {core.window for core in cores(encoder)} == {window}
    assert {core.window for core in cores(decoder)} == {None}


def test_prophetnet_runs_its_decoder_for_every_stream() -> None:
    spec = read({
        "model_type": "prophetnet", "hidden_size": 24, "num_encoder_layers": 1,
        "num_decoder_layers": 1, "num_encoder_attention_heads": 2,
        "num_decoder_attention_heads": 2, "vocab_size": 30, "ngram": 3,
    })  # fmt: skip
    runs = {part.name: part.per_token for part in linears(spec.towers[-1])}
    assert runs["self_attn.query_proj"] == runs["cross_attn.query_proj"] == 4
    assert (runs["cross_attn.key_proj"], runs["lm_head"]) == (1, 3)


def test_pair_projects_between_unequal_widths() -> None:
    half = {
        "model_type": "bert", "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
        "vocab_size": 30, "intermediate_size": 31, "max_position_embeddings": 8,
    }  # fmt: skip
    decoder = half | {"is_decoder": True, "add_cross_attention": True}
    pair = {"model_type": "encoder-decoder", "encoder": half}
    equal = read(pair, decoder=decoder)
    wider = read(pair, decoder=decoder | {"hidden_size": 28})
    assert "enc_to_dec_proj" not in {part.name for t in equal.towers for part in linears(t)}
    projection = next(p for t in wider.towers for p in linears(t) if p.name == "enc_to_dec_proj")
    assert (projection.n_in, projection.n_out) == (24, 28)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (T5_SMALL | {"feed_forward_proj": "gelu-gated"}, "feed_forward_proj"),
        (T5_SMALL | {"model_type": "longt5", "encoder_attention_type": "far"}, "encoder_attention"),
        (BART_LIKE | {"model_type": "bart", "d_model": 25}, "encoder_attention_heads"),
        (BART_LIKE | {"model_type": "led", "attention_window": 7}, "attention_window"),
        (BART_LIKE | {"model_type": "led", "attention_window": [8]}, "attention_window"),
        (BART_LIKE | {"model_type": "bigbird_pegasus", "attention_type": "x"}, "attention_type"),
        ({"model_type": "t5gemma"}, "encoder"),
        ({"model_type": "encoder-decoder", "encoder": {"model_type": "x"}}, "encoder.model_type"),
        ({"model_type": "encoder-decoder", "encoder": {}}, "encoder.model_type"),
    ],
)
def test_bad_value_is_named(config: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelError, match=named):
        read(config)


def test_pair_of_pairs_is_refused() -> None:
    pair: dict[str, Any] = {"model_type": "encoder-decoder"}
    pair["encoder"] = {"model_type": "encoder-decoder", "encoder": {}}
    with pytest.raises(ModelError, match="one known model"):
        read(pair)


def test_unknown_class_is_counted_as_the_usual_one_and_said() -> None:
    spec = read(T5_SMALL, architectures=["T5ForPoetry"])
    assert n_params(spec) == n_params(read(T5_SMALL))
    assert "unknown-architecture" in {a.code for a in spec.assumptions}


def test_class_of_an_older_release_is_known() -> None:
    spec = read(T5_SMALL, architectures=["T5WithLMHeadModel"])
    assert n_params(spec) == n_params(read(T5_SMALL))
    assert "unknown-architecture" not in {a.code for a in spec.assumptions}
