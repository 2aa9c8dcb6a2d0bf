"""Commands that need an extra say which one, where it is not installed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

import lmsize
from lmsize.report.comparison import show_comparison
from lmsize.step import extras

Refused = Callable[[str | list[str]], str]


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        ("measure gpt2", "lmsize[measure]"),
        ("train gpt2 --engine trace", "lmsize[trace]"),
        ("train gpt2 --engine trace --optimizer muon", "lmsize[trace]"),
        ("trace json:loads", "lmsize[trace]"),
    ],
)
def test_a_missing_extra_is_named(
    command: str, extra: str, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "is_installed", lambda _package: False)
    assert extra in refused(command)


def test_software_is_asked_for_before_anything_is_built(
    refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    installed = extras.is_installed
    monkeypatch.setattr(
        extras, "is_installed", lambda package: package != "peft" and installed(package)
    )
    monkeypatch.setattr("lmsize.step.model.built_model", pytest.fail)
    said = refused("train gpt2 --engine trace --method lora")
    assert "peft" in said
    assert "building" not in said
    if not installed("torchao"):
        assert "torchao" in refused("train gpt2 --engine trace --optimizer adamw8bit-torchao")


def test_a_row_of_a_comparison_without_its_extra_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64,
        "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 503,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(extras, "is_installed", lambda package: package != "peft")
    full, *others = lmsize.compare(str(tmp_path), engine="trace", seq_len=64)
    assert full.memory.peak_allocated_bytes
    for row in others:
        assert row.memory.peak_allocated_bytes is None
        assert "lmsize[trace]" in row.verdict.sentence
        assert [caution.code for caution in row.warnings] == ["missing-extra"]
    console = Console(record=True, width=100)
    show_comparison([full, *others], by="method", console=console)
    assert "needs peft" in console.export_text()


def test_a_picture_without_matplotlib(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmsize.report.plot.find_spec", lambda _package: None)
    assert "lmsize[plot]" in refused("validate --plot errors.png")
