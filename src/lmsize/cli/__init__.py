"""The command line. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from typing import NoReturn

import click

from lmsize.cli.group import LazyGroup, unknown_option
from lmsize.errors import LmsizeError

COMMANDS = {
    "train": "What training a model needs: memory, FLOPs, time, accelerators, cost.",
    "infer": "What serving a model needs: memory, caches, speed.",
    "compare": "Full fine-tuning, LoRA and QLoRA side by side (or precisions).",
    "validate": "How far off the estimates are, against published measurements.",
    "measure": "Run a real step here and read what it takes (extra: measure).",
    "calibrate": "Turn measurements of your own into corrections for your machine.",
    "trace": "The memory of a step of your own module, on fake tensors (extra: trace).",
    "models": "List the models that the catalogue knows.",
    "accelerators": "List the accelerators that the catalogue knows.",
    "explain": "Explain a formula, a component or an assumption.",
}


def _version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        from importlib.metadata import version

        click.echo(f"lmsize {version('lmsize')}")
        ctx.exit()


@click.group(
    cls=LazyGroup, commands_help=COMMANDS, invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_version,
              help="Print the version and exit.")  # fmt: skip
@click.pass_context
def cli(ctx: click.Context) -> None:
    """What will this language model need?

    Memory by component, FLOPs, time, number of accelerators, money and energy, before anything
    is rented or launched.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> NoReturn:
    """Run the command line: 0 fits or nothing asked, 1 does not fit, 2 bad input."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a file's name may hold any byte
    try:
        code = _run()
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader went away (a pipe into head): nothing is wrong, and nothing more to say.
        _drop_output()
        code = 0
    except OSError as error:
        _drop_output()
        click.echo(f"error: {error}", err=True)
        code = 2
    sys.exit(code)


def _run() -> int:
    try:
        return cli.main(standalone_mode=False, prog_name="lmsize") or 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.NoSuchOption as error:
        click.echo(f"error: {unknown_option(error)}", err=True)
    except click.UsageError as error:
        hint = f" ({error.ctx.command_path} --help lists what there is)" if error.ctx else ""
        click.echo(f"error: {error.format_message()}{hint}", err=True)
    except LmsizeError as error:
        click.echo(f"error: {error}", err=True)
    except click.Abort:
        return 130
    return 2


def _drop_output() -> None:
    """Send what is still buffered nowhere, so that nothing is said about it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
