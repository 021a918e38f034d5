"""Logins for Amazon ECR, by AWS's own library (extra `aws`)."""

import base64
from concurrent.futures import Executor

from agent.model.errors import JobError
from agent.ports.registry import Credentials
from agent.registries.login import missing_extra, refused
from agent.system.threads import in_thread

_SERVICE = "Amazon ECR"


class EcrLogins:
    """`LoginSource` for one account's registry in one region.

    The account that counts is AWS's default: environment, profile, or the machine's role.
    """

    def __init__(self, host: str, region: str, threads: Executor) -> None:
        self._host = host
        self._region = region
        self._threads = threads

    async def login(self, repository: str) -> Credentials | None:
        """See `LoginSource`. AWS's tokens hold for twelve hours."""
        if repository.partition("/")[0] != self._host:
            return None
        return await in_thread(self._threads, lambda _: self._ask())

    def _ask(self) -> Credentials:
        try:
            import boto3
            import botocore.exceptions
        except ImportError:
            raise missing_extra(_SERVICE, "boto3", "aws") from None
        account = self._host.partition(".")[0]
        try:
            client = boto3.client("ecr", region_name=self._region)
            answer = client.get_authorization_token(registryIds=[account])
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            raise refused(_SERVICE, str(error)) from None
        return self._read(answer["authorizationData"][0]["authorizationToken"])

    def _read(self, token: str) -> Credentials:
        """Base64 over `user:password`, as for HTTP's own Basic."""
        user, colon, password = base64.b64decode(token).decode("utf-8", "replace").partition(":")
        if not colon:
            raise _unreadable()
        return Credentials(self._host, user, password)


def _unreadable() -> JobError:
    return refused(_SERVICE, "its answer holds no user and password")
