"""Builds no virtual environments: a job's `tools/` are its environment.

Jobs on `local-process` find the programs of that folder on their path, and `BUILT_BY_EXAMPLE`
says where they come from. It shows all that a builder of one's own must do.
"""

import hashlib
import shutil
import time
from pathlib import Path

from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.model.work import Image
from agent.plugins import PluginContext
from agent.ports.builder import BuildPreview, BuildRequest
from agent.ports.log import LogSink, write_line


class ToolsBuilder:
    """`BuilderPort`: one folder per key below the plugin's own."""

    name = "example-tools"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def preview(self, request: BuildRequest) -> BuildPreview:
        """Nothing to show before it is built."""
        return BuildPreview()

    async def key(self, request: BuildRequest) -> str:
        """A digest over the names and contents of the tools."""
        total = hashlib.sha256()
        for file in self._tools(request):
            total.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
        return total.hexdigest()

    async def find(self, key: str) -> Image | None:
        """The folder, where it was made before."""
        made = self._folder / key
        return self._image(made, reused=True) if made.is_dir() else None

    async def build(self, request: BuildRequest, key: str, log: LogSink) -> Image:
        """Copy the tools; the folder gets its name last, so that no half of it is found."""
        partial = self._folder / f"{key}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "bin").mkdir(parents=True)
        for file in self._tools(request):
            copied = partial / "bin" / file.name
            shutil.copy(file, copied)
            copied.chmod(0o755)
            await write_line(log, f"example builder: {file.name}")
        made = partial.rename(self._folder / key)
        return self._image(made, reused=False)

    async def check(self) -> None:
        """It needs this machine only, so it always answers."""

    async def prune(self, max_age: float, max_bytes: int) -> int:
        """Remove by age alone; this example does not count bytes."""
        del max_bytes
        oldest = time.time() - max_age
        for made in self._folder.glob("*") if max_age else ():
            if made.stat().st_mtime < oldest:
                shutil.rmtree(made, ignore_errors=True)
        return 0

    def _tools(self, request: BuildRequest) -> list[Path]:
        folder = request.context / "tools"
        if not folder.is_dir():
            message = f"{request.title} has no folder `tools`, which this agent builds from."
            raise JobError(Cause.SOURCE_INVALID, message, hint="Add it and submit again.")
        return sorted(file for file in folder.iterdir() if file.is_file())

    def _image(self, made: Path, *, reused: bool) -> Image:
        return Image(
            reference=str(made),
            pinned_by="environment",
            reused=reused,
            name=f"tools {made.name[:12]}",
            environment=made,
            built_by=self.name,
        )


def make(context: PluginContext) -> ToolsBuilder:
    """The entry point."""
    context.folder.mkdir(parents=True, exist_ok=True)
    return ToolsBuilder(context.folder)
