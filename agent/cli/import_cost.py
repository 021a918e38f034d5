"""Start-up time and memory: fewer garbage collections, and no imports that are not used."""

import atexit
import gc
import sys
from typing import Final

#: New objects per collection of the youngest generation, and collections per older one.
_THRESHOLDS: Final = (20_000, 20, 20)


def reduce_garbage_collection() -> None:
    """Collect seldom, and not at exit.

    Imported modules stay, and few objects are part of cycles; by default the collector runs for
    every 700 new objects, and over all of them at exit: a fifth of a short command's time.
    """
    gc.set_threshold(*_THRESHOLDS)
    atexit.register(gc.freeze)


def import_structlog_without_rich() -> None:
    """Import structlog so that it does not import rich.

    `structlog.dev` imports rich wherever it is installed, for tracebacks that daemons do not
    print; with pygments that is 8 MiB of memory and 0.1 s. Its documented fallback is used
    instead. No effect once either has been imported.
    """
    if "structlog" in sys.modules or "rich" in sys.modules:
        return
    sys.modules["rich"] = None  # type: ignore[assignment]  # makes `import rich` fail
    try:
        import structlog  # noqa: F401 -- imported for its effect
    finally:
        del sys.modules["rich"]
