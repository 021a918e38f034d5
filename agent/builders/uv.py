"""uv: the program, its package indexes, and the meaning of its errors."""

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
_MAX_REASON_CHARS: Final = 400
_CA_VARIABLES: Final = (
    "UV_SSL_CERT_FILE", "SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
)  # fmt: skip
_PROXIES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")

#: The reason where uv names none.
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
    """Its version, a part of every content key."""
    return importlib.metadata.version("uv")


def indexes(config: BuilderConfig, environment: Mapping[str, str]) -> Indexes:
    """The configured indexes, else those of uv's and pip's environment variables."""
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


def no_python_version(text: str) -> JobError:
    """The error for a version of Python that cannot be read."""
    return JobError(
        Cause.SOURCE_INVALID,
        f"Python version '{text}' cannot be read.",
        hint="Write it as 3.11 or 3.11.4.",
    )


def install_error(output: str, requirements: "Requirements") -> JobError:
    """The error for a failed installation: names the requirement and quotes the last lines."""
    cause, reason = explain(output, requirements)
    where = f" ({requirements.found_in})" if requirements else ""
    return JobError(
        cause, f"Dependencies{where} could not be installed: {reason}.\n{last_lines(output)}"
    )


def last_lines(output: str) -> str:
    """The end of an output for a message, without passwords and colours."""
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", output)
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", plain) if line.strip()]
    return Redactor().text("\n".join(line[:_MAX_REASON_CHARS] for line in lines[-_QUOTED:]))


