"""Git URLs: parsed, and refused where they are not allowed."""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urlsplit

from agent.model.cause import Cause
from agent.model.errors import JobError, PolicyError

#: `user@host:path`, the short form of ssh; a slash before the colon makes it a path.
_SCP: Final = re.compile(
    r"(?:(?P<user>[^@/:\s]+)@)?(?P<host>\[[0-9a-fA-F:]+\]|[^@/:\s]+):(?P<path>[^:].*)"
)
_HOST: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9.])?")
_USER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+@-]*")
_PORTS: Final = {"https": 443, "http": 80, "ssh": 22}


@dataclass(frozen=True, slots=True)
class Remote:
    """A parsed Git URL, without secrets."""

    protocol: str
    #: Lower-case; empty for `file`.
    host: str
    port: int
    user: str | None
    #: Relative to the SSH user's home without a leading slash, which only the short form allows.
    path: str

    @property
    def url(self) -> str:
        """The URL, as git receives it and messages show it."""
        if self.protocol == "file":
            return f"file://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        user = f"{self.user}@" if self.user and self.protocol == "ssh" else ""
        if not self.path.startswith("/"):
            # As a URL it would be `/~/path`, which servers without home folders reject.
            return f"{user}{host}:{self.path}"
        port = "" if self.port == _PORTS[self.protocol] else f":{self.port}"
        return f"{self.protocol}://{user}{host}{port}{self.path}"


def parse_remote(text: str, protocols: tuple[str, ...]) -> Remote:
    """Read a URL or the `user@host:path` form.

    Raises:
        PolicyError: a protocol that the administrator does not allow.
        JobError: `SOURCE_INVALID`: an option, a URL with a password, or not a URL.
    """
    if text.startswith("-"):
        raise _invalid(text, "it starts with `-`, which git would take for an option")
    if not text.isprintable() or " " in text or not text.isascii():
        raise _invalid(text, "it contains a space, a control character or a letter beyond ASCII")
    if "://" in text:
        return _from_url(text, protocols)
    if re.match(r"[A-Za-z0-9+.-]+::", text):
        raise _refused(text, text.partition("::")[0], protocols)
    match = _SCP.fullmatch(text)
    if match is None:
        raise _invalid(text, "it is not a URL", "Write https://host/path or ssh://user@host/path.")
    _require(text, "ssh", protocols)
    host = _host(text, match["host"].strip("[]"))
    return Remote("ssh", host, _PORTS["ssh"], _user(text, match["user"]), match["path"])


def _from_url(text: str, protocols: tuple[str, ...]) -> Remote:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise _invalid(text, "its host or port cannot be read") from None
    protocol = parts.scheme.lower()
    _require(text, protocol, protocols)
    if parts.password is not None:
        raise _invalid(
            text,
            "it contains a password, which logs and process lists would show",
            "Remove it from the URL; the agent uses its credential helper, "
            "or `sources.git.credentials`.",
        )
    if parts.query or parts.fragment:
        raise _invalid(text, "a repository's URL has neither `?` nor `#`")
    if protocol == "file":
        return _file(text, parts)
    if not parts.path.strip("/"):
        raise _invalid(text, "it names no repository")
    host = _host(text, parts.hostname or "")
    port = _PORTS[protocol] if port is None else port
    return Remote(protocol, host, port, _user(text, parts.username), parts.path)


def _file(text: str, parts: SplitResult) -> Remote:
    if parts.netloc not in {"", "localhost"} or not parts.path.startswith("/"):
        raise _invalid(text, "a `file:` URL needs three slashes and an absolute path")
    return Remote("file", "", 0, None, parts.path)


def _require(text: str, protocol: str, protocols: tuple[str, ...]) -> None:
    if protocol not in protocols:
        raise _refused(text, protocol, protocols)


def _host(text: str, host: str) -> str:
    if ":" in host:
        return host.lower()
    if not _HOST.fullmatch(host) or ".." in host:
        raise _invalid(text, "it names no valid host")
    return host.lower()


def _user(text: str, user: str | None) -> str | None:
    if user and not _USER.fullmatch(user):
        raise _invalid(text, "its user name has characters that are not allowed")
    return user or None


def without_credentials(text: str) -> str:
    """A text without what precedes `@` in its URLs; for messages."""
    # The scheme's length is bounded: else the time is quadratic in the length of the text.
    return re.sub(r"([A-Za-z0-9+.-]{1,30}://)[^/\s]*@", r"\1", text)


def _invalid(text: str, why: str, hint: str | None = None) -> JobError:
    shown = without_credentials(text)
    return JobError(Cause.SOURCE_INVALID, f"Git URL '{shown!s}' cannot be used: {why}.", hint=hint)


def _refused(text: str, protocol: str, protocols: tuple[str, ...]) -> PolicyError:
    return PolicyError(
        Cause.POLICY_SOURCE,
        f"Git URL '{without_credentials(text)}': protocol `{protocol}` is not allowed "
        f"(allowed: {', '.join(protocols)}).",
        hint="The administrator can allow it with `sources.git.protocols`.",
    )
