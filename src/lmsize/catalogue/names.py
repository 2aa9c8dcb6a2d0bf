"""Matching names as people write them: without regard to case, punctuation and vendor words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from typing import TypeVar

from lmsize.assumption import Assumption
from lmsize.catalogue.records import Accelerator
from lmsize.errors import InputError, nearest_names

Row = TypeVar("Row")

VENDOR_WORDS = re.compile(
    r"nvidia|geforce|tesla|quadro|\bamd\b|instinct|radeon|google|apple|intel|\baws\b"
)
REMARK = re.compile(r"\([^)]*\)")
TPU_SLICE = re.compile(r"^(?:cloud)?(?:tpu[-_]?)?(v\d[a-z]*)[-_]\d+$")
# What may follow a family: a form, a size in GB, a memory type; in any order, each at most once.
SUFFIX = re.compile(r"(sxm\d?|pcie|nvl|oam|hbm\d?e?|\d{2,3}(?:gi?b?)?|gpu)")
FORMS = {"sxm": "SXM", "pcie": "PCIe", "nvl": "NVL", "oam": "OAM"}
SXM_MEMORY = {("H100", "hbm3"): "SXM"}  # names that drivers print say it this way


@lru_cache(maxsize=1 << 14)
def plain(name: str) -> str:
    """A name without case, punctuation and spaces."""
    return "".join(c for c in name.casefold() if c.isalnum())


@lru_cache(maxsize=1 << 12)
def plain_accelerator(name: str) -> str:
    """As :func:`plain`, without remarks in parentheses, vendor words and slice sizes of TPUs."""
    bare = VENDOR_WORDS.sub("", REMARK.sub("", name.casefold())).strip()
    sliced = TPU_SLICE.match(bare.replace(" ", ""))
    return f"tpu{sliced[1]}" if sliced else plain(bare)


@dataclass(frozen=True, slots=True)
class Variant:
    """What a name says beyond the family."""

    forms: frozenset[str]
    sizes_gb: frozenset[int]


def variant(family: str, rest: str) -> Variant | None:
    """The form and the size in what follows a family's name; None if anything else is there."""
    if SUFFIX.sub("", rest):
        return None
    forms, sizes = set(), set()
    for token in SUFFIX.findall(rest):
        if token[0].isdigit():
            sizes.add(int(re.sub(r"\D", "", token)))
        form = SXM_MEMORY.get((family, token)) or FORMS.get(token.rstrip("0123456789"))
        if form:
            forms.add(form)
    return Variant(frozenset(forms), frozenset(sizes))


def matches(row: Accelerator, wanted: Variant) -> bool:
    """Whether a row is of the form and the size said."""
    return (not wanted.forms or row.form_factor in wanted.forms) and (
        not wanted.sizes_gb or row.marketed_gb in wanted.sizes_gb
    )


def preference(row: Accelerator) -> tuple[bool, bool, int]:
    """Order among the variants that a name leaves open: SXM first, then the largest."""
    return (not row.named_only, row.form_factor == "SXM", row.capacity_bytes)


def find_accelerator(
    name: str, rows: Mapping[str, Accelerator]
) -> tuple[Accelerator, tuple[Assumption, ...]]:
    """The accelerator that a name means, and what was taken for granted.

    Raises:
        InputError: for an unknown name or a variant that does not exist, with near names.
    """
    wanted = plain_accelerator(name)
    by_name = exact_names(tuple(rows.values()))
    found = by_name.get(plain(name)) or by_name.get(wanted)
    if found is not None:
        return found, ()
    for family in sorted({row.family for row in rows.values()}, key=len, reverse=True):
        start = plain_accelerator(family)
        said = variant(family, wanted[len(start) :]) if wanted.startswith(start) else None
        if said is None:
            continue
        members = [row for row in rows.values() if row.family == family]
        fitting = [row for row in members if matches(row, said)]
        if not fitting:
            known = ", ".join(row.name for row in members)
            raise InputError("--accelerator", name, f"one of {known}", nearest=[members[0].name])
        return choose(name, fitting)
    raise InputError(
        "--accelerator", name, "a known accelerator (`lmsize accelerators` lists them)",
        nearest=nearest_names(name[:80], [*rows, *(row.family for row in rows.values())]),
    )  # fmt: skip


def choose(name: str, fitting: list[Accelerator]) -> tuple[Accelerator, tuple[Assumption, ...]]:
    """One of the variants that a name leaves open, as an assumption if there are several."""
    row = max(fitting, key=preference)
    others = [r.name for r in fitting if r is not row and not r.named_only]
    if not others:
        return row, ()
    text = f"{name} taken as {row.name}; it could be {', '.join(others)}"
    return row, (Assumption("accelerator-variant", text),)


@cache
def exact_names(rows: tuple[Accelerator, ...]) -> dict[str, Accelerator]:
    """Rows by their plain names and aliases; names win over aliases."""
    table = {plain(alias): row for row in rows for alias in row.aliases}
    table |= {plain_accelerator(row.name): row for row in rows}
    return {**table, **{plain(row.name): row for row in rows}}


def listed(pattern: str, rows: Mapping[str, Row], words: Mapping[str, Iterable[str]]) -> list[Row]:
    """Rows whose key or words hold a pattern: a substring, or a glob if it has ``*?[``.

    Neither case nor punctuation counts in a substring.
    """
    glob = any(c in pattern for c in "*?[")
    bare = pattern.casefold() if glob else plain(pattern)

    def fits(word: str) -> bool:
        return fnmatchcase(word.casefold(), bare) if glob else bare in plain(word)

    return [row for key, row in rows.items() if fits(key) or any(fits(w) for w in words[key])]
