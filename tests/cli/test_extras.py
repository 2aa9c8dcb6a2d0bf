"""Commands that need an extra say which one, where it is not installed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

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


def test_a_picture_without_matplotlib(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmsize.report.plot.find_spec", lambda _package: None)
    assert "lmsize[plot]" in refused("validate --plot errors.png")
