"""Reading configs: what is wrong is named, what is assumed is said, nothing hangs or escapes."""

from __future__ import annotations

import time
from typing import Any

import pytest

from lmsize.errors import ModelError
from lmsize.model.config import DEEPEST, LARGEST, Config, class_defaults
from lmsize.model.count import n_params
from lmsize.model.read import USUAL_KEYS, read_config

LLAMA: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "vocab_size": 100, "intermediate_size": 96, "num_key_value_heads": 2,
    "tie_word_embeddings": False, "max_position_embeddings": 128,
}  # fmt: skip
NAN, INFINITE = float("nan"), float("inf")
NOT_COUNTS = [
    True, False, 0, -1, -(10**12), LARGEST + 1, 10**40, 1e30, 0.5, 64.0, NAN, INFINITE, "", "64",
    "sixty-four", [], [64], {}, {"value": 64}, [[[[64]]]],
]  # fmt: skip


def config(**raw: Any) -> Config:
    return Config(raw, "llama")


def read(**changes: Any) -> Any:
    return read_config(LLAMA | changes, name="case")


# -- required keys ---------------------------------------------------------------------------


def test_every_missing_key_is_named_at_once() -> None:
    with pytest.raises(ModelError) as caught:
        config(hidden_size=64).require("hidden_size", "num_hidden_layers", "vocab_size")
    assert "num_hidden_layers, vocab_size" in str(caught.value)
    assert "keys hidden_size" not in str(caught.value)


def test_class_default_never_stands_in_for_a_required_key() -> None:
    assert class_defaults()["llama"]["defaults"]["hidden_size"] == 4096
    with pytest.raises(ModelError, match="hidden_size"):
        config().require("hidden_size")


def test_null_counts_as_missing() -> None:
    with pytest.raises(ModelError, match="vocab_size"):
        read(vocab_size=None)


def test_misspelt_key_is_offered() -> None:
    with pytest.raises(ModelError, match="hiden_size"):
        config(hiden_size=64).require("hidden_size")


@pytest.mark.parametrize("key", USUAL_KEYS)
@pytest.mark.parametrize("value", NOT_COUNTS, ids=repr)
def test_wrong_core_value_is_named(key: str, value: object) -> None:
    with pytest.raises(ModelError) as caught:
        read(**{key: value})
    assert key in str(caught.value)


@pytest.mark.parametrize("value", NOT_COUNTS, ids=repr)
def test_wrong_other_count_is_named(value: object) -> None:
    with pytest.raises(ModelError, match="intermediate_size"):
        read(intermediate_size=value)


def test_error_names_the_value_and_what_was_expected() -> None:
    with pytest.raises(ModelError) as caught:
        config(vocab_size=-5).int("vocab_size")
    assert caught.value.what == "vocab_size"
    assert caught.value.value == -5
    assert "whole number" in caught.value.expected


def test_long_value_is_shortened() -> None:
    with pytest.raises(ModelError) as caught:
        config(vocab_size=list(range(10_000))).int("vocab_size")
    assert len(str(caught.value)) < 400


# -- typed access ----------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1, 7, LARGEST])
def test_int_takes_whole_numbers_up_to_the_largest(value: int) -> None:
    assert config(width=value).int("width") == value


def test_int_may_start_at_zero() -> None:
    assert config(n_shared=0).int("n_shared", least=0) == 0
    with pytest.raises(ModelError):
        config(n_shared=0).int("n_shared")


def test_int_without_value_default_or_fallback_is_missing() -> None:
    with pytest.raises(ModelError, match="no_such_key"):
        config().int("no_such_key")
    assert config().int("no_such_key", 3) == 3


def test_optional_int_is_none_where_nothing_is_said() -> None:
    assert config().optional_int("no_such_key") is None
    assert config(no_such_key=None).optional_int("no_such_key") is None
    assert config(no_such_key=5).optional_int("no_such_key") == 5
    with pytest.raises(ModelError):
        config(no_such_key="5").optional_int("no_such_key")


@pytest.mark.parametrize(
    ("value", "read_as"), [(True, True), (False, False), (1, True), (0, False)]
)
def test_flag_takes_booleans_and_bits(value: object, read_as: bool) -> None:
    assert config(mlp_bias=value).flag("mlp_bias") is read_as


