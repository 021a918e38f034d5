"""Keeps daemons small and commands quick: no imports in passing, no needless collections."""

import atexit
import gc
import sys
from typing import Final

#: Objects that are made before the young are looked through, and how many such rounds before
#: the older are.
_RARELY: Final = (20_000, 20, 20)


def collect_rarely() -> None:
    """Let the garbage collector run seldom, and not at the end.

    What imports make stays, and hardly anything here is a cycle; by default the collector looks
    for some every 700 objects, and through everything once more before the process ends. That
    is a fifth of a short command's time.
    """
    gc.set_threshold(*_RARELY)
    atexit.register(gc.freeze)


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
