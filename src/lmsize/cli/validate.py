"""``lmsize validate``."""

from __future__ import annotations

import click

from lmsize.cli.options import option


@click.command("validate")
@option("--data", "data", metavar="FILE", multiple=True,
        help="Your own rows (CSV), in place of the package's; may be repeated.")  # fmt: skip
@option("--engine", metavar="ENGINE", default="analytic", show_default=True, help="analytic.")
@click.option("--worst", type=click.IntRange(0, 1000), default=10, show_default=True, metavar="N",
              help="How many of the worst rows to show.")  # fmt: skip
@option("--plot", metavar="FILE", help="Draw predicted against measured (.png or .svg).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(data: tuple[str, ...], engine: str, worst: int, plot: str | None, as_json: bool) -> int:
    """How far off the estimates are, against measurements that other people published.

    Every row is put as the call that a user would make. Rows of your own need the columns of
    docs/accuracy.md; what cannot be modelled is skipped with its reason.
    """
    from lmsize.cli.output import print_json
    from lmsize.report.progress import progress_bar
    from lmsize.validation.public import validate

    if plot is not None:
        from lmsize.report.plot import check_plot

        check_plot(plot)
    with progress_bar("rows") as progress:
        done = validate(data or None, engine=engine, progress=progress)
    if plot is not None:
        from lmsize.report.plot import plot_validation

        plot_validation(done, plot)
    if as_json:
        from lmsize.validation.document import document

        print_json(document(done))
    else:
        from lmsize.report.validation import show_validation

        show_validation(done, n_worst=worst)
    return 0
