"""Configs and catalogue files that are none: every fault is named, and nothing breaks."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[[str | list[str]], Any]
Refused = Callable[[str | list[str]], str]

GOOD = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "vocab_size": 100, "intermediate_size": 128,
}  # fmt: skip
TEXT = json.dumps(GOOD)


def width(value: str) -> bytes:
    """The good config with something else for its width."""
    return TEXT.replace('"hidden_size": 64', f'"hidden_size": {value}').encode()


FILES = {
    "truncated": (TEXT[:40].encode(), "line 1, column 41"),
    "empty": (b"", "line 1, column 1"),
    "binary": (bytes(range(256)) * 10, "UTF-8"),
    "utf-16": (TEXT.encode("utf-16"), "UTF-8"),
    "array": (b"[1, 2]", "[1, 2]"),
    "string": (b'"llama"', "'llama'"),
    "null": (b"null", "None"),
    "deep": (b"[" * 100_000 + b"]" * 100_000, "nested"),
    "deep object": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested"),
    "two documents": (TEXT.encode() * 2, "Extra data"),
    "long integer": (width("9" * 5000), "numbers"),
    "overflow": (width("1e400"), "hidden_size: inf"),
    "nan": (width("NaN"), "hidden_size: nan"),
    "infinity": (width("-Infinity"), "hidden_size: -inf"),
    "negative": (width("-64"), "hidden_size: -64"),
    "zero": (width("0"), "hidden_size: 0"),
    "float": (width("64.0"), "hidden_size: 64.0"),
    "beyond any memory": (width("1" + "0" * 30), "hidden_size: 1000"),
    "text for a number": (width('"64"'), "hidden_size: '64'"),
    "true for a number": (width("true"), "hidden_size: True"),
    "list for a number": (width("[64]"), "hidden_size: [64]"),
    "heads that do not divide": (TEXT.replace(": 4", ": 5").encode(), "num_attention_heads: 5"),
    "a billion layers": (TEXT.replace(": 2,", ": 1000000000,").encode(), "20000"),
    "unknown type": (b'{"model_type": "lama"}', "llama"),
    "type of another kind": (TEXT.replace('"llama"', "3").encode(), "model_type: 3"),
    "no keys": (b"{}", "num_hidden_layers"),
    "many keys": (json.dumps({f"key_{n}": n for n in range(50_000)}).encode(), "hidden_size"),
}


@pytest.mark.parametrize("fault", FILES)
@pytest.mark.parametrize("command", ["train", "infer"])
def test_configs_that_are_none(command: str, fault: str, tmp_path: Path, refused: Refused) -> None:
    content, named = FILES[fault]
    (tmp_path / "config.json").write_bytes(content)
    message = refused([command, str(tmp_path)])
    assert named in message
    assert f"{tmp_path}{os.sep}config.json" in message
    assert message.count("\n") == 1


ODD: dict[str, tuple[dict[str, Any], str]] = {
    "activation": (
        {"hidden_act": "zorp"},
        "hidden_act: 'zorp' is not valid: expected the name of an activation",
    ),
    "near activation": ({"hidden_act": "gelu_neww"}, "did you mean gelu_new"),
    "activation as number": ({"hidden_act": 5}, "hidden_act: 5 is not valid"),
    "quantisation": (
        {"quantization_config": 5},
        "quantization_config: 5 is not valid: expected an object",
    ),
    "method of it": (
        {"quantization_config": {"quant_method": 4}},
        "quantization_config.quant_method: 4",
    ),
    "more shared heads": (
        {"num_key_value_heads": 8},
        "num_key_value_heads: 8 is not valid: expected a divisor of num_attention_heads, 4; did you mean 2 or 4?",
    ),
    "shared heads": ({"num_key_value_heads": 3}, "did you mean 2 or 4?"),
    "head width": ({"head_dim": "16"}, "head_dim: '16'"),
    "negative width": ({"intermediate_size": -5}, "intermediate_size: -5"),
    "positions": ({"max_position_embeddings": 12.5}, "max_position_embeddings: 12.5"),
    "tied": (
        {"tie_word_embeddings": "yes"},
        "tie_word_embeddings: 'yes' is not valid: expected true or false",
    ),
    "dropout as text": (
        {"attention_dropout": "high"},
        "attention_dropout: 'high' is not valid: expected a rate",
    ),
    "dropout above one": ({"attention_dropout": 1.5}, "attention_dropout: 1.5"),
    "architectures": ({"architectures": "LlamaForCausalLM"}, "expected a list of names"),
    "architecture": ({"architectures": [5]}, "architectures: [5]"),
    "rope": ({"rope_scaling": 5}, "rope_scaling: 5 is not valid: expected an object"),
    "theta": ({"rope_theta": "x"}, "rope_theta: 'x'"),
    "window": ({"sliding_window": -4}, "sliding_window: -4"),
    "section": ({"text_config": 5}, "text_config: 5 is not valid: expected an object"),
    "a key spelled otherwise": (
        {"num_hidden_layers": None, "num_hidden_layer": 2},
        "num_hidden_layers: is missing: expected a whole number in the config (it has num_hidden_layer)",
    ),
}


@pytest.mark.parametrize("fault", ODD)
def test_odd_values_are_named_with_file_and_key(
    fault: str, tmp_path: Path, refused: Refused
) -> None:
    changed, said = ODD[fault]
    file = tmp_path / "config.json"
    file.write_text(json.dumps(GOOD | changed))
    message = refused(["train", str(file)])
    assert message.startswith(f"error: {file}: ")
    assert said in message


def test_another_classs_activation_is_its_own_affair(tmp_path: Path, run: Run) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps(GOOD | {"model_type": "lama", "hidden_act": "zorp"})
    )
    said = run(["train", str(tmp_path), "--json"])
    texts = {a["code"]: a["text"] for a in json.loads(said.out)["assumptions"]}
    assert "'lama' is not known (llama is)" in texts["unknown-model-type"]


def test_a_stored_quantisation_is_said(tmp_path: Path, run: Run) -> None:
    stored = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    (tmp_path / "config.json").write_text(json.dumps(GOOD | stored))
    for command in ("train", "infer"):
        found = json.loads(run([command, str(tmp_path), "--json"]).out)["assumptions"]
        assert "stored as gptq" in next(a["text"] for a in found if a["code"] == "stored-quantised")


def test_missing_keys_are_all_named(tmp_path: Path, refused: Refused) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"model_type": "llama", "hidden_size": 64}')
    message = refused(["train", str(file)])
    assert all(key in message for key in ("num_hidden_layers", "num_attention_heads", "vocab_size"))


def test_places_without_a_config(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "inside" / "config.json").mkdir(parents=True)
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    places = ("", "inside", "pipe", "loop", "nothing.json", "x" * 300, "x/" * 3000, "nul\0.json")
    for place in places:
        assert "MODEL: " in refused(["train", f"{tmp_path}/{place}"])
    for place in ("/dev/zero", "/dev/null"):
        assert "MODEL: " in refused(["train", place])


def test_a_huge_file_is_not_read(tmp_path: Path, refused: Refused) -> None:
    huge = tmp_path / "config.json"
    with huge.open("wb") as file:
        file.truncate(2**30)
    assert "16 MiB" in refused(["train", str(huge)])


def test_an_unknown_type_with_the_usual_keys_is_estimated(tmp_path: Path, run: Run) -> None:
    (tmp_path / "config.json").write_text(json.dumps(GOOD | {"model_type": "brand-new"}))
    said = run(["train", str(tmp_path), "--json"])
    assert said.code == 0
    assert "unknown-model-type" in {a["code"] for a in json.loads(said.out)["assumptions"]}


@pytest.mark.parametrize("name", ["é 模型 😀.json", "[bold]x.json", ":smile:.json", "%s{}.json"])
@pytest.mark.parametrize("command", ["train", "compare"])
def test_a_name_is_printed_as_it_stands(
    command: str, name: str, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(TEXT, "utf-8")
    said = run([command, name])
    assert said.code == 0, said.err
    assert name in said.out
    assert run([command, name, "--json"]).code == 0


def test_a_byte_order_mark_is_no_fault(tmp_path: Path, run: Run) -> None:
    (tmp_path / "config.json").write_bytes(TEXT.encode("utf-8-sig"))
    assert run(["train", str(tmp_path)]).code == 0


CATALOGUE = """
[accelerators."My GPU"]
capacity_bytes = -1
memory_bandwith_bytes_per_s = 1e12

