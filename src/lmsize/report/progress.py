"""Progress on stderr: only where a person watches, and only when there is something to wait for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

EVERY_S = 0.1


@contextmanager
def progress_bar(unit: str) -> Iterator[Callable[[int, int], None] | None]:
    """A callback for ``(done, all)`` that draws a bar on a terminal; None where there is none."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    with Progress(
        BarColumn(), MofNCompleteColumn(), unit, TimeRemainingColumn(),
        console=Console(stderr=True), transient=True,
    ) as bar:  # fmt: skip
        task, last = bar.add_task(unit), 0.0

        def advance(done: int, n_all: int) -> None:
            nonlocal last
            if monotonic() - last > EVERY_S or done == n_all:
                last = monotonic()
                bar.update(task, completed=done, total=n_all)

        yield advance
