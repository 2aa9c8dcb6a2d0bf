"""Known model architectures: an index in memory, one line of a file a model."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from functools import cache

from lmsize.assumption import Assumption
from lmsize.catalogue.names import plain
from lmsize.catalogue.records import ModelEntry, ModelSummary
from lmsize.catalogue.tables import csv_records, data_file, data_text
from lmsize.errors import InputError, nearest_names

INNER_POINT = re.compile(r"(?<!\d)\.|\.(?!\d)")
# Endings of Hub names whose checkpoints share the architecture of the one without them.
TUNED = ("instruct", "chat", "it", "base", "pt", "hf")


@cache
def index() -> Mapping[str, ModelSummary]:
    """Every known architecture by name; a few milliseconds, no config is read."""
    lines = data_text("models_index.csv").splitlines()
    return {row.name: row for row in csv_records(ModelSummary, lines)}


@cache
def entry(name: str) -> ModelEntry:
    """A known architecture by its exact name."""
    row = index()[name]
    with data_file("models.jsonl").open("rb") as lines:
        lines.seek(row.offset)
        raw = json.loads(lines.read(row.n_bytes))
    filled = tuple(raw.pop("filled_keys", ()))
    return ModelEntry(**raw, filled_keys=filled, hub_aliases=row.aliases)


def hub_words(summary: ModelSummary) -> tuple[str, ...]:
    """The Hub ids that mean this architecture."""
    return (summary.hf_id, *summary.aliases) if summary.hf_id else summary.aliases


def dotted(name: str) -> str:
    """A name without case and punctuation but for points between digits: 1.3b is not 13b."""
    return INNER_POINT.sub("", "".join(c for c in name.casefold() if c.isalnum() or c == "."))


def by_words(rows: Collection[ModelSummary]) -> dict[str, ModelSummary]:
    """Summaries by name, as written, dotted and plain, and by Hub id, all in lower case.

    What two names would share is the first kind's; a plain name that two share is nobody's.
    """
    shared = Counter(plain(row.name) for row in rows)
    table = {plain(row.name): row for row in rows if shared[plain(row.name)] == 1}
    table |= {dotted(row.name): row for row in rows}
    table |= {row.name.casefold(): row for row in rows}
    return table | {word.casefold(): row for row in rows for word in hub_words(row)}


def untuned(hub_id: str) -> str:
    """A Hub id with the ending of a tuned checkpoint taken off its name; "" if it has none."""
    org, _, name = hub_id.casefold().partition("/")
    head, _, last = name.rpartition("-")
    return f"{org}/{head}" if head and last in TUNED else ""


def find(
    name: str, words: Mapping[str, ModelSummary]
) -> tuple[ModelSummary, tuple[Assumption, ...]] | None:
    """The summary that a catalogue name or a Hub id means; None if nothing known fits.

    A Hub id must fit as a whole, but for the ending of a tuned checkpoint of the same
    organisation, which is an assumption.

    Args:
        words: what each word means, as :func:`by_words` has it.
    """
    if "/" not in name:
        row = words.get(name.casefold()) or words.get(dotted(name)) or words.get(plain(name))
        return (row, ()) if row else None
    row = words.get(name.casefold())
    if row is not None:
        return row, ()
    row = words.get(untuned(name)) or words.get(f"{untuned(name)}-base")
    if row is None:
        return None
    text = f"{name} taken to have the architecture of {row.hf_id}"
    return row, (Assumption("model-variant", text),)


def unknown(name: str, known: Iterable[str]) -> InputError:
    """The error for a model that no row means."""
    expected = "a catalogue name, a Hub id, or a path (`lmsize models` lists the known ones)"
    return InputError("MODEL", name, expected, nearest=nearest_names(name, known))