@pytest.mark.parametrize("value", [2, -1, "true", "", [], {}, NAN, 0.5, [True]], ids=repr)
def test_flag_refuses_anything_else(value: object) -> None:
    with pytest.raises(ModelError, match="mlp_bias"):
        config(mlp_bias=value).flag("mlp_bias")


@pytest.mark.parametrize("value", [0, 0.25, 4, 1e6])
def test_number_takes_finite_ones(value: float) -> None:
    assert config(factor=value).number("factor") == value


@pytest.mark.parametrize(
    "value", [-0.1, NAN, INFINITE, -INFINITE, 1e30, True, "1", [1], {}], ids=repr
)
def test_number_refuses_the_rest(value: object) -> None:
    with pytest.raises(ModelError, match="factor"):
        config(factor=value).number("factor")


@pytest.mark.parametrize("value", [1, True, ["silu"], {"a": 1}], ids=repr)
def test_text_must_be_text(value: object) -> None:
    with pytest.raises(ModelError, match="kind"):
        config(kind=value).text("kind", "silu")


@pytest.mark.parametrize("value", ["full", 3, {"0": "full"}, True], ids=repr)
def test_sequence_must_be_a_list(value: object) -> None:
    with pytest.raises(ModelError, match="layer_types"):
        config(layer_types=value).sequence("layer_types")


@pytest.mark.parametrize(
    "value",
    [[], ["full"], ["full"] * 3, ["full", "half"], ["full", None], [["full"], "full"], [{}, 1]],
    ids=repr,
)
def test_per_layer_must_name_a_known_kind_for_every_layer(value: object) -> None:
    with pytest.raises(ModelError, match="layer_types"):
        config(layer_types=value).per_layer("layer_types", 2, ("full", "sliding"))


def test_per_layer_as_given() -> None:
    given = config(layer_types=["full", "sliding"])
    assert given.per_layer("layer_types", 2, ("full", "sliding")) == ["full", "sliding"]
    assert config().per_layer("layer_types", 2, ("full",)) is None


# -- sections --------------------------------------------------------------------------------


def test_section_names_its_path_in_errors() -> None:
    section = config(text_config={"vocab_size": "many"}).section("text_config")
    assert section is not None
    with pytest.raises(ModelError, match=r"text_config\.vocab_size"):
        section.int("vocab_size")
    with pytest.raises(ModelError, match=r"text_config\.hidden_size"):
        section.require("hidden_size")


def test_section_shares_assumptions() -> None:
    outer = config(text_config={"model_type": "llama"})
    section = outer.section("text_config")
    assert section is not None
    section.flag("attention_bias")
    assert "text_config.attention_bias" in outer.assumptions[0].text


@pytest.mark.parametrize("value", ["llama", 3, True, [{}], []], ids=repr)
def test_section_must_be_an_object(value: object) -> None:
    with pytest.raises(ModelError, match="text_config"):
        config(text_config=value).section("text_config")


def test_absent_section_is_none() -> None:
    assert config().section("text_config") is None
    assert config(text_config=None).section("text_config") is None


# -- defaults and aliases --------------------------------------------------------------------


def test_default_is_recorded_as_one_assumption() -> None:
    given = config()
    given.flag("attention_bias")
    given.flag("mlp_bias")
    (assumption,) = given.assumptions
    assert assumption.code == "config-default"
    assert "attention_bias = false" in assumption.text
    assert "mlp_bias = false" in assumption.text


def test_value_in_the_file_assumes_nothing() -> None:
    given = config(attention_bias=False)
    given.flag("attention_bias")
    assert given.assumptions == ()


def test_alias_is_read_either_way() -> None:
    by_alias = Config({"hidden_size": 32}, "gpt2")
    assert by_alias.require("n_embd") == (32,)
    by_name = Config({"n_embd": 32}, "gpt2")
    assert by_name.require("hidden_size") == (32,)


def test_key_wins_over_its_alias() -> None:
    assert Config({"n_embd": 32, "hidden_size": 48}, "gpt2").int("n_embd") == 32


