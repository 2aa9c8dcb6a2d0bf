"""The command line. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import click

from lmsize.cli.group import LazyGroup
from lmsize.errors import LmsizeError

COMMANDS = {
    "train": "What training a model needs: memory, FLOPs, time, accelerators, cost.",
    "infer": "What serving a model needs: memory, caches, speed.",
    "compare": "Full fine-tuning, LoRA and QLoRA side by side (or precisions).",
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
    cls=LazyGroup, commands_help=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_version,
              help="Print the version and exit.")  # fmt: skip
def cli() -> None:
    """What will this language model need?

    Memory by component, FLOPs, time, number of accelerators, money and energy, before anything
    is rented or launched.
    """


def main() -> NoReturn:
    """Run the command line: 0 fits or nothing asked, 1 does not fit, 2 bad input."""
    try:
        code = cli.main(standalone_mode=False, prog_name="lmsize")
        sys.stdout.flush()
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except click.ClickException as error:
        error.show()
        code = 2
    except LmsizeError as error:
        click.echo(f"error: {error}", err=True)
        code = 2
    except click.Abort:
        code = 130
    except BrokenPipeError:
        # The reader went away (a pipe into head): nothing is wrong, and nothing more to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code or 0)
