"""A directory of this machine as a source, for looking at what would become of it."""

import os
import shutil
from concurrent.futures import Executor
from contextlib import suppress
from pathlib import Path

from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.model.spec import ArtifactSource
from agent.model.tree import leaving_link, walk
from agent.model.work import SourceTree
from agent.ports.log import LogSink
from agent.system.threads import Stop, in_thread


class LocalFolder:
    """`SourcePort` whose every code artifact is one directory, not sent."""

    def __init__(self, folder: Path, threads: Executor) -> None:
        self._folder = folder
        self._threads = threads

    async def fetch(
        self, source: ArtifactSource, entity: str, into: Path, log: LogSink
    ) -> SourceTree:
        """See `SourcePort`. Files are linked, not copied: nobody writes to them in place."""
        del source, entity, log
        await in_thread(self._threads, lambda stop: self._link(into, stop))
        return SourceTree(root=into, identity=f"directory {self._folder.name}")

    def _link(self, into: Path, stop: Stop) -> None:
        for entry in walk(self._folder):
            stop.check()
            target = into / os.path.relpath(entry.path, self._folder)
            if entry.is_dir(follow_symlinks=False):
                target.mkdir()
            elif entry.is_symlink():
                self._same_link(Path(entry), target)
            else:
                _same_file(Path(entry), target)

    def _same_link(self, link: Path, target: Path) -> None:
        outside = leaving_link(self._folder, link)
        if outside is not None:
            name = link.relative_to(self._folder)
            message = f"Code directory: '{name}' is a link out of it (to '{outside}')."
            raise JobError(Cause.SOURCE_INVALID, message, hint="Replace it by the file itself.")
        target.symlink_to(link.readlink())


def _same_file(file: Path, target: Path) -> None:
    with suppress(OSError):  # another file system
        target.hardlink_to(file)
        return
    shutil.copy2(file, target)
