"""uv: where it is, what it is told about indexes, and what its complaints mean."""

import functools
import importlib.metadata
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.config.execution import BuilderConfig
from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.model.redact import Redactor

if TYPE_CHECKING:
    from agent.builders.requirements import Requirements

#: Lines of output that a message quotes.
_QUOTED: Final = 12
_LONGEST_REASON: Final = 400
_CA_VARIABLES: Final = (
    "UV_SSL_CERT_FILE", "SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
)  # fmt: skip
_PROXIES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


#: The reason where uv tells none.
UNEXPLAINED: Final = "the installation ended without a reason"


@dataclass(frozen=True, slots=True)
class Indexes:
    """Where packages come from: configuration, else the agent's environment."""

    #: Secret: it may hold a password.
    index_url: str | None
    #: Secrets, separated by spaces.
    extra_index_urls: str | None
    ca_bundle: Path | None
    #: Both spellings, since programs differ.
    proxies: Mapping[str, str]


def uv_program() -> Path:
    """The program that comes with the `uv` package."""
    import uv

    return Path(uv.find_uv_bin())


@functools.cache
def uv_version() -> str:
    """Its version: part of what decides a build."""
    return importlib.metadata.version("uv")


def indexes(config: BuilderConfig, environment: Mapping[str, str]) -> Indexes:
    """What is configured; uv's and pip's own variables count where nothing is."""
    first = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL")
    extra = ("UV_EXTRA_INDEX_URL", "PIP_EXTRA_INDEX_URL")
    configured = config.index_url.get_secret_value() if config.index_url else None
    more = " ".join(url.get_secret_value() for url in config.extra_index_urls)
    bundle = str(config.ca_bundle) if config.ca_bundle else _first(environment, _CA_VARIABLES)
    return Indexes(
        configured or _first(environment, first),
        more or _first(environment, extra),
        Path(bundle) if bundle else None,
        _proxies(config, environment),
    )


def _proxies(config: BuilderConfig, environment: Mapping[str, str]) -> dict[str, str]:
    found = {
        name: environment.get(name) or environment.get(name.lower()) or "" for name in _PROXIES
    }
    if config.proxy is not None:
        url = config.proxy.get_secret_value()
        found |= {"HTTP_PROXY": url, "HTTPS_PROXY": url}
    given = {name: value for name, value in found.items() if value}
    return given | {name.lower(): value for name, value in given.items()}


def _first(environment: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    return next((environment[name] for name in names if environment.get(name)), None)


def install_error(output: str, requirements: "Requirements | None") -> JobError:
    """The error for a failed installation: names the requirement and quotes the end."""
    cause, reason = blame(output, requirements)
    where = f" ({requirements.found_in})" if requirements else ""
    return JobError(
        cause, f"Dependencies{where} could not be installed: {reason}.\n{last_lines(output)}"
    )


def last_lines(output: str) -> str:
    """The end of an output for a message, without passwords and colours."""
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", output)
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", plain) if line.strip()]
    return Redactor().text("\n".join(line[:_LONGEST_REASON] for line in lines[-_QUOTED:]))


@dataclass(frozen=True, slots=True)
class _Meaning:
    pattern: re.Pattern[str]
    cause: Cause
    reason: str


def _meaning(pattern: str, cause: Cause, reason: str) -> _Meaning:
    return _Meaning(re.compile(pattern, re.DOTALL), cause, reason)


#: The first that matches counts.
_MEANINGS: Final = (
    _meaning(
        r"No space left on device|os error 28",
        Cause.DISK_FULL,
        "no space is left on the disk",
    ),
    _meaning(
        r"Failed to fetch:? `?(?P<what>[^\s`]+).*?(?:client error|status code) ?\(?40[13]",
        Cause.BUILD_REQUIREMENTS,
        "the package index at {what} refuses the agent's credentials",
    ),
    _meaning(
        r"(?:Failed to (?:fetch|download)|error sending request for url):? [`(]?(?P<what>[^\s`)]+)",
        Cause.BUILD_UNAVAILABLE,
        "{what} cannot be fetched from the package index",
    ),
    _meaning(
        r"Because (?P<what>\S+) was not found in the package registry",
        Cause.BUILD_REQUIREMENTS,
        "package `{what}` does not exist in the package index",
    ),
    _meaning(
        r"Because there (?:is|are) no versions? of (?P<what>\S+)",
        Cause.BUILD_REQUIREMENTS,
        "the package index has no version `{what}`",
    ),
    _meaning(
        r"No solution found.*?Because (?P<what>.+?)(?:, we can conclude|\.\s|$)",
        Cause.BUILD_REQUIREMENTS,
        "the requirements contradict each other: {what}",
    ),
    _meaning(
        r"Failed to (?:build|prepare \w+):? `?(?P<what>[^`\n]+?)`?(?:\n|$)",
        Cause.BUILD_REQUIREMENTS,
        "`{what}` could not be built from its source",
    ),
    _meaning(
        r"Distribution not found at: (?P<what>\S+)",
        Cause.BUILD_REQUIREMENTS,
        "{what} does not exist",
    ),
    _meaning(
        r"The build backend returned an error",
        Cause.BUILD_REQUIREMENTS,
        "a package could not be built from its source",
    ),
    _meaning(
        r"Failed to parse:? `?(?P<what>[^`\n]+)",
        Cause.BUILD_REQUIREMENTS,
        "`{what}` cannot be read",
    ),
    _meaning(
        r"launch: (?P<what>[^\n]+)", Cause.BUILD_REQUIREMENTS, "{what}"
    ),
)  # fmt: skip
_AT_LINE: Final = re.compile(
    r"error: (?P<why>[^\n]*?)(?: in| at|:) ?`?\S*requirements\.txt`?:(?P<line>\d+):\d+"
)


def blame(output: str, requirements: "Requirements | None") -> tuple[Cause, str]:
    """Cause and reason, naming the package or the line at fault where uv tells it."""
    at_line = _AT_LINE.search(output)
    if at_line is not None and requirements is not None:
        line = requirements.line(int(at_line["line"]))
        return Cause.BUILD_REQUIREMENTS, f"the line `{line}` is not a requirement"
    for meaning in _MEANINGS:
        match = meaning.pattern.search(output)
        if match is not None:
            what = " ".join((match.groupdict().get("what") or "").split())[:_LONGEST_REASON]
            return meaning.cause, Redactor().text(meaning.reason.format(what=what))
    last = re.findall(r"^error: (.+)$", output, re.MULTILINE)
    reason = Redactor().text(last[-1])[:_LONGEST_REASON] if last else UNEXPLAINED
    return Cause.BUILD_REQUIREMENTS, reason
