"""Options that several commands share, and the values of options."""

import asyncio
import os
import shlex
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import update_wrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from agent import __version__
from agent.cli.output import print_stderr
from agent.model.errors import InvalidInputError
from agent.model.names import PRIORITIES
from agent.model.units import parse_duration

if TYPE_CHECKING:
    from agent.config.choose_server import RemoteServer
    from agent.remote.retry_policy import RetryPolicy
    from agent.remote.retry_rules import RequestFailedError
    from agent.remote.user_operations import UserOperations

Json = dict[str, Any]
Command = Callable[..., Any]
Result = TypeVar("Result")

#: Seconds between two tries of a command, at most.
_LONGEST_WAIT: Final = 2.0


@dataclass(frozen=True, slots=True)
class Target:
    """The control plane that a command uses, and the entity that it is about."""

    server: str | None
    api_key_file: Path | None
    entity: str | None
    #: Seconds that each request is tried for.
    retry_for: float

    @property
    def flags(self) -> str:
        """The flags of this command that another command for the same server needs."""
        given = {
            "--server": self.server,
            "--api-key-file": None if self.api_key_file is None else str(self.api_key_file),
        }
        pairs = (f" {name} {shlex.quote(text)}" for name, text in given.items() if text)
        return "".join(pairs)

    @property
    def entity_flag(self) -> str:
        """The same with the entity, for commands that are about one."""
        return self.flags + (f" -e {shlex.quote(self.entity)}" if self.entity else "")

    def call(self, work: Callable[["UserOperations"], Awaitable[Result]]) -> Result:
        """Run `work` with the user operations of the control plane.

        Raises:
            LaunchError: the server cannot be chosen, reached or used.
        """
        return asyncio.run(self._call(work))

    async def _call(self, work: Callable[["UserOperations"], Awaitable[Result]]) -> Result:
        from agent.remote.client import ControlPlaneClient, Endpoint
        from agent.remote.user_operations import UserOperations

        remote = self.remote()
        endpoint = Endpoint(remote.url, remote.api_key.get_secret_value(), remote.ca_bundle)
        async with ControlPlaneClient(
            endpoint,
            user_agent=f"launch/{__version__}",
            retry_policy=policy_of_commands(self.retry_for),
        ) as client:
            return await work(UserOperations(client, self.entity))

    def remote(self) -> "RemoteServer":
        """Address and API key, both from the same configuration source."""
        from agent.config.choose_server import ServerFlags, choose_for_commands
        from agent.config.load import load

        flags = ServerFlags(self.server, self.api_key_file)
        return choose_for_commands(os.environ, load(os.environ), flags)


def policy_of_commands(seconds: float) -> "RetryPolicy":
    """How commands repeat their requests: a line on standard error says so, once.

    A request whose answer was lost is repeated only where that cannot do anything twice.
    """
    from agent.remote.retry_policy import RetryPolicy

    told = False

    def report(error: "RequestFailedError") -> None:
        nonlocal told
        if not told:
            print_stderr(f"launch: {error.message} Trying again for up to {seconds:g} s.")
        told = True

    return RetryPolicy(total=seconds, longest_wait=_LONGEST_WAIT, report=report)


def _seconds(_context: click.Context, _parameter: click.Parameter, value: str) -> float:
    return parse_duration(value)


retry_option = click.option(
    "--retry-for", envvar="LAUNCH_RETRY_FOR", metavar="TIME", default="30s", show_default=True,
    callback=_seconds, help="How long to try when the server does not answer; 0 tries once.",
)  # fmt: skip


def on_server(command: Command) -> Command:
    """Give a command the options that choose a server; it receives `target`."""

    def with_target(
        *args: Any,
        server: str | None,
        api_key_file: Path | None,
        entity: str | None,
        retry_for: float,
        **rest: Any,
    ) -> Any:
        target = Target(server, api_key_file, entity, retry_for)
        return command(*args, target=target, **rest)

    options = (
        click.option("--server", metavar="URL", help="Address of the control plane."),
        click.option(
            "--api-key-file",
            type=click.Path(path_type=Path),
            help="File with the API key for --server.",
        ),
        click.option(
            "-e", "--entity", envvar=["LAUNCH_ENTITY", "WANDB_ENTITY"],
            help="Entity (user or team); yours by default.",
        ),
        retry_option,
    )  # fmt: skip
    return with_options(options)(update_wrapper(with_target, command))


def with_options(options: tuple[Callable[[Command], Command], ...]) -> Callable[[Command], Command]:
    """Give a command several options, in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def example(*lines: str) -> str:
    """The end of a command's help."""
    title = "Example:" if len(lines) == 1 else "Examples:"
    # The marker keeps click from filling the lines.
    return "\n".join(("\b", title, *(f"  {line}" for line in lines)))


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

#: How a source becomes a job: for `launch job create` and `launch submit --uri`.
SOURCE_OPTIONS: Final = (
    click.option(
        "--submodules/--no-submodules", default=None,
        help="Fetch the repository's submodules; by default an agent fetches those of stored jobs.",
    ),
    click.option("--lfs", is_flag=True, default=None, help="Fetch files in Git LFS, too."),
    click.option(
        "--source", type=click.Choice(["auto", "git", "code"]), default="auto",
        help="git: use a directory's repository as the source, if its commit is pushed.",
    ),
    click.option("--diff", "with_diff", is_flag=True, help="With --source git: include uncommitted "
                 "changes."),
)  # fmt: skip


def mapping_from(text: str, option: str) -> Json:
    """A mapping from a `.json` or `.yaml` file, or from JSON or YAML text.

    Raises:
        InvalidInputError: names the option, and file and line where it is wrong.
    """
    from agent.config.document import parse_document, read_document

    stripped = text.strip()
    if not stripped.startswith("{") and Path(stripped).is_file():
        return read_document(Path(stripped)).data
    if not stripped.startswith("{") and ":" not in stripped:
        message = f"{option}: there is no file {stripped}, and it is not a JSON object."
        raise InvalidInputError(message, hint="Give a path to a .json or .yaml file, or JSON.")
    return parse_document(stripped, option).data


def priority_from(text: str) -> int:
    """0 to 3, from a name or a number.

    Raises:
        InvalidInputError: it is neither.
    """
    word = text.strip().lower()
    if word in PRIORITIES:
        return PRIORITIES.index(word)
    if word.isdigit() and int(word) < len(PRIORITIES):
        return int(word)
    message = f"'{text}' is not a priority."
    raise InvalidInputError(message, hint="Write critical, high, medium or low (or 0 to 3).")


def pairs_from(texts: tuple[str, ...], option: str) -> dict[str, str]:
    """`key=value` texts.

    Raises:
        InvalidInputError: one has no `=` or no key.
    """
    pairs: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            message = f"{option}: '{text}' is not of the form KEY=VALUE."
            raise InvalidInputError(message)
        pairs[key.strip()] = value
    return pairs
