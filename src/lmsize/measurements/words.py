"""Reading what a source wrote: words are found in a cell whatever its case, punctuation or glue.

A cell such as ``bf16+fp8(hybrid)`` or ``PagedAdamW 8-bit (assumed)`` is cut into runs of letters
and digits; each run, or several in a row, must be made of words that the table knows
(``pagedadamw`` is *paged* and *adamw*; ``8-bit`` is *8bit*). What is left is *unknown*. The first
meaning of the table whose words are all there is the answer; the rest of the cell is a remark.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from importlib.resources import files
from typing import Any

REMARK = re.compile(r"\([^()]*\)|\[[^\[\]]*\]|\"[^\"]*\"")
RUN = re.compile(r"[a-z0-9]+")
OPTIONS = ("noise", "whole")  # keys of a table that are no meanings
MOST_JOINED = 4  # runs that may make one word: flash-attn-2, low level zero
MOST_CHARS = 400  # of a cell; nobody writes an optimizer at greater length


@dataclass(frozen=True, slots=True)
class Reading:
    """What a cell was read as.

    Attributes:
        meaning: a key of the table; None if no meaning's words are all there.
        words: the known words, in order; `unknown` the runs that hold none.
        in_remark: the meaning was found only with what stands in parentheses.
    """

    meaning: str | None
    words: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    in_remark: bool = False


@dataclass(frozen=True)
class WordTable:
    """The meanings of one kind of cell.

    Attributes:
        meanings: to each its phrases; a phrase is the words that must all be there, in any order.
            Earlier meanings win.
        noise: words that say nothing by themselves.
        whole: whether remarks in parentheses are read along.
    """

    name: str
    meanings: Mapping[str, Sequence[frozenset[str]]]
    noise: frozenset[str]
    whole: bool = False

    @cached_property
    def vocabulary(self) -> frozenset[str]:
        """Every word that a cell may be made of."""
        said = {word for phrases in self.meanings.values() for p in phrases for word in p}
        return frozenset(said | self.noise)


@cache
def tables() -> Mapping[str, WordTable]:
    """The package's tables by kind of cell (``precision``, ``optimizer``, ``sharding`` ...)."""
    text = files("lmsize.measurements.data").joinpath("words.toml").read_text("utf-8")
    return {name: _table(name, body) for name, body in tomllib.loads(text).items()}


def _table(name: str, body: Mapping[str, Any]) -> WordTable:
    noise = frozenset(body.get("noise", "").split())
    meanings = {
        meaning: tuple(frozenset(phrase.split()) for phrase in phrases)
        for meaning, phrases in body.items()
        if meaning not in OPTIONS
    }
    return WordTable(name, meanings, noise, bool(body.get("whole", False)))


@lru_cache(maxsize=8192)
def read(table_name: str, cell: str) -> Reading:
    """What a cell means by a table; remarks count where the table says so or the rest is silent."""
    table = tables()[table_name]
    text = cell[:MOST_CHARS].casefold()
    bare = text if table.whole else REMARK.sub(" ", text)
    plain = _reading(table, bare)
    if plain.meaning is not None or bare == text:
        return plain
    whole = _reading(table, text)
    # A remark may say more about known words ("yes (SDPA)"), but does not explain unknown ones.
    if plain.unknown and not plain.words:
        return plain
    return Reading(whole.meaning, whole.words, whole.unknown, in_remark=True)


def _reading(table: WordTable, text: str) -> Reading:
    words, unknown = found_words(text, table.vocabulary)
    said = set(words)
    for meaning, phrases in table.meanings.items():
        if any(phrase <= said for phrase in phrases):
            return Reading(meaning, words, unknown)
    return Reading(None, words, unknown)


def found_words(text: str, vocabulary: frozenset[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The known words of a text in order, and the runs that are not made of known words."""
    runs = RUN.findall(text)
    words: list[str] = []
    unknown: list[str] = []
    at = 0
    while at < len(runs):
        joined = next(
            (n for n in range(min(MOST_JOINED, len(runs) - at), 1, -1)
             if "".join(runs[at : at + n]) in vocabulary), 0,
        )  # fmt: skip
        if joined:
            words.append("".join(runs[at : at + joined]))
            at += joined
            continue
        parts = segmented(runs[at], vocabulary)
        if parts is None:
            unknown.append(runs[at])
        else:
            words += parts
        at += 1
    return tuple(words), tuple(unknown)


def segmented(run: str, vocabulary: frozenset[str]) -> tuple[str, ...] | None:
    """The fewest known words that a run is made of; None if it is not."""
    best: list[tuple[str, ...] | None] = [(), *[None] * len(run)]
    for end in range(1, len(run) + 1):
        for start in range(end):
            head, word = best[start], run[start:end]
            if head is None or word not in vocabulary:
                continue
            current = best[end]
            if current is None or len(head) + 1 < len(current):
                best[end] = (*head, word)
    return best[-1]
