"""The command line as tests call it: in this process, or as a process of its own."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from lmsize import cli


@dataclass(frozen=True)
class Said:
    """What a command line came to."""

    code: int
    out: str
    err: str


Run = Callable[[str | list[str]], Said]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command line in this process."""

    def call(command: str | list[str]) -> Said:
        words = shlex.split(command) if isinstance(command, str) else command
        monkeypatch.setattr(sys, "argv", ["lmsize", *words])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        return Said(stopped.value.code, captured.out, captured.err)

    return call


@pytest.fixture
def refused(run: Run) -> Callable[[str | list[str]], str]:
    """Run a command line that makes no sense; its message."""

    def call(command: str | list[str]) -> str:
        said = run(command)
        assert (said.code, said.out) == (2, "")
        assert said.err.startswith("error: ")
        assert said.err.endswith("\n")
        assert "Traceback" not in said.err
        return said.err

    return call


@pytest.fixture
def process() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command line as a process of its own, with further environment variables."""

    def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "lmsize", *arguments], capture_output=True, text=True,
            timeout=60, env=os.environ | environment, check=False,
        )  # fmt: skip

    return call
