"""Where code comes from.

A source turns a description into a folder of files that belongs to one attempt. `fetch`
pins first (a branch to a commit), then writes below `into`, an empty folder that the caller
made and removes. It may have caches of its own (mirrors) and must support two calls for the
same repository at once. It never runs code of the source: no
hooks, no filters, no submodules unless asked. It may be cancelled at any await and then
leaves nothing outside `into` and its caches half-written.
"""

from pathlib import Path
from typing import Protocol, TypeVar

from agent.model.work import SourceTree
from agent.ports.log import LogSink

Described_contra = TypeVar("Described_contra", contravariant=True)


class SourcePort(Protocol[Described_contra]):
    """One kind of source."""

    async def fetch(
        self, source: Described_contra, entity: str, into: Path, log: LogSink
    ) -> SourceTree:
        """Fetch into an empty folder.

        Raises:
            JobError: with a `SOURCE_*` cause; the message never holds a credential.
            PolicyError: the administrator does not allow this source.
        """
