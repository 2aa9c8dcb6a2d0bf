"""Switches that may be set: their kinds, how the text of one is read, what is said of a wrong one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

from lmsize.errors import InputError, nearest_names

WHAT = "--stack-options"
MOST = 100_000
FACTOR = re.compile(r"\d{1,3}(\.\d{1,6})?")
PARTS = re.compile(r"\d{1,4}(\+\d{1,4}){0,999}")


@dataclass(frozen=True, slots=True)
class Option:
    """What a field of a class of switches may be set to.

    Attributes:
        words: what stands after the equals sign; `form` a word for it.
        read: the value that a text means; None where it means none. A flag has neither: it is named,
            or with ``no-`` before its name it is not.
        known: the names that it may be, if they are names.
    """

    words: str = ""
    form: str = ""
    read: Callable[[str], Any] | None = None
    known: tuple[str, ...] = ()


def _field(default: Any, option: Option) -> Any:
    return field(default=default, metadata={"option": option})


def flag(*, default: bool | None) -> Any:
    """On or off; None where the stack goes by something else unless told."""
    return _field(default, Option())


def choice(default: str, known: tuple[str, ...]) -> Any:
    """One of some names."""

    def read(value: str) -> str | None:
        return value if value in known else None

    return _field(default, Option(f"one of {', '.join(known)}", "KIND", read, known))


def names(default: tuple[str, ...], name: str, known: tuple[str, ...]) -> Any:
    """Some of several names, with a plus between them; they are kept in order."""
    words = f"one of {', '.join(known)}"

    def read(value: str) -> tuple[str, ...] | None:
        found = tuple(sorted(value.split("+"))) if value else None
        for one in found or ():
            if one not in known:
                near = nearest_names(one, known, n_names=1)
                raise InputError(f"{WHAT} {name}", one, words, nearest=near)
        return found

    return _field(default, Option(words, "KIND", read))


def count(default: int | None = None) -> Any:
    """A whole number."""
    return _field(default, Option(f"a whole number from 1 to {MOST - 1}", "NUMBER", _count))


def factor(default: float | None, *, most: float) -> Any:
    """A number above 0."""
    words = f"a number above 0, {most:g} at most"
    return _field(default, Option(words, "NUMBER", partial(_factor, most=most)))


def layers() -> Any:
    """Layers of each part of a pipeline, with a plus between them."""
    return _field((), Option("layers of each part, as 3+2+2+1", "NUMBERS", _layers))


def _count(value: str) -> int | None:
    is_number = value.isascii() and value.isdigit() and 0 < int(value[:6]) < MOST
    return int(value[:6]) if is_number else None


def _factor(value: str, *, most: float) -> float | None:
    return float(value) if FACTOR.fullmatch(value) and 0 < float(value) <= most else None


def _layers(value: str) -> tuple[int, ...] | None:
    return tuple(int(n) for n in value.split("+")) if PARTS.fullmatch(value) else None


def options_of(switches: type[Any]) -> dict[str, Option]:
    """The fields of a class of switches that may be set."""
    return {one.name: one.metadata["option"] for one in fields(switches) if one.metadata}


def shown(name: str) -> str:
    """A field as people name the switch."""
    return name.replace("_", "-")


def read_one(item: str, options: Mapping[str, Option]) -> tuple[str, Any]:
    """One switch of a list: its field and its value.

    Raises:
        InputError: a name that is not an option, or a value that it cannot have.
    """
    said, has_value, value = (part.strip().lower() for part in item.partition("="))
    named = said.replace("-", "_")
    bare = named.removeprefix("no_")
    name = bare if bare in options and options[bare].read is None else named
    if name not in options:
        near = [shown(n) for n in nearest_names(bare, options, n_names=1)]
        every = ", ".join(sorted(map(shown, options)))
        expected = f"one of {every}" if said else f"a switch between the commas, one of {every}"
        raise InputError(WHAT, item.strip(), expected, nearest=near)
    option = options[name]
    if option.read is None:
        if has_value:
            words = f"no value: {shown(name)} or no-{shown(name)}"
            raise InputError(f"{WHAT} {shown(named)}", value, words)
        return name, not named.startswith("no_")
    read = option.read(value)
    if read is not None:
        return name, read
    if value:
        near = nearest_names(value, option.known, n_names=1)
        raise InputError(f"{WHAT} {shown(name)}", value, option.words, nearest=near)
    raise InputError(WHAT, item.strip(), f"{shown(name)}={option.form}, {option.words}")