# -- what is counted -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("LlamaForCausalLM", "CausalLM"),
        ("BertForMaskedLM", "MaskedLM"),
        ("T5ForConditionalGeneration", "ConditionalGeneration"),
        ("GPT2LMHeadModel", "LMHead"),
        ("XLMWithLMHeadModel", "LMHead"),
        ("LlamaModel", "Model"),
        ("BertForSequenceClassification", "SequenceClassification"),
        ("Nonsense", ""),
    ],
)
def test_task_of_a_class(architecture: str, task: str) -> None:
    assert config(architectures=[architecture]).task == task


@pytest.mark.parametrize("value", [None, [], "LlamaForCausalLM", [3], [None], {}, 7], ids=repr)
def test_class_that_is_not_named_is_the_usual_one(value: object) -> None:
    assert config(architectures=value).architecture == "LlamaForCausalLM"


def test_labels() -> None:
    assert config().n_labels == 2
    assert config(num_labels=5).n_labels == 5
    assert config(id2label={"0": "a", "1": "b", "2": "c"}, num_labels=5).n_labels == 3


@pytest.mark.parametrize("value", [0, -1, True, 2.0, "3", [], LARGEST + 1], ids=repr)
def test_number_of_labels_must_make_sense(value: object) -> None:
    with pytest.raises(ModelError, match="num_labels"):
        assert config(num_labels=value).n_labels


# -- whole files -----------------------------------------------------------------------------


@pytest.mark.parametrize("raw", [None, [], "llama", 3, [LLAMA]], ids=repr)
def test_file_must_be_an_object(raw: Any) -> None:
    with pytest.raises(ModelError, match="JSON object"):
        read_config(raw, name="case")


@pytest.mark.parametrize("value", [3, True, ["llama"], {}, {"a": 1}], ids=repr)
def test_model_type_must_be_text(value: object) -> None:
    with pytest.raises(ModelError, match="model_type"):
        read(model_type=value)


def test_empty_file_is_refused() -> None:
    with pytest.raises(ModelError, match="hidden_size, num_hidden_layers"):
        read_config({}, name="case")


def test_unknown_type_without_the_usual_keys_names_them_and_its_neighbours() -> None:
    with pytest.raises(ModelError) as caught:
        read_config({"model_type": "lama", "hidden_size": 64}, name="case")
    assert "num_hidden_layers, num_attention_heads, vocab_size" in str(caught.value)
    assert "llama" in caught.value.nearest


def test_unknown_type_with_the_usual_keys_is_read_like_llama_and_said() -> None:
    spec = read(model_type="no-such-model")
    codes = {assumption.code for assumption in spec.assumptions}
    assert "unknown-model-type" in codes
    assert n_params(spec) == n_params(read())


def test_absent_type_with_the_usual_keys_is_read_like_llama() -> None:
    spec = read(model_type=None)
    assert "unknown-model-type" in {assumption.code for assumption in spec.assumptions}


def test_unknown_keys_are_ignored() -> None:
    nonsense: dict[str, Any] = {
        "": 1,
        "x": None,
        "rope": [[[]]],
        "quantization_config": {"bits": "four"},
    }
    assert n_params(read(**nonsense)) == n_params(read())


def test_deeply_nested_value_is_refused_like_any_other() -> None:
    value: list[Any] = []
    for _ in range(300):
        value = [value]
    with pytest.raises(ModelError, match="hidden_size"):
        read(hidden_size=value)


@pytest.mark.parametrize("n_layers", [DEEPEST + 1, 10**6, LARGEST])
def test_hostile_depth_is_refused_at_once(n_layers: int) -> None:
    start = time.perf_counter()
    with pytest.raises(ModelError, match="num_hidden_layers"):
        read(num_hidden_layers=n_layers)
    assert time.perf_counter() - start < 1


def test_greatest_depth_is_read() -> None:
    one, all_ = read(num_hidden_layers=1), read(num_hidden_layers=DEEPEST)
    two = read(num_hidden_layers=2)
    per_layer = n_params(two) - n_params(one)
    assert n_params(all_) == n_params(one) + (DEEPEST - 1) * per_layer


def test_greatest_sizes_do_not_overflow() -> None:
    spec = read(hidden_size=LARGEST, vocab_size=LARGEST, num_attention_heads=1)
    assert n_params(spec) > 2**62