_HIDDEN: Final = (
    "{what}, in another version, and that index hides the others: pin the version that it has, "
    "or set `UV_INDEX_STRATEGY=unsafe-best-match` in the agent's environment"
)
#: Pattern of uv's output, cause and reason; the first that matches counts.
_REASONS: Final = tuple(
    (re.compile(pattern, re.DOTALL), cause, reason)
    for pattern, cause, reason in (
        (r"launch: (?P<what>[^\n]+)", Cause.BUILD_REQUIREMENTS, "{what}"),
        (r"No space left on device|os error 28", Cause.DISK_FULL, "no space is left on the disk"),
        (
            r"Hash mismatch for `(?P<what>[^`]+)`",
            Cause.BUILD_REQUIREMENTS,
            "the file of `{what}` does not have the hash that is required",
        ),
        (
            (
                r"(?:No such file or directory: '|command '|unable to execute ')"
                r"(?P<what>[\w./+-]*(?:gcc|g\+\+|cc|c\+\+|clang|gfortran|cargo|rustc|cmake|ninja|make|nvcc"
                r"|pg_config|mysql_config))'(?: failed: No such file|:|\n|$)"
            ),
            Cause.BUILD_REQUIREMENTS,
            (
                "a package is built from its source, which needs `{what}`: choose a base image "
                "with it (--base-image python:3.11), or a version of the package with a wheel"
            ),
        ),
        (
            r"invalid peer certificate|certificate verify failed",
            Cause.BUILD_UNAVAILABLE,
            (
                "the package index shows a certificate that is not trusted: set "
                "`builder.ca_bundle` in the agent's configuration"
            ),
        ),
        (
            r"Because (?P<what>\S+ (?:requires|depends on) Python ?[^\s,]+)",
            Cause.BUILD_REQUIREMENTS,
            "{what}, and the job has another: choose it by --runtime",
        ),
        (
            r"Because (?P<what>\S+) has no (?:wheels|usable wheels)",
            Cause.BUILD_REQUIREMENTS,
            (
                "`{what}` has no wheel for this version of Python and this machine: choose another "
                "version of it, or of Python by --runtime"
            ),
        ),
        (
            (
                r"Because (?P<what>\S+) has an invalid package format|invalid Zip archive"
                r"|Failed to read from zip file"
            ),
            Cause.BUILD_REQUIREMENTS,
            "the file of a package is damaged: {what}",
        ),
        (
            r"Git executable not found",
            Cause.BUILD_REQUIREMENTS,
            "a requirement is fetched with git, which is not installed there",
        ),
        (
            r"Git operation failed.*?(?P<what>(?:Could not resolve|Failed to connect)[^\n]*)",
            Cause.BUILD_UNAVAILABLE,
            "git cannot reach the server of a requirement ({what})",
        ),
        (
            r"Git operation failed.*?(?P<what>(?:fatal|error): [^\n]+)",
            Cause.BUILD_REQUIREMENTS,
            "a requirement cannot be fetched with git ({what})",
        ),
        (
            r"Failed to fetch:? `?(?P<what>[^\s`]+).*?(?:client error|status code) ?\(?40[13]",
            Cause.BUILD_REQUIREMENTS,
            "the package index at {what} refuses the agent's credentials",
        ),
        (
            r"Failed to (?:fetch|download)[^`\n]*`(?P<what>[^`]+)`.{0,300}?client error \(404",
            Cause.BUILD_REQUIREMENTS,
            "{what} does not exist",
        ),
        (
            r"(?:Failed to (?:fetch|download):? `|error sending .*? url \()(?P<what>[^\s`)]+)",
            Cause.BUILD_UNAVAILABLE,
            "{what} cannot be fetched from the package index",
        ),
        (
            r"hint: (?P<what>`[^`]+` was found on [^,]+), but not at the requested version",
            Cause.BUILD_REQUIREMENTS,
            _HIDDEN,
        ),
        (
            r"Because (?P<what>\S+) was not found in the package registry",
            Cause.BUILD_REQUIREMENTS,
            "package `{what}` does not exist in the package index",
        ),
        (
            r"Because there (?:is|are) no versions? of (?P<what>\S+)",
            Cause.BUILD_REQUIREMENTS,
            "the package index has no version `{what}`",
        ),
        (
            r"No solution found.*?Because (?P<what>.+?)(?:, we can conclude|\.\s|$)",
            Cause.BUILD_REQUIREMENTS,
            "the requirements contradict each other: {what}",
        ),
        (
            r"Failed to (?:build|prepare \w+|download and build):? `?(?P<what>[^`\n]+?)`?(?:\n|$)",
            Cause.BUILD_REQUIREMENTS,
            "`{what}` could not be built from its source",
        ),
        (
            r"Distribution not found at: (?P<what>\S+)",
            Cause.BUILD_REQUIREMENTS,
            "{what} does not exist",
        ),
        (
            r"The build backend returned an error",
            Cause.BUILD_REQUIREMENTS,
            "a package could not be built from its source",
        ),
        (
            r"Failed to parse:? `?(?P<what>[^`\n]+)",
            Cause.BUILD_REQUIREMENTS,
            "`{what}` cannot be read",
        ),
    )
)
_AT_LINE: Final = re.compile(
    r"error: (?P<why>[^\n]*?)(?: in| at|:) ?`?\S*?(?P<file>[a-z]+\.txt)`?(?::| at line )"
    r"(?P<line>\d+)"
)


def explain(output: str, requirements: "Requirements") -> tuple[Cause, str]:
    """Cause and reason, naming the package, or file and line, where uv tells it."""
    at_line = _AT_LINE.search(output)
    where = requirements.where(at_line["file"], int(at_line["line"])) if at_line else None
    if at_line is not None and where is not None:
        return Cause.BUILD_REQUIREMENTS, f"{where}: {Redactor().text(at_line['why'])}"
    for pattern, cause, reason in _REASONS:
        match = pattern.search(output)
        if match is not None:
            what = " ".join((match.groupdict().get("what") or "").replace("`", "").split())
            return cause, Redactor().text(reason.format(what=what[:_MAX_REASON_CHARS]))
    last = re.findall(r"^error: (.+)$", output, re.MULTILINE)
    reason = Redactor().text(last[-1])[:_MAX_REASON_CHARS] if last else UNEXPLAINED
    return Cause.BUILD_REQUIREMENTS, reason
