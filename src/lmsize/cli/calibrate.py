"""``lmsize calibrate``."""

from __future__ import annotations

import click

from lmsize.cli.options import option


@click.command("calibrate")
@click.argument("rows", nargs=-1, required=True, metavar="ROWS.csv...")
@option("--out", metavar="FILE", help="Where to write (the file that estimates read).")
@click.option("--dry-run", is_flag=True, help="Only tell what would be kept.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(rows: tuple[str, ...], out: str | None, dry_run: bool, as_json: bool) -> int:
    """Turn measurements of your own into corrections for your machine.

    ROWS.csv holds rows as `lmsize measure` writes them (docs/accuracy.md lists the columns). Each stack
    and accelerator gets a factor on memory and one on time, kept only where it makes the error of
    rows that were left out smaller. Later estimates apply and mention them;
    `lmsize train --calibration none` does not.
    """
    from dataclasses import asdict

    from lmsize.cli.output import print_json
    from lmsize.report.calibration import show_calibrated
    from lmsize.report.progress import progress_bar
    from lmsize.validation.calibrating import calibrate

    with progress_bar("rows") as progress:
        done = calibrate(rows, out=out, write=not dry_run, progress=progress)
    if as_json:
        print_json({
            "corrections": [{**asdict(one), "kept": kept} for one, kept in done.found],
            "skipped": [{"id": one.id, "reason": one.reason} for one in done.skipped],
            "file": str(done.path) if done.path else None,
        })  # fmt: skip
    else:
        show_calibrated(done)
    return 0
