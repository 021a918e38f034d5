"""Listens to a build's log for what its people should hear, though the build goes on."""

import re
from typing import Final

from agent.ports.log import LogSink

#: W&B's marker; their builds and ours print it for frozen requirements that were left out.
_FAILED: Final = re.compile(
    rb"ERROR: Failed to install: (?P<names>[^\n]*?)\. During automated build process\."
)
_LONGEST: Final = 64 * 1024


class BuildFindings:
    """A log sink that passes everything on, and remembers packages that were left out."""

    def __init__(self, log: LogSink) -> None:
        self._log = log
        self._rest = b""
        self._left_out: dict[str, None] = {}

    async def write(self, data: bytes) -> None:
        """Pass on; look at whole lines, wherever the pieces were cut."""
        await self._log.write(data)
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[-_LONGEST:]
        for line in lines:
            self._look_at(line)

    @property
    def warning(self) -> str | None:
        """For the item: which packages the job goes without."""
        self._look_at(self._rest)
        if not self._left_out:
            return None
        names = ", ".join(self._left_out)
        return f"build: frozen requirements that could not be installed: {names}"

    def _look_at(self, line: bytes) -> None:
        found = _FAILED.search(line)
        if found is not None and b"${" not in found["names"]:
            names = found["names"].decode("utf-8", "replace").split(", ")
            self._left_out |= dict.fromkeys(name.strip() for name in names)
