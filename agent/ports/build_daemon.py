"""BuildKit daemons that live for one build, as a builder sees them."""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agent.ports.log import LogSink


@dataclass(frozen=True, slots=True)
class BuildDaemon:
    """A `buildkitd` that takes connections."""

    #: For logs and an image's facts.
    title: str
    #: `tcp://host:port`, behind mutual TLS.
    address: str
    #: Folder with `ca.pem`, `cert.pem` and `key.pem` of a client.
    certificates: Path
    #: The name in the daemon's certificate.
    server_name: str


class BuildDaemonsPort(Protocol):
    """Where such daemons run."""

    def open(self, folder: Path, log: LogSink) -> AbstractAsyncContextManager[BuildDaemon]:
        """Start one, and remove it at the end. `folder` is empty, and the caller removes it.

        An error of the build that is due to the end of the daemon is replaced by one that says so.

        Raises:
            UnavailableError: `BUILD_UNAVAILABLE`: none can be started; the message says why.
            JobError: `BUILD_OUT_OF_MEMORY`.
        """
