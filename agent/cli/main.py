"""`launch`: the command group; a subcommand's module is imported when it is called."""

import sys
from importlib import import_module
from typing import Any, Final, NamedTuple

import click

from agent import __version__
from agent.cli.errors import debug_option, run_command
from agent.cli.import_cost import reduce_garbage_collection
from agent.model.names import nearest


class Subcommand(NamedTuple):
    """Where a subcommand is, `module:attribute`, and its line in the group's help."""

    target: str
    help: str


COMMANDS: Final = {
    "submit": Subcommand("agent.cli.submit:submit", "Put a job on a queue."),
    "run": Subcommand("agent.cli.submit:run", "Build and run a job on this machine, now."),
    "job": Subcommand("agent.cli.job:job", "Create, list and describe jobs."),
    "render": Subcommand("agent.cli.render:render", "Show what a job would be run as."),
    "queue": Subcommand("agent.cli.queue:queue", "Create, list, change and pause queues."),
    "item": Subcommand("agent.cli.item:item", "List, show, stop, retry and move queue items."),
    "agent": Subcommand("agent.cli.agents:agent", "List, show, drain and stop agents."),
    "explain": Subcommand("agent.cli.item:explain", "Why does it wait, why did it fail?"),
    "open": Subcommand("agent.cli.accounts:open_page", "Print a link that signs a browser in."),
    "login": Subcommand("agent.cli.accounts:login", "Store the API key for a server."),
    "key": Subcommand("agent.cli.accounts:key", "Create, list and revoke API keys."),
    "user": Subcommand("agent.cli.accounts:user", "Create, list and disable users."),
    "entity": Subcommand("agent.cli.accounts:entity", "List entities, create teams, set members."),
    "doctor": Subcommand("agent.cli.doctor:doctor", "Look for weaknesses of an installation."),
    "audit": Subcommand("agent.cli.accounts:audit", "Who changed keys, users, members, queues?"),
    "server": Subcommand("agent.cli.server:server", "Serve the control plane for a team."),
}


class LazyGroup(click.Group):
    """A group of subcommands that are imported on demand."""

    def __init__(self, *args: Any, subcommands: dict[str, Subcommand], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._subcommands = subcommands

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they were given, which is the order of use."""
        return [*self._subcommands, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a subcommand."""
        if cmd_name not in self._subcommands:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self._subcommands[cmd_name].target.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does; for an unknown name the most similar one is offered."""
        name = args[0] if args else ""
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            similar = nearest(name, self.list_commands(ctx))
            hint = f" Did you mean `{similar}`?" if similar else ""
            message = f"There is no command `{name}`.{hint}"
            raise click.UsageError(message, ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the subcommands without importing them."""
        del ctx
        rows = [(name, subcommand.help) for name, subcommand in self._subcommands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(
    cls=LazyGroup,
    subcommands=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="launch", message="%(prog)s %(version)s")
@debug_option
def launch() -> None:
    """Job queues for machine learning: submit jobs, follow them, find out why they fail.

    The control plane is the one of --server, else of LAUNCH_SERVER with LAUNCH_API_KEY, else of
    WANDB_BASE_URL with WANDB_API_KEY, else of the configuration file, else the one embedded in a
    `launch-agent` that runs on this machine.
    """


def main() -> None:
    """Entry point of the console script."""
    reduce_garbage_collection()
    sys.exit(run_command(launch, "launch"))


if __name__ == "__main__":
    main()
