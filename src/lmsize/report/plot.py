"""Predicted against measured, as a picture (extra ``plot``)."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lmsize.errors import ExtraError, InputError, LmsizeError
from lmsize.report.validation import TITLES, percent
from lmsize.validation.metrics import grouped, metrics
from lmsize.validation.result import QUANTITIES, Answer
from lmsize.validation.run import Validation

ENDINGS = (".png", ".svg")
UNITS = {"memory": (2**30, "GiB"), "inference_memory": (2**30, "GiB"), "time": (1.0, "s"),
         "run_s": (86400.0, "days"), "latency": (1.0, "s")}  # fmt: skip
# Okabe and Ito's colours, told apart with any kind of colour vision.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
MOST_SOURCES = 7
MOST_COLUMNS = 3


def check_plot(path: str) -> None:
    """Refuse a file that no picture can be written to, before the work is done.

    Raises:
        LmsizeError: another ending, no such folder, or matplotlib is missing.
    """
    file = Path(path)
    if file.suffix.lower() not in ENDINGS:
        raise InputError("--plot", path, "a file that ends in .png or .svg")
    if not file.parent.is_dir():
        raise InputError("--plot", path, f"a file in a folder that exists: {file.parent} does not")
    if find_spec("matplotlib") is None:
        raise ExtraError("matplotlib", "--plot", extra="plot")


def plot_validation(done: Validation, path: str) -> None:
    """Write one panel a quantity, a colour a source, with the 90 % ranges' coverage in the title.

    Raises:
        LmsizeError: nothing to draw, or the file cannot be written.
    """
    panels = [
        (q, answers) for q in QUANTITIES
        if q in UNITS and (answers := [a for a in done.answers if a.quantity == q])
    ]  # fmt: skip
    if not panels:
        raise LmsizeError("--plot: no row was modelled, so there is nothing to draw")
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "lmsize"  # the same rows make the same file
    import matplotlib.pyplot as plt

    n_columns = min(len(panels), MOST_COLUMNS)
    n_lines = -(-len(panels) // n_columns)
    size = (6.2 * n_columns, 6.4 * n_lines)
    figure, axes = plt.subplots(n_lines, n_columns, figsize=size, squeeze=False)
    for axis, (quantity, answers) in zip(axes.flat, panels, strict=False):
        _panel(axis, quantity, answers)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    figure.tight_layout()
    try:
        figure.savefig(path, dpi=140, metadata={"Date": None} if path.endswith(".svg") else None)
    except OSError as error:
        raise LmsizeError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        plt.close(figure)


def _panel(axis: Any, quantity: str, answers: Sequence[Answer]) -> None:
    unit, name = UNITS[quantity]
    found = metrics(answers)
    by_source = list(grouped(answers, lambda a: a.group["source"]).items())
    shown = by_source[:MOST_SOURCES]
    rest = [a for _, members in by_source[MOST_SOURCES:] for a in members]
    if rest:
        shown.append((f"{len(by_source) - MOST_SOURCES} other sources", rest))
    for (source, members), colour in zip(shown, COLOURS, strict=False):
        label = source.removeprefix("https://").removeprefix("github.com/").replace("$", r"\$")
        axis.scatter(
            [a.measured / unit for a in members], [a.predicted / unit for a in members],
            s=11, alpha=0.55, linewidths=0, color=colour, label=f"{label[:44]} ({len(members)})",
        )  # fmt: skip
    values = [v / unit for a in answers for v in (a.measured, a.predicted) if v > 0]
    ends = (min(values) / 1.3, max(values) * 1.3)
    axis.plot(ends, ends, color="0.35", linewidth=1, zorder=0)
    low, high = ([e * f for e in ends] for f in (0.8, 1.25))
    axis.fill_between(ends, low, high, color="0.9", zorder=-1, label="within 25 %")
    axis.set(xscale="log", yscale="log", xlim=ends, ylim=ends, aspect="equal",
             xlabel=f"measured ({name})", ylabel=f"predicted ({name})")  # fmt: skip
    axis.set_title(
        f"{TITLES[quantity]}: {found.n:,} rows, median error {percent(found.median_abs)}, "
        f"in range {percent(found.coverage90)}", fontsize=10,
    )  # fmt: skip
    axis.legend(fontsize=7, loc="upper left", framealpha=0.9)
    axis.set_axisbelow(True)
    axis.grid(visible=True, which="major", color="0.93")
