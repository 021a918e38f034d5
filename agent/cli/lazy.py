"""A command group that imports a subcommand only when it is called."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import click

from agent.model.names import nearest


@dataclass(frozen=True, slots=True)
class Later:
    """Where a subcommand lives, `module:attribute`, and its line in the group's help."""

    target: str
    help: str


class LazyGroup(click.Group):
    """A group made of `Later` entries."""

    def __init__(self, *args: Any, later: Mapping[str, Later], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._later = dict(later)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they were given, which is the order of use."""
        return [*self._later, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return it."""
        if cmd_name not in self._later:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self._later[cmd_name].target.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with the nearest name where there is none of that name."""
        name = args[0] if args else ""
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            meant = nearest(name, self.list_commands(ctx))
            hint = f" Did you mean `{meant}`?" if meant else ""
            message = f"There is no command `{name}`.{hint}"
            raise click.UsageError(message, ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the subcommands without importing them."""
        del ctx
        rows = [(name, entry.help) for name, entry in self._later.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