[optimizer.mine]
states = []
"""


@pytest.mark.parametrize("command", ["train gpt2", "infer gpt2", "models", "accelerators"])
def test_every_fault_of_a_catalogue_file_is_named(
    command: str, tmp_path: Path, refused: Refused
) -> None:
    file = tmp_path / "own.toml"
    file.write_text(CATALOGUE)
    message = refused([*command.split(), "--catalogue", str(file)])
    named = (
        "own.toml",
        "capacity_bytes",
        "did you mean memory_bandwidth_bytes_per_s",
        "optimizers",
    )
    assert [word for word in named if word not in message] == []


@pytest.mark.parametrize(
    "content", [b"", b"\x00\xff" * 100, b"[[[", "größe = 1".encode("latin-1"), b"a,b\n1,2\n"]
)
@pytest.mark.parametrize("name", ["own.toml", "own.csv"])
def test_catalogue_files_that_are_none(
    name: str, content: bytes, tmp_path: Path, refused: Refused
) -> None:
    (tmp_path / name).write_bytes(content)
    assert name in refused(["models", "--catalogue", str(tmp_path / name)])


def test_catalogue_files_that_are_not_there(tmp_path: Path, refused: Refused) -> None:
    for place in (tmp_path, tmp_path / "nothing.toml", Path("/dev/zero")):
        assert str(place) in refused(["models", "--catalogue", str(place)])
