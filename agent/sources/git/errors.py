"""From the output of a failed git command to a cause code and a sentence."""

import re
from typing import Final, NamedTuple

from agent.model.cause import Cause
from agent.model.errors import JobError, PolicyError
from agent.sources.git.remote import without_credentials

_MAX_REASON_CHARS: Final = 400


class _Rule(NamedTuple):
    pattern: str
    cause: Cause
    sentence: str
    hint: str | None = None


#: The first match counts, so specific patterns come before general ones.
_RULES: Final = (
    _Rule(
        r"'lfs' is not a git command|git-lfs: (command )?not found",
        Cause.INTERNAL,
        "it keeps files in Git LFS, and the program `git-lfs` is not installed on the agent's "
        "machine",
        "Install it there (Debian's package `git-lfs`), or launch without --lfs.",
    ),
    _Rule(
        r"object does not exist",
        Cause.SOURCE_NOT_FOUND,
        "the server does not have the content of a file in Git LFS",
        "Push it with `git lfs push`.",
    ),
    _Rule(
        r"no space left on device|disk quota exceeded",
        Cause.DISK_FULL,
        "no space is left on the agent's disk",
    ),
    _Rule(
        r"host key verification failed|host identification has changed|host key is known",
        Cause.SOURCE_AUTH,
        "the server's host key is not the one that is known, or none is known",
        "Put the server's line into `sources.git.known_hosts` (or the agent's own known_hosts).",
    ),
    _Rule(
        r"returned error: 30\d|unable to update url base|redirect",
        Cause.POLICY_SOURCE,
        "the server redirects, and redirects are not followed",
        "Use the address that the repository has now.",
    ),
    _Rule(
        r"transport '.*' not allowed|protocol '.*' is not (allowed|supported)",
        Cause.POLICY_SOURCE,
        "its protocol is not allowed",
    ),
    _Rule(
        r"authentication failed|could not read (username|password)|terminal prompts disabled"
        r"|authentication required|authorization error|permission denied|returned error: 40[137]"
        r"|access denied|invalid credentials",
        Cause.SOURCE_AUTH,
        "the server refused the agent's credentials, or there are none for it",
        "Give the agent a credential helper, a key, or `sources.git.credentials`.",
    ),
    _Rule(
        r"couldn't find remote ref|not our ref|unadvertised object|no such remote ref",
        Cause.SOURCE_NOT_FOUND,
        "the server does not have this commit or reference",
        "Check the spelling; a commit must have been pushed.",
    ),
    _Rule(
        r"not found|does not appear to be a git repository|not valid: is this a git repository"
        r"|returned error: 40[46]|returned error: 410|does not exist|not a git repository",
        Cause.SOURCE_NOT_FOUND,
        "there is no such repository",
        "Check the URL; a private repository looks the same without credentials.",
    ),
    _Rule(
        r"certificate|ssl_error|gnutls|ssl connect|ssl routines|tls",
        Cause.SOURCE_UNREACHABLE,
        "no trusted connection (TLS) could be made",
        "Check the server's certificate and `sources.git.ca_bundle`.",
    ),
    _Rule(
        r"could not resolve|name or service not known|failed to connect|connection refused"
        r"|couldn't connect|connection timed out|operation timed out|no route to host"
        r"|network is unreachable|connection reset|connection closed|empty reply|recv failure"
        r"|early eof|hung up|unexpected disconnect|operation too slow|returned error: 5\d\d"
        r"|kex_exchange|banner exchange",
        Cause.SOURCE_UNREACHABLE,
        "the server cannot be reached, or closed the connection",
        "Check the address and the network of the agent's machine.",
    ),
)
#: A damaged mirror, which is repaired by creating it again.
_CORRUPT: Final = re.compile(
    r"object file .* is empty|loose object .* is corrupt|bad object|unable to read tree"
    r"|packfile .* (cannot|does not)|missing blob|missing tree|invalid sha1 pointer"
    r"|not a git repository: |index-pack died|shallow file has changed|unable to find [0-9a-f]{40}",
    re.IGNORECASE,
)


class CorruptMirrorError(Exception):
    """The mirror on this machine is damaged and has to be created again."""


def failure(url: str, output: str) -> Exception:
    """The error for a failed git command, with the most specific line of its output."""
    reason = _reason(output)
    for rule in _RULES:
        if re.search(rule.pattern, output, re.IGNORECASE):
            kind = PolicyError if rule.cause is Cause.POLICY_SOURCE else JobError
            return kind(
                rule.cause, f"Git: {url}: {rule.sentence}. {_quoted(reason)}", hint=rule.hint
            )
    if _CORRUPT.search(output):
        return CorruptMirrorError(reason)
    return JobError(Cause.SOURCE_INVALID, f"Git: {url} cannot be fetched. {_quoted(reason)}")


def stalled(url: str, seconds: float) -> JobError:
    """The error for a server that sent nothing for `seconds`."""
    return JobError(
        Cause.SOURCE_UNREACHABLE,
        f"Git: {url}: the server sent nothing for {seconds:g} s.",
        hint="Check the address and the network of the agent's machine.",
    )


def _reason(output: str) -> str:
    """The last fatal or error line, else the last line."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", output) if line.strip()]
    errors = [line for line in lines if re.match(r"(fatal|error|ERROR|ssh)\b", line)]
    # git adds advice after an ssh failure; the line before it has the reason.
    reasons = [line for line in errors if "Could not read from remote" not in line]
    chosen = (reasons or _without_advice(lines) or errors or [""])[-1]
    return without_credentials(chosen)[:_MAX_REASON_CHARS]


def _without_advice(lines: list[str]) -> list[str]:
    advice = ("Please make sure", "and the repository exists", "fatal: Could not read from remote")
    return [line for line in lines if not line.startswith(advice)]


def _quoted(reason: str) -> str:
    return f"git says: {reason.rstrip('.')}." if reason else "git gave no reason."
