"""Every row of one or more files, answered; one bad row never stops the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from lmsize.errors import LmsizeError
from lmsize.measurements.table import Table
from lmsize.validation.fits import fit_answers
from lmsize.validation.result import Answer, Skipped
from lmsize.validation.runs import run_answers
from lmsize.validation.serving import serving_answers
from lmsize.validation.training import Asked, training_answers

Progress = Callable[[int, int], None]
Answered = Callable[[Mapping[str, str], tuple[str, ...], Asked], Iterator[Answer]]
# Who answers which kinds of measurement.
ANSWERERS: tuple[tuple[frozenset[str], Answered], ...] = (
    (frozenset({"memory", "time"}), training_answers),
    (frozenset({"fits"}), fit_answers),
    (frozenset({"run"}), run_answers),
    (frozenset({"serving"}), serving_answers),
)


@dataclass(frozen=True, slots=True)
class Validation:
    """The answers to every row, and the rows that got none.

    Attributes:
        tables: the names of the files; `n_rows` how many rows they hold.
    """

    engine: str
    tables: tuple[str, ...]
    n_rows: int
    answers: tuple[Answer, ...]
    skipped: tuple[Skipped, ...]


def validated(
    tables: Iterable[Table], *, engine: str = "analytic", progress: Progress | None = None
) -> Validation:
    """Put every row as the call that a user would make, and keep what came of it.

    Args:
        engine: that answers.
        progress: called with the rows done and the rows there are.
    """
    files = tuple(tables)
    n_rows = sum(len(table.rows) + len(table.faults) for table in files)
    asked = Asked(engine)
    answers: list[Answer] = []
    skipped: list[Skipped] = []
    done = 0
    for table in files:
        skipped += [Skipped(name, reason) for name, reason in table.faults]
        done += len(table.faults)
        for row in table.rows:
            found, reasons = _answered(row, table.kinds, asked)
            answers += found
            skipped += reasons
            done += 1
            if progress is not None:
                progress(done, n_rows)
    names = tuple(table.name for table in files)
    return Validation(engine, names, n_rows, tuple(answers), tuple(skipped))


def _answered(
    row: Mapping[str, str], kinds: tuple[str, ...], asked: Asked
) -> tuple[list[Answer], list[Skipped]]:
    """The answers to a row; if it gets none at all, why."""
    found: list[Answer] = []
    reasons: list[str] = []
    for answered, answerer in ANSWERERS:
        mine = tuple(kind for kind in kinds if kind in answered)
        if not mine:
            continue
        try:
            found += answerer(row, mine, asked)
        except LmsizeError as error:
            reasons.append(str(error))
        except (ArithmeticError, ValueError) as error:
            # Numbers that no one checked against each other: the row is at fault, not the rest.
            reasons.append(f"its numbers make no sense together ({error})")
    if found:
        return found, []
    reason = "; ".join(dict.fromkeys(reasons)) or "the row states no measured value"
    group = {"quality": row.get("quality", ""), "source": row.get("source_repo_or_url", "")}
    return [], [Skipped(row["id"], reason, group)]
