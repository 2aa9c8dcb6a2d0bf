"""What can go wrong, as one small tree.

::

    LmsizeError
    ├── InputError          a value that makes no sense (exit code 2)
    │   ├── ModelError      a config.json that cannot be read as a model
    │   ├── CatalogueError  a user's catalogue file with faults, all of them listed
    │   └── LayoutError     an illegal layout, with the nearest legal values
    ├── ExtraError          software that is not installed, with the extra that brings it
    └── NetworkError        the Hub was needed and cannot be reached (exit code 2)

A run that does not fit its accelerator is an answer, not an error.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import PurePath

MOST_NAMES = 10_000  # that a near one is looked for among
MOST_CHARS = 100  # of a name that near ones are looked for
LONGEST_PATH = 1000


class LmsizeError(Exception):
    """Base of every error that lmsize raises on purpose."""


class InputError(LmsizeError):
    """A value that makes no sense; names the value, what was expected and the nearest match.

    Args:
        what: the name of the input, e.g. ``--micro-batch`` or ``num_hidden_layers``.
        value: the value given, shortened when long; None if it is missing.
        expected: what would have been right, as a phrase.
        nearest: near names or legal values to offer.
    """

    def __init__(
        self, what: str, value: object, expected: str, *, nearest: Sequence[object] = ()
    ) -> None:
        self.what, self.value, self.expected = what, value, expected
        self.nearest = tuple(nearest)
        fault = "is missing" if value is None else f"{shortened(value)} is not valid"
        super().__init__(f"{what}: {fault}: expected {expected}{did_you_mean(self.nearest)}")


class ModelError(InputError):
    """A config that cannot be read as a model."""

    def inside(self, place: str) -> ModelError:
        """The same error, with the file that the key stands in."""
        return ModelError(f"{place}: {self.what}", self.value, self.expected, nearest=self.nearest)


class LayoutError(InputError):
    """A layout that cannot run on this model or this number of accelerators."""


class CatalogueError(LmsizeError):
    """A user's catalogue file with faults; ``faults`` holds every one, each with its path."""

    def __init__(self, file: str, faults: Sequence[str]) -> None:
        self.file, self.faults = file, tuple(faults)
        lines = "\n".join(f"  - {fault}" for fault in faults)
        super().__init__(f"{file}: {len(self.faults)} fault(s), nothing was loaded\n{lines}")


class ExtraError(LmsizeError):
    """Software that a question needs and that is not installed here.

    Args:
        package: what is missing.
        why: what needs it.
        extra: the extra of lmsize that brings it; "" if none does.
    """

    def __init__(self, package: str, why: str, *, extra: str = "") -> None:
        self.package, self.extra = package, extra
        wanted = f"'lmsize[{extra}]'" if extra else package
        super().__init__(f"{why} needs {package}, which is not installed: pip install {wanted}")


class NetworkError(LmsizeError):
    """The Hub was needed and cannot be reached."""


def did_you_mean(nearest: Sequence[object]) -> str:
    """What to add to a message: near names or values, or nothing."""
    return f"; did you mean {' or '.join(str(n) for n in nearest)}?" if nearest else ""


def shortened(value: object, *, n_chars: int = 80) -> str:
    """`repr` of a value, cut to a length a person would read; a path whole, which one would open."""
    if isinstance(value, PurePath):
        value, n_chars = str(value), LONGEST_PATH
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python prints neither huge integers nor deep nesting
        return f"a value of type {type(value).__name__}, too large to print,"
    return text if len(text) <= n_chars else f"{text[: n_chars - 1]}…"


def nearest_names(name: str, known: Iterable[object], *, n_names: int = 3) -> list[str]:
    """The known names most like `name`, best first; empty when none is near.

    Keys of a file that are not text are passed over; of a huge one the first are looked at.
    """
    words = (k for k in islice(known, MOST_NAMES) if isinstance(k, str))
    by_lower = {k.lower(): k for k in words}
    matches = difflib.get_close_matches(name[:MOST_CHARS].lower(), by_lower, n=n_names, cutoff=0.5)
    return [by_lower[m] for m in matches]
