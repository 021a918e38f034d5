"""Logins for Amazon ECR, by AWS's own library (extra `aws`)."""

import base64
from concurrent.futures import Executor

from agent.ports.registry import Credentials
from agent.registries.login import HostLogins, missing_extra, refused
from agent.system.threads import in_thread

_SERVICE = "Amazon ECR"


def ecr_logins(host: str, region: str, threads: Executor) -> HostLogins:
    """Logins for one account's registry in one region; they hold for twelve hours.

    The account that counts is AWS's default: environment, profile, or the machine's role.
    """
    return HostLogins(host, lambda: in_thread(threads, lambda _: _ask(host, region)))


def _ask(host: str, region: str) -> Credentials:
    try:
        import boto3
        import botocore.exceptions
    except ImportError:
        raise missing_extra(_SERVICE, "boto3", "aws") from None
    account = host.partition(".")[0]
    try:
        client = boto3.client("ecr", region_name=region)
        answer = client.get_authorization_token(registryIds=[account])
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
        raise refused(_SERVICE, str(error)) from None
    return _read(host, answer["authorizationData"][0]["authorizationToken"])


def _read(host: str, token: str) -> Credentials:
    """Base64 over `user:password`, as for HTTP's own Basic."""
    user, colon, password = base64.b64decode(token).decode("utf-8", "replace").partition(":")
    if not colon:
        raise refused(_SERVICE, "its answer holds no user and password")
    return Credentials(host, user, password)
