"""``lmsize measure``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lmsize.cli.group import SectionedCommand
from lmsize.cli.options import STEP, option, section, stacked
from lmsize.errors import InputError, LmsizeError

if TYPE_CHECKING:
    from lmsize.api.measuring import Measurement
    from lmsize.measuring.store import Store

EXAMPLES = """
lmsize measure gpt2 --micro-batch 8 --out rows.csv
lmsize measure --grid grid.toml --out rows.csv
"""
HOW = (
    option("--optimizer-impl", metavar="KIND", help="foreach, fused or loop (the library's own)."),
    option("--clip-grad-norm", metavar="X", help="Clip the norm of the gradients (off)."),
    option("--device", metavar="DEVICE", help="cuda (also ROCm) or cpu (an accelerator if any)."),
    option("--steps", metavar="N", help="Steps that are timed (5); 0 for memory alone."),
    option("--warmup", metavar="N", help="Steps before those that count (2)."),
    option("--memory-limit", metavar="SIZE", help="Out of memory beyond this, e.g. 24GiB."),
)
RANK_GRACE_S = 10  # torchrun ends all ranks after the first: the one that writes needs a moment
OF_A_GRID = ("device", "catalogue", "steps", "warmup")  # options that hold for a whole grid
GRID = (
    option("--out", metavar="FILE", help="Append the rows to this CSV file."),
    option("--grid", metavar="FILE", help="Measure the cases of a TOML file, one process each."),
    option("--case-limit", metavar="TIME", help="With --grid: time for one case (15m)."),
    option("--max-minutes", metavar="N", help="With --grid: begin no case after so many minutes."),
    option("--catalogue", metavar="FILE", help="Your own rows (TOML or CSV), over the package's."),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON document."),
)


@click.command("measure", cls=SectionedCommand, epilog=EXAMPLES)
@click.argument("model", required=False)
@stacked(*STEP, section("Measuring", *HOW), section("Output and grids", *GRID))
def command(
    *, model: str | None, grid: str | None, out: str | None, as_json: bool, case_limit: str | None,
    max_minutes: str | None, **options: Any,
) -> int:  # fmt: skip
    """Run a real training step of MODEL on this machine; read its peak memory and time.

    Needs the extra: pip install 'lmsize[measure]'. Under torchrun (--nproc-per-node N -m lmsize
    measure ...) the step is data-parallel, DDP at --zero 0, FSDP2 at --zero 2 and 3.
    """
    limits = {"--case-limit": case_limit, "--max-minutes": max_minutes}
    if grid is not None:
        return _grid(model, grid, out, limits, options, as_json=as_json)
    for name, value in limits.items():
        if value is not None:
            raise InputError(name, value, "no value without --grid")
    if model is None:
        raise InputError("MODEL", None, "a catalogue name, a Hub id or a path, or --grid FILE")
    return _single(model, out, options, as_json=as_json)


def _single(model: str, out: str | None, options: dict[str, Any], *, as_json: bool) -> int:
    from lmsize.api.measuring import Measurement, measured_case
    from lmsize.measuring.outcome import FITS, OOM
    from lmsize.measuring.parallel import rank, world_size
    from lmsize.measuring.running import measured, silent

    case = measured_case(model, n_processes=world_size(), **options)
    first = rank() == 0
    store = _store(out) if out is not None and first else None
    measurement = Measurement(case, measured(case, tell=_tell if first else silent))
    found = measurement.found
    if found.outcome != FITS and not first:
        _tell(f"rank {rank()}: {found.outcome}: {found.reason}")
        time.sleep(RANK_GRACE_S)
    if found.outcome not in (FITS, OOM):
        raise LmsizeError(f"{model}: the step does not run here: {found.reason}")
    if first:
        if store is not None:
            store.append(measurement.rows)
            _tell(f"{len(measurement.rows)} row(s) added to {out}")
        _show(measurement, as_json=as_json)
    return 1 if found.outcome == OOM else 0


def _tell(line: str) -> None:
    click.echo(line, err=True)


def _show(measurement: Measurement, *, as_json: bool) -> None:
    from lmsize.cli.output import print_json

    if as_json:
        print_json({"schema": "lmsize/measurement/1", "rows": measurement.rows})
    else:
        from lmsize.report.measurement import show_measurement

        show_measurement(measurement.case, measurement.found)


def _grid(
    model: str | None, grid: str, out: str | None, limits: dict[str, str | None],
    options: dict[str, Any], *, as_json: bool,
) -> int:  # fmt: skip
    from lmsize.api.measuring import grid_cases
    from lmsize.measuring.campaign import campaign
    from lmsize.measuring.parallel import world_size
    from lmsize.quantity import parse_duration_s, parse_positive

    given = {"MODEL": model} | {
        f"--{name.replace('_', '-')}": value
        for name, value in options.items() if name not in OF_A_GRID
    }  # fmt: skip
    for name, value in given.items():
        if value is not None:
            raise InputError(name, value, "no value with --grid: the file says what is measured")
    if world_size() > 1:
        raise InputError(
            "--grid", grid, "no torchrun around it: the file's `processes` starts ranks"
        )
    if out is None:
        raise InputError("--out", None, "a CSV file, which a grid resumes from")
    case_limit_s = parse_duration_s(limits["--case-limit"] or "15m", what="--case-limit")
    minutes = limits["--max-minutes"]
    total_s = None if minutes is None else 60 * parse_positive(minutes, what="--max-minutes", least=0.01)  # fmt: skip
    cases = grid_cases(grid, **{name: options[name] for name in OF_A_GRID})
    store = _store(out)
    tally = campaign(
        cases, store, tell=_tell, case_limit_s=case_limit_s,
        total_limit_s=total_s,
    )  # fmt: skip
    if as_json:
        from lmsize.cli.output import print_json

        print_json({
            "schema": "lmsize/campaign/1", "out": out, "n_cases": len({c.key for c in cases}),
            "outcomes": tally.counts, "already_measured": tally.n_skipped,
            "implied_oom": tally.n_implied, "left": tally.n_left,
        })  # fmt: skip
    else:
        click.echo(f"{out}: {tally}")
    return 0


def _store(out: str) -> Store:
    from lmsize.measuring.store import Store

    return Store(Path(out))
