"""Keeps daemons small: what a library imports in passing, and never uses here, stays out."""

import sys


def import_lean() -> None:
    """Import structlog without rich.

    `structlog.dev` imports rich wherever it is installed, for tracebacks that daemons do not
    print; with pygments behind it that is 8 MiB of memory and a tenth of a second, more than
    the rest of the logging. Its documented fallback is used instead. Once structlog or rich
    has been imported there is nothing left to save.
    """
    if "structlog" in sys.modules or "rich" in sys.modules:
        return
    sys.modules["rich"] = None  # type: ignore[assignment]  # makes `import rich` fail
    try:
        import structlog  # noqa: F401 -- for the effect
    finally:
        del sys.modules["rich"]
