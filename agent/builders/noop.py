"""W&B's `noop`: nothing is built, and jobs that would need a build are refused.

W&B's agent would run such a job's code in a bare Python image, without its dependencies.
That starts jobs that cannot work, hence they are refused here before anything runs.
"""

from agent.model.cause import Cause
from agent.model.errors import PolicyError
from agent.model.work import Image
from agent.ports.builder import BuildPreview, BuildRequest
from agent.ports.log import LogSink


class NoBuilder:
    """`BuilderPort` that refuses.

    `kind` is the builder's type in the configuration, `reason` what keeps it from building.
    """

    def __init__(self, kind: str, reason: str | None = None) -> None:
        self.name = kind
        self._reason = reason or f"`builder.type: {kind}`"

    async def preview(self, request: BuildRequest) -> BuildPreview:
        """Refuse.

        Raises:
            PolicyError: always, `POLICY_SOURCE`.
        """
        raise self._refusal(request)

    async def key(self, request: BuildRequest) -> str:
        """Refuse.

        Raises:
            PolicyError: always, `POLICY_SOURCE`.
        """
        raise self._refusal(request)

    async def find(self, key: str) -> Image | None:
        """Nothing was ever built."""
        del key
        return None

    async def build(self, request: BuildRequest, key: str, log: LogSink) -> Image:
        """Refuse.

        Raises:
            PolicyError: always, `POLICY_SOURCE`.
        """
        del key, log
        raise self._refusal(request)

    async def check(self) -> None:
        """Nothing builds here."""

    async def prune_cache(self, max_age: float, max_bytes: int) -> int:
        """There is no build cache."""
        del max_age, max_bytes
        return 0

    async def prune(self, max_age: float, max_bytes: int) -> int:
        """There is nothing to remove."""
        del max_age, max_bytes
        return 0

    def _refusal(self, request: BuildRequest) -> PolicyError:
        return PolicyError(
            Cause.POLICY_SOURCE,
            f"This agent builds no images ({self._reason}), and {request.title} is code.",
            hint="Submit a ready image with --docker-image, or choose another queue.",
        )
