"""Where the output goes: pipes that close, closed and full outputs, odd terminals, plain JSON."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

Process = Callable[..., CompletedProcess[str]]
LMSIZE = f"{shlex.quote(sys.executable)} -m lmsize"


def shell(line: str) -> CompletedProcess[str]:
    found = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in found.stderr
    assert "Exception" not in found.stderr
    return found


@pytest.mark.parametrize(
    "arguments", ["models", "models --json", "accelerators", "train gpt2 --explain"]
)
def test_a_pipe_that_closes_is_no_error(arguments: str) -> None:
    found = shell(f"{LMSIZE} {arguments} | head -c 1")
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.parametrize("arguments", ["train gpt2", "train gpt2 --json", "models", "--help"])
def test_a_closed_output_is_no_error(arguments: str) -> None:
    found = shell(f"{LMSIZE} {arguments} >&-")
    assert (found.returncode, found.stderr) == (0, "")


def test_a_closed_error_output_keeps_the_exit_code() -> None:
    assert shell(f"{LMSIZE} train no-such-model-at-all 2>&-").returncode == 2
    assert shell(f"{LMSIZE} train llama-3.1-70b -g t4 >&- 2>&-").returncode == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("arguments", ["train gpt2 --json", "train gpt2", "models"])
def test_a_full_disk_is_an_error(arguments: str) -> None:
    found = shell(f"{LMSIZE} {arguments} >/dev/full")
    assert found.returncode == 2
    assert "No space left" in found.stderr
    assert found.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "environment",
    [
        {"COLUMNS": "20"}, {"COLUMNS": "1"}, {"COLUMNS": "nonsense"}, {"NO_COLOR": "1"},
        {"TERM": "dumb"}, {"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("arguments", ["train gpt2 -g t4 --explain", "compare gpt2"])
def test_no_figure_is_cut_on_odd_terminals(
    arguments: str, environment: dict[str, str], process: Process
) -> None:
    found = process(*arguments.split(), **environment)
    assert (found.returncode, found.stderr) == (0, "")
    assert "GiB" in found.stdout
    assert "…" not in found.stdout
    assert "\x1b" not in found.stdout


@pytest.mark.parametrize("arguments", ["models", "accelerators"])
def test_no_row_of_a_list_is_cut(arguments: str, process: Process) -> None:
    narrow, wide = (process(arguments, COLUMNS=columns) for columns in ("20", "300"))
    assert [line.rstrip() for line in narrow.stdout.splitlines()] == [
        line.rstrip() for line in wide.stdout.splitlines()
    ]


def test_without_a_command_it_helps(run: Callable[..., Any]) -> None:
    bare, asked = run([]), run("--help")
    assert bare == asked
    assert bare.code == 0
    commands = {
        line.split()[0] for line in asked.out.partition("Commands:")[2].splitlines() if line
    }
    assert {"train", "infer", "compare", "models", "accelerators", "explain"} <= commands


@pytest.mark.parametrize(
    "command",
    [
        "train gpt2 --json", "train gpt2 --json --explain", "infer gpt2 --json", "compare gpt2 --json",
        "models --json", "models no-such-model --json", "accelerators --json", "explain --json",
        "explain weights --json", "train --engine rules --params 7B --json",
    ],
)  # fmt: skip
def test_json_is_one_document_and_nothing_else(command: str, run: Callable[..., Any]) -> None:
    said = run(command)
    assert (said.code, said.err) == (0, "")
    assert isinstance(json.loads(said.out), dict)
    assert said.out.count("\n") == 1


@pytest.mark.parametrize(
    "command", ["train gpt2", "infer gpt2", "train --engine rules --params 7B"]
)
def test_inputs_name_every_option(command: str, run: Callable[..., Any]) -> None:
    name = command.split(maxsplit=1)[0]
    help_ = run(f"{name} --help").out
    options = {
        word.strip(",").removeprefix("--").replace("-", "_")
        for line in help_.partition("Options:")[2].splitlines()
        for word in line[:32].split() if word.startswith("--")
        if ("rules" in command or "rules:" not in line) and "trace:" not in line
    } - {"json", "explain", "help", "catalogue", "calibration"}  # fmt: skip  # files, not values
    inputs = json.loads(run(f"{command} --json").out)["inputs"]
    assert options - inputs.keys() == set()
