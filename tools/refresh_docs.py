"""Keep the figures of the docs true: run each command shown and put its own values in place.

A ``console`` block holds a command and some of its output lines. Every line shown is looked up in
the real output by its label (the words before two spaces) and replaced by what stands there.

    python tools/refresh_docs.py          # rewrites docs/*.md
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
from pathlib import Path

from lmsize.cli import cli

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"```console\n\$ lmsize (?P<command>.*?)\n(?P<shown>.*?)```", re.DOTALL)


def output_of(command: str) -> list[str]:
    """The lines that a command prints, 100 columns wide."""
    os.environ["COLUMNS"] = "100"
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        cli.main(shlex.split(command), standalone_mode=False, prog_name="lmsize")
    return [line.rstrip() for line in out.getvalue().splitlines()]


def label_of(line: str) -> str:
    """The words of a line before its first wide gap."""
    return re.split(r"\s{2,}", line.strip())[0]


def refreshed(text: str) -> str:
    """The page with every shown line as the command prints it today."""

    def block(match: re.Match[str]) -> str:
        printed = output_of(match["command"])
        by_label = {label_of(line): line for line in reversed(printed)}
        lines = []
        for shown in match["shown"].splitlines():
            label = label_of(shown)
            if label not in by_label:
                raise SystemExit(f"lmsize {match['command']} prints no line {label!r}")
            lines.append(by_label[label])
        body = "".join(f"{line}\n" for line in lines)
        return f"```console\n$ lmsize {match['command']}\n{body}```"

    return BLOCK.sub(block, text)


def main() -> None:
    for page in sorted(DOCS.glob("*.md")):
        text = page.read_text("utf-8")
        page.write_text(refreshed(text), "utf-8")


if __name__ == "__main__":
    main()
