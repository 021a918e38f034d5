"""Remotes of Git jobs without their passwords: what is stored, and what names are made of."""

from urllib.parse import SplitResult, urlsplit


def stored_remote(remote: str) -> str:
    """The remote as a job keeps it: the user stays, the password goes.

    Credentials come from where the job is built; a password in a stored job would be
    everybody's.
    """
    parts = _with_password(remote)
    if parts is None:
        return remote
    user, _, _ = parts.netloc.rpartition("@")[0].partition(":")
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{user}@{host}" if user else host).geturl()


def named_remote(remote: str) -> str:
    """The remote as W&B's library writes it into names of jobs: `user:@host` for a password."""
    parts = _with_password(remote)
    if parts is None:
        return remote
    user = parts.username
    host = parts.hostname or ""
    port = f":{parts.port}" if parts.port is not None else ""
    return parts._replace(netloc=f"{user}:@{host}{port}").geturl()


def _with_password(remote: str) -> SplitResult | None:
    """The parts of a URL that carries a password; `None` for every other remote."""
    try:
        parts = urlsplit(remote)
        carries = parts.hostname is not None and parts.password is not None
        _ = parts.port
    except ValueError:
        return None
    return parts if carries else None
