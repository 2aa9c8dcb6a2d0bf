"""Where a figure or a formula comes from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Source:
    """A published place that a reader can open.

    Attributes:
        title: what it is, e.g. a paper's title or a repository's name.
        where: section, table, file and line inside it.
        url: its address; empty when it has none.
    """

    title: str
    where: str = ""
    url: str = ""

    def __str__(self) -> str:
        return ", ".join(part for part in (self.title, self.where, self.url) if part)
