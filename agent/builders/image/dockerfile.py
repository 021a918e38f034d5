"""Dockerfiles as BuildKit reads them: its own parser, and what decides where images come from.

The parser is BuildKit's, in Go, in a process of its own: no text can end the agent by it.
"""

import csv
import functools
import json
import platform as machine
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from agent.model.cause import Cause
from agent.model.errors import ConfigError, JobError

_TIMEOUT: Final = 30.0
_PROGRAM: Final = """
import dockerfile, json, sys
try:
    found = dockerfile.parse_string(sys.stdin.read())
except dockerfile.GoParseError:
    found = ()
json.dump([[each.cmd, each.flags, each.value] for each in found], sys.stdout)
"""
_VARIABLE: Final = re.compile(r"\$(?:\{(\w+)(?::?([-+])((?:[^{}]|\$\{[^{}]*\})*))?\}|(\w+))")
#: As BuildKit names processors, by the names that the machine gives them.
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_URL: Final = re.compile(r"(https?://|git@|git://|ssh://)|.*\.git(#.*)?$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction, its here-documents left out."""

    #: In capitals.
    name: str
    #: `--from=base`.
    flags: tuple[str, ...]
    #: Its words.
    value: tuple[str, ...]


@functools.lru_cache(maxsize=32)
def instructions(text: str) -> tuple[Instruction, ...]:
    """The instructions of a Dockerfile; none where BuildKit cannot read it. Blocks.

    Raises:
        JobError: `SOURCE_INVALID`: the parser did not survive it.
    """
    argv = (sys.executable, "-I", "-c", _PROGRAM)
    data = text.encode("utf-8", "replace")
    try:
        done = subprocess.run(argv, input=data, capture_output=True, check=False, timeout=_TIMEOUT)
    except subprocess.TimeoutExpired:
        raise _not_read(f"it took longer than {_TIMEOUT:g} s") from None
    if b"ModuleNotFoundError" in done.stderr:
        message = "Dockerfiles are read by the package `dockerfile`, which is not installed here."
        raise ConfigError(
            message, hint="Install it: `pip install dockerfile`; without a wheel it needs Go."
        )
    if done.returncode != 0:
        raise _not_read(f"it ended with exit code {done.returncode}")
    return tuple(
        Instruction(name.upper(), tuple(flags), tuple(value))
        for name, flags, value in json.loads(done.stdout)
    )


def _not_read(what: str) -> JobError:
    message = f"BuildKit's parser could not read the Dockerfile: {what}."
    return JobError(Cause.SOURCE_INVALID, message, hint="Shorten it, and try `docker build`.")


def named_images(text: str, platform: str | None = None) -> tuple[str, ...]:
    """Names of all images that a Dockerfile uses, in order; its own stages left out. Blocks.

    `platform` is that of the build, this machine's by default. Only what stands before the first
    `FROM` gives values to the variables of a `FROM`. A name with forms of variables that are
    not known here stays as it is, and is no reference.
    """
    given = _platform_arguments(platform)
    stages: set[str] = set()
    names: dict[str, None] = {}
    started = False
    for each in instructions(text):
        if each.name == "ARG" and not started:
            for name, equals, value in (pair.partition("=") for pair in each.value):
                if equals:
                    given[name] = _expand(_unquoted(value), given)
        for name in _images_of(each):
            expanded = _expand(_unquoted(name), given)
            own = {"", "scratch", *stages}
            if expanded.lower() not in own and not expanded.isdigit():
                names[expanded] = None
        if each.name == "FROM":
            started = True
            stages |= {word.lower() for word in each.value[2:3]}
    return tuple(names)


def adds_remote_content(text: str) -> bool:
    """Whether an `ADD` fetches what only BuildKit can say has changed. Blocks."""
    return any(
        each.name == "ADD"
        and not any(flag.startswith("--checksum=") for flag in each.flags)
        # A variable may hold a URL.
        and any(_URL.match(source) or "$" in source for source in each.value[:-1])
        for each in instructions(text)
    )


def _images_of(instruction: Instruction) -> Iterator[str]:
    match instruction.name:
        case "FROM":
            yield from instruction.value[:1]
        case "COPY" | "ADD":
            yield from _after("--from=", instruction.flags)
        case "RUN":
            for mount in _after("--mount=", instruction.flags):
                yield from _after("from=", next(csv.reader([mount]), []))


def _after(prefix: str, words: tuple[str, ...] | list[str]) -> Iterator[str]:
    for word in words:
        if word.lower().startswith(prefix):
            yield word[len(prefix) :]


def _platform_arguments(platform: str | None) -> dict[str, str]:
    """BuildKit's automatic arguments; builds of ours are for one platform."""
    processor = machine.machine()
    whole = platform or f"linux/{_ARCHITECTURES.get(processor, processor)}"
    system, _, rest = whole.partition("/")
    architecture, _, variant = rest.partition("/")
    parts = {"PLATFORM": whole, "OS": system, "ARCH": architecture, "VARIANT": variant}
    return {f"{kind}{part}": text for kind in ("TARGET", "BUILD") for part, text in parts.items()}


def _unquoted(text: str) -> str:
    return text.replace('"', "").replace("'", "")


def _expand(name: str, given: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        found = given.get(match[1] or match[4], "")
        if match[2] == "-":
            return found or _expand(match[3], given)
        return (_expand(match[3], given) if found else "") if match[2] == "+" else found

    return _VARIABLE.sub(value, name)
