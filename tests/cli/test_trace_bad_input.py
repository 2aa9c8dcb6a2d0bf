"""`--engine trace` on what it cannot trace: what is wrong, what to do next, exit code 2, no traceback."""

from __future__ import annotations

import json
import logging
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LLAMA: dict[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64,
    "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 101,
    "max_position_embeddings": 64,
}  # fmt: skip
GPT2 = {
    "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 64, "n_layer": 2, "n_head": 4,
    "n_positions": 64, "vocab_size": 101,
}  # fmt: skip
MODULE = """
import torch
from torch import nn

torch.library.define("{name}::copy", "(Tensor x) -> Tensor")
torch.library.impl("{name}::copy", "CPU")(lambda x: x.clone())

class Model(nn.Linear):
    def __init__(self, kind):
        super().__init__(8, 8)
        self.kind = kind

    def forward(self, x):
        y = super().forward(x)
        if self.kind == "branch" and y.sum() > 0:
            y = -y
        if self.kind == "shape":
            y = y[y > 0]
        if self.kind == "custom":
            y = torch.ops.{name}.copy(y)
        if self.kind == "numpy":
            y = y * float(y.detach().cpu().numpy().mean())
        if self.kind == "list":
            y = y * y.tolist()[0][0]
        if self.kind == "file":
            torch.save(y, "/nowhere/y")
        if self.kind == "exit":
            raise SystemExit(3)
        return y.sum()

def factory(kind):
    return lambda: (Model(kind), torch.randn(4, 8))

branch, shape, custom, numpy, as_list, file, leaves = map(
    factory, ("branch", "shape", "custom", "numpy", "list", "file", "exit")
)
"""


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers logs to the stderr that it was imported with, which may be another test's."""
    monkeypatch.setattr(logging, "raiseExceptions", False)


def config(tmp_path: Path, base: dict[str, Any], **changed: Any) -> str:
    (tmp_path / "config.json").write_text(json.dumps(base | changed))
    return str(tmp_path)


def refused(run: Callable[[list[str]], Any], *words: str) -> str:
    """The message, whatever progress was told before it."""
    said = run([*words])
    assert (said.code, said.out) == (2, ""), said
    assert "Traceback" not in said.err
    last: str = said.err.splitlines()[-1]
    assert last.startswith("error: ")
    return last


@pytest.mark.parametrize(
    ("base", "changed", "options", "named"),
    [
        (LLAMA, {"hidden_act": "wow"}, (), "wow"),
        (LLAMA, {"rope_scaling": {"rope_type": "odd", "factor": 2.0}}, (), "odd"),
        (LLAMA, {"num_key_value_heads": 3}, (), "a divisor of num_attention_heads"),
        (LLAMA, {"hidden_size": 66}, (), "num_attention_heads"),
        (LLAMA, {"hidden_size": "wide"}, (), "hidden_size"),
        (LLAMA, {"num_hidden_layers": -1}, (), "num_hidden_layers"),
        (LLAMA, {"vocab_size": 0}, (), "vocab_size"),
        (LLAMA, {"architectures": ["LlamaForWonders"]}, (), "LlamaFor"),
        (LLAMA, {"model_type": "wonder", "architectures": ["WonderLM"]}, (), "--engine analytic"),
        ({"model_type": "wonder"}, {}, (), "model_type"),
        (GPT2, {}, ("--seq-len", "65"), "at most 64"),
        (LLAMA, {}, ("--seq-len", "10000B"), "--seq-len"),
        (LLAMA, {}, ("--seq-len", "2000000000", "--micro-batch", "2000000000"), "too large"),
        (LLAMA, {}, ("--optimizer", "nothing"), "--optimizer"),
        (LLAMA, {}, ("--method", "lora", "--lora-targets", "nose"), "--lora-targets"),
    ],
)
def test_config_or_option(
    base: dict[str, Any], changed: dict[str, Any], options: tuple[str, ...], named: str,
    tmp_path: Path, run: Callable[[list[str]], Any],
) -> None:  # fmt: skip
    length = () if "--seq-len" in options else ("--seq-len", "16")
    model = config(tmp_path, base, **changed)
    assert named in refused(run, "train", model, "--engine", "trace", *length, *options)


@pytest.mark.parametrize("text", ["{", "[]", "null", "\x00\xff", '{"model_type": 3}', "{}"])
def test_a_file_that_is_no_config(
    text: str, tmp_path: Path, run: Callable[[list[str]], Any]
) -> None:
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    refused(run, "train", str(tmp_path), "--engine", "trace")


@pytest.mark.parametrize("model", ["palm-540b", "kimi-k3", "mimo-7b"])
def test_a_model_that_transformers_lacks(model: str, run: Callable[[list[str]], Any]) -> None:
    said = refused(run, "train", model, "--engine", "trace", "--seq-len", "16")
    assert "--engine analytic" in said
    assert "lmsize trace" in said


def test_no_code_of_the_hub(tmp_path: Path, run: Callable[[list[str]], Any]) -> None:
    own = {"architectures": ["OwnLM"], "auto_map": {"AutoModelForCausalLM": "modeling_own.OwnLM"}}
    (tmp_path / "modeling_own.py").write_text("raise SystemExit('run')")
    said = refused(run, "train", config(tmp_path, LLAMA, **own), "--engine", "trace")
    assert "no code of the Hub is run" in said


@pytest.mark.parametrize(
    ("factory", "named"),
    [
        ("branch", "depends on data"), ("shape", "static shapes"), ("custom", "register_fake"),
        ("numpy", "raises"), ("as_list", "depends on data"), ("file", "raises"),
        ("leaves", "ends the program"),
    ],
)  # fmt: skip
def test_a_module_that_cannot_be_traced(
    factory: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    run: Callable[[list[str]], Any],
) -> None:  # fmt: skip
    name = f"untraceable_{factory}"
    (tmp_path / f"{name}.py").write_text(MODULE.replace("{name}", name))
    monkeypatch.syspath_prepend(tmp_path)
    said = refused(run, "trace", f"{name}:{factory}")
    assert named in said


@pytest.mark.parametrize(
    ("limit", "n_bytes"),
    [(resource.RLIMIT_DATA, 200 * 2**20), (resource.RLIMIT_DATA, 500 * 2**20),
     (resource.RLIMIT_AS, 2**30)],
)  # fmt: skip
def test_too_little_memory(limit: int, n_bytes: int, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lmsize", "train", config(tmp_path, LLAMA), "--engine", "trace"],
        capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"},
        preexec_fn=lambda: resource.setrlimit(limit, (n_bytes, n_bytes)),
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "too little memory" in done.stderr
    assert "Traceback" not in done.stderr
