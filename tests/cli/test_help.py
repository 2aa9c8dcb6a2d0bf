"""What `--help` says: every option under a title, in few words, with examples that run."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from lmsize.cli import COMMANDS, cli
from lmsize.cli.group import SectionedCommand

Run = Callable[[str | list[str]], Any]
SECTIONED = ("train", "infer", "compare", "measure", "trace")
TINY = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "vocab_size": 100, "intermediate_size": 128,
}  # fmt: skip


def command_of(name: str) -> click.Command:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


def examples(name: str) -> list[list[str]]:
    lines = (command_of(name).epilog or "").splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("lmsize ")]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command(name: str, run: Run) -> None:
    said = run([name, "--help"])
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith(f"Usage: lmsize {name}")
    assert max(map(len, said.out.splitlines())) <= 80
    assert run(["help"]).code == 2


@pytest.mark.parametrize("name", SECTIONED)
def test_every_option_stands_under_one_title(name: str, run: Run) -> None:
    command = command_of(name)
    assert isinstance(command, SectionedCommand)
    said = run([name, "--help"]).out
    for param in command.params:
        if isinstance(param, click.Option):
            assert getattr(param, "section", ""), param.name
            assert len(re.findall(rf"^  (-\w, )?{param.opts[-1]}( |$)", said, re.MULTILINE)) == 1
    assert "rules: " not in said


@pytest.mark.parametrize("words", [w for n in SECTIONED for w in examples(n)], ids=" ".join)
def test_examples_are_understood(words: list[str]) -> None:
    command_of(words[0]).make_context(words[0], list(words[1:]))


@pytest.mark.parametrize(
    "words",
    [w for n in ("train", "infer", "compare") for w in examples(n) if "trace" not in w], ids=" ".join,
)  # fmt: skip
def test_examples_run(
    words: list[str], tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "path" / "to" / "config.json"
    config.parent.mkdir(parents=True)
    config.write_text(json.dumps(TINY))
    said = run(words)
    assert said.code in (0, 1), said.err
    assert said.out


def test_the_example_of_a_factory_runs(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    code = (command_of("trace").epilog or "").partition("\nimport torch\n")[2]
    name = "mymodule_of_help"
    (tmp_path / f"{name}.py").write_text(f"import torch\nprint('imported')\n{code}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    words = [word.replace("mymodule", name) for word in examples("trace")[0]]
    said = run([*words, "--json"])
    assert said.code == 0, said.err
    assert "imported" in said.err
    assert json.loads(said.out)["parameters"]["total"] == 1024 * 1025
    assert (tmp_path / "step.html").stat().st_size > 1000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fac.py:make"], "not a path; did you mean fac:make?"),
        (["./src/fac.py:make"], "not a path; did you mean src.fac:make?"),
        (["a.b:make", "--timeline", "nowhere/t.html"], "--timeline: 'nowhere/t.html' is not valid: expected a file in a folder that is there"),
        (["a.b:make", "--snapshot", "nowhere/s.pickle"], "--snapshot: 'nowhere/s.pickle'"),
        (["a.b:make", "--snapshot", "."], "--snapshot: '.' is not valid: expected a file: it is a folder"),
        (["a.b:make", "--timeline", "t.gif"], "a file that ends in .html, .png or .svg"),
        (["a.b:make", "--trace-device", "tpu"], "one of cuda, cpu"),
        (["nosuchmodule:make"], "a module that can be imported"),
    ],
)  # fmt: skip
def test_a_trace_is_refused_before_it_starts(
    words: list[str], said: str, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = run(["trace", *words])
    assert (found.code, found.out) == (2, "")
    assert said in found.err
    assert "tracing" not in found.err
