"""How a command ends: an error becomes one message on standard error and an exit code."""

import os
import sys
import traceback

import click

from agent.cli.terminal import escape_control_characters
from agent.model.errors import InvalidInputError, LaunchError

#: As shells report a program that was ended by SIGINT.
INTERRUPTED = 130


def run_command(command: click.Command, name: str) -> int:
    """Run a command line and return its exit code; see `LaunchError.exit_code`."""
    try:
        return _run(command, name)
    except (click.Abort, KeyboardInterrupt):
        print(file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of the output has ended, as in `launch item list | head`: no error.
        _discard_output()
        return 0
    except LaunchError as error:
        return show_error(error)
    except Exception as error:  # noqa: BLE001 -- users get a sentence, not a traceback
        known = _of_path(error)
        return _show_unexpected(error, name) if known is None else show_error(known)


def _run(command: click.Command, name: str) -> int:
    output, errors = sys.stdout, sys.stderr
    try:
        result = command.main(prog_name=name, standalone_mode=False)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except SystemExit:
        # Click wraps both streams and ends with 1 when a pipe is closed.
        if sys.stdout is output:
            raise
        sys.stdout, sys.stderr = output, errors
        raise BrokenPipeError from None
    # The last output may meet a closed pipe as well.
    try:
        output.flush()
    except BrokenPipeError:
        _discard_output()
    return result if isinstance(result, int) else 0


def _discard_output() -> None:
    """Else the interpreter complains about unwritten output when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _of_path(error: Exception) -> LaunchError | None:
    """The operating system's error about a path, which the user or a setting named."""
    if not isinstance(error, OSError) or not isinstance(error.filename, (str, bytes)):
        return None
    message = f"'{os.fsdecode(error.filename)}' cannot be used: {error.strerror}."
    known = InvalidInputError(message, hint="Check the path and its permissions.")
    known.__cause__ = error
    return known


def show_error(error: LaunchError) -> int:
    """Print what is wrong and what to do; returns the exit code."""
    if debugging():
        traceback.print_exception(error)
    # Messages of the server may quote what other users wrote.
    print(f"Error: {escape_control_characters(error.message.rstrip())}", file=sys.stderr)
    if error.hint:
        print(f"  {escape_control_characters(error.hint)}", file=sys.stderr)
    return error.exit_code


def _show_unexpected(error: Exception, name: str) -> int:
    if debugging():
        traceback.print_exception(error)
    text = escape_control_characters(" ".join(str(error).split())[:300])
    print(
        f"Error: {name} failed unexpectedly: {type(error).__name__}: {text}\n"
        "  Run it again with LAUNCH_DEBUG=1 (or `--debug`) to see where, and please report it.",
        file=sys.stderr,
    )
    return 1


def debugging() -> bool:
    """Whether tracebacks are printed."""
    return os.environ.get("LAUNCH_DEBUG", "") not in {"", "0"}


def _set_debugging(_context: click.Context, _parameter: click.Parameter, value: bool) -> None:  # noqa: FBT001 -- the signature that click calls
    if value:
        os.environ["LAUNCH_DEBUG"] = "1"


debug_option = click.option(
    "--debug", is_flag=True, expose_value=False, is_eager=True, callback=_set_debugging,
    help="Print tracebacks of errors.",
)  # fmt: skip
