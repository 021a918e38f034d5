"""The outermost layer of every command: errors become one message and an exit code."""

import os
import sys
import traceback

import click

from agent.model.errors import InvalidInputError, LaunchError

#: As shells report a program ended by SIGINT.
INTERRUPTED = 130


def run_command(command: click.Command, name: str) -> int:
    """Run a command line and return its exit code; 2 is bad input, 3 unreachable, 4 sign-in."""
    try:
        return _run(command, name)
    except (click.Abort, KeyboardInterrupt):
        print(file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has gone; nothing is wrong, and nothing can be said.
        _silence()
        return 0
    except LaunchError as error:
        return show_error(error)
    except Exception as error:  # noqa: BLE001 -- people get a sentence, not a traceback
        told = _of_system(error)
        return _show_unexpected(error, name) if told is None else show_error(told)


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
    # What is printed at the very end may meet a closed pipe as well.
    try:
        output.flush()
    except BrokenPipeError:
        _silence()
    return result if isinstance(result, int) else 0


def _silence() -> None:
    """What is still unwritten goes nowhere, without a word at the interpreter's end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _of_system(error: Exception) -> LaunchError | None:
    """What the system says about a path, which was named by the user or by a setting."""
    if not isinstance(error, OSError) or not isinstance(error.filename, (str, bytes)):
        return None
    message = f"'{os.fsdecode(error.filename)}' cannot be used: {error.strerror}."
    told = InvalidInputError(message, hint="Check the path, and who may use it.")
    told.__cause__ = error
    return told


def show_error(error: LaunchError) -> int:
    """Print what is wrong and what to do; returns the exit code."""
    if debugging():
        traceback.print_exception(error)
    print(f"Error: {error.message.rstrip()}", file=sys.stderr)
    if error.hint:
        print(f"  {error.hint}", file=sys.stderr)
    return error.exit_code


def _show_unexpected(error: Exception, name: str) -> int:
    if debugging():
        traceback.print_exception(error)
    text = " ".join(str(error).split())[:300]
    print(
        f"Error: {name} met something unforeseen: {type(error).__name__}: {text}\n"
        "  Run it again with LAUNCH_DEBUG=1 (or `--debug`) to see where, and please report it.",
        file=sys.stderr,
    )
    return 1


def debugging() -> bool:
    """Whether tracebacks are wanted."""
    return os.environ.get("LAUNCH_DEBUG", "") not in {"", "0"}


def set_debugging(_context: click.Context, _parameter: click.Parameter, value: bool) -> None:  # noqa: FBT001 -- click calls it so
    """Callback of `--debug`."""
    if value:
        os.environ["LAUNCH_DEBUG"] = "1"


debug_option = click.option(
    "--debug", is_flag=True, expose_value=False, is_eager=True, callback=set_debugging,
    help="Show tracebacks of errors.",
)  # fmt: skip
