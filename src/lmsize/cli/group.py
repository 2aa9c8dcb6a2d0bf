"""A click group whose commands are imported when they are called."""

from __future__ import annotations

import importlib
from typing import Any

import click

from lmsize.errors import InputError, nearest_names


class LazyGroup(click.Group):
    """Commands live in ``lmsize.cli.NAME`` as ``command``; help lists them without importing."""

    def __init__(self, *args: Any, commands_help: dict[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.commands_help = commands_help

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands_help)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.commands_help:
            return None
        module = importlib.import_module(f"lmsize.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self.commands_help and not name.startswith("-"):
            raise InputError(
                "command", name, f"one of {', '.join(self.commands_help)}",
                nearest=nearest_names(name, self.commands_help),
            )  # fmt: skip
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self.commands_help.items()))


class SectionedCommand(click.Command):
    """A command whose help lists options under the titles that :func:`lmsize.cli.options.section` gave."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                sections.setdefault(getattr(param, "section", "Help"), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Examples as they stand, one a line."""
        if self.epilog:
            with formatter.section("Examples"):
                for line in self.epilog.strip().splitlines():
                    formatter.write(f"{'':{formatter.current_indent}}{line}".rstrip() + "\n")


def unknown_option(error: click.NoSuchOption) -> InputError:
    """The error for an option that a command does not have, with the nearest that it has."""
    ctx, name = error.ctx, error.option_name
    params = ctx.command.params if ctx else []
    known = [long for param in params for long in param.opts if long.startswith("--")]
    command = ctx.command_path if ctx else "lmsize"
    return InputError(
        "option", name, f"an option of {command} ({command} --help lists them)",
        nearest=nearest_names(name, known, n_names=2),
    )  # fmt: skip
