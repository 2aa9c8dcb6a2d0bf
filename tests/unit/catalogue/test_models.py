"""Known architectures are found by name and Hub id, one line read at a time."""

from __future__ import annotations

import json
import time

import pytest

from lmsize.catalogue import architectures, built_in, tables
from lmsize.errors import InputError

CATALOGUE = built_in()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama-3.1-8b", "llama-3.1-8b"), ("Llama 3.1 8B", "llama-3.1-8b"),
        ("meta-llama/Llama-3.1-8B", "llama-3.1-8b"), ("META-LLAMA/llama-3.1-8b", "llama-3.1-8b"),
        ("meta-llama/Meta-Llama-3.1-8B", "llama-3.1-8b"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("openai-community/gpt2", "gpt2"), ("GPT2", "gpt2"), ("Qwen/Qwen3-8B", "qwen3-8b"),
        ("deepseek-ai/DeepSeek-V3", "deepseek-v3"), ("gpt3-175b", "gpt3-175b"),
        ("opt-13b", "opt-13b"), ("OPT 13B", "opt-13b"), ("opt-1.3b", "opt-1.3b"),
        ("OPT_1.3b", "opt-1.3b"), ("gpt3-1.3b", "gpt3-1.3b"), ("phi-1_5", "phi-1.5"),
    ],
)  # fmt: skip
def test_names_and_hub_ids(name: str, expected: str) -> None:
    entry, assumed = CATALOGUE.model(name)
    assert entry.name == expected
    assert assumed == ()


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Qwen/Qwen2.5-7B-Instruct", "qwen2.5-7b"), ("google/gemma-2-9b-it", "gemma-2-9b"),
     ("deepseek-ai/deepseek-llm-7b-chat", "deepseek-llm-7b")],
)  # fmt: skip
def test_a_tuned_checkpoint_of_the_same_organisation_is_an_assumption(
    name: str, expected: str
) -> None:
    entry, (assumption,) = CATALOGUE.model(name)
    assert entry.name == expected
    assert assumption.code == "model-variant"


@pytest.mark.parametrize(
    "name",
    ["someone/Llama-3.1-8B", "someone/gpt2", "gpt2/gpt2", "llama-9-8b", "", "/", "a/b/c", "☃"],
)
def test_what_is_not_known_is_none_or_an_error(name: str) -> None:
    assert CATALOGUE.find_model(name) is None
    with pytest.raises(InputError, match="MODEL"):
        CATALOGUE.model(name)


def test_every_name_and_hub_id_means_its_own_row() -> None:
    for row in CATALOGUE.models():
        for word in (row.name, row.name.upper(), *architectures.hub_words(row)):
            assert CATALOGUE.model(word)[0].name == row.name, word


def test_an_unknown_name_gets_near_ones() -> None:
    with pytest.raises(InputError) as caught:
        CATALOGUE.model("llama-3.1-8")
    assert "llama-3.1-8b" in caught.value.nearest
    with pytest.raises(InputError) as caught:
        CATALOGUE.model("meta-llama/Llama-3.1-9B")
    assert any("Llama-3.1-8B" in str(n) for n in caught.value.nearest)


def test_every_line_of_the_file_is_the_one_its_index_says() -> None:
    lines = tables.data_file("models.jsonl").read_bytes().splitlines(keepends=True)
    rows = architectures.index()
    assert len(lines) == len(rows) == 234
    offset = 0
    for line, row in zip(lines, rows.values(), strict=True):
        raw = json.loads(line)
        assert (row.offset, row.n_bytes) == (offset, len(line))
        assert raw["name"] == row.name
        assert raw.get("n_params") == row.n_params
        assert raw["config"].get("model_type", "") == row.model_type
        offset += len(line)


def test_rows_are_sourced_and_counts_are_ordered() -> None:
    for name in architectures.index():
        entry = architectures.entry(name)
        assert entry.source
        assert entry.source_date
        assert entry.confidence in ("high", "medium", "low")
        assert entry.config
        if entry.n_params_active and entry.n_params:
            assert entry.n_params_active <= entry.n_params
        assert not any(key.startswith("_") for key in entry.config)


@pytest.mark.parametrize(
    ("name", "n_params"),
    [("llama-3.1-70b", 70_553_706_496), ("llama-3.1-405b", 405_853_388_800),
     ("mixtral-8x7b", 46_702_792_704), ("deepseek-v3", 671_026_404_352),
     ("gpt-oss-120b", 116_829_156_672)],
)  # fmt: skip
def test_exact_counts(name: str, n_params: int) -> None:
    assert CATALOGUE.model(name)[0].n_params == n_params


def test_lists_take_substrings_and_globs() -> None:
    names = {row.name for row in CATALOGUE.models("llama-3.1")}
    assert {"llama-3.1-8b", "llama-3.1-70b", "llama-3.1-405b"} <= names
    assert {row.name for row in CATALOGUE.models("qwen3-?b")} == {"qwen3-4b", "qwen3-8b"}
    assert {row.name for row in CATALOGUE.models("meta-llama/*405b*")} == {"llama-3.1-405b"}
    assert len(CATALOGUE.models()) == 234
    assert CATALOGUE.models("nothing-like-it") == []


def test_one_model_is_read_in_about_a_millisecond() -> None:
    architectures.index()
    architectures.entry.cache_clear()
    start = time.perf_counter()
    for name in list(architectures.index())[:20]:
        architectures.entry(name)
    assert (time.perf_counter() - start) / 20 < 0.01
