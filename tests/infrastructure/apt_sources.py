"""The package sources that the machine itself has configured, in either of apt's formats."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_APT = Path("/etc/apt")
_ONE_LINE = re.compile(r"^deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<rest>\S.*)$")
# Options of the one-line format that a derived stanza must keep to be trusted alike.
_KEPT_OPTIONS = {"signed-by": "Signed-By", "trusted": "Trusted", "arch": "Architectures"}


@dataclass(frozen=True)
class Source:
    """One enabled source of binary packages, its fields named as in the deb822 format."""

    fields: tuple[tuple[str, str], ...]

    @property
    def suites(self) -> list[str]:
        """The names of the suites that the source serves."""
        return dict(self.fields)["suites"].split()

    @property
    def uri(self) -> str:
        """The first address of the source."""
        return dict(self.fields)["uris"].split()[0]

    @property
    def text(self) -> str:
        """The source as a deb822 stanza."""
        return "".join(f"{name}: {value}\n" for name, value in self.fields)

    def suite_of(self, codename: str) -> bool:
        """Tell whether a suite is the release's own, or its updates or security suite."""
        return any(re.split(r"[-/]", suite)[0] == codename for suite in self.suites)

    def moved_to(self, suite: str) -> str:
        """Return the stanza with another suite at the same address and with the same keys."""
        fields = tuple((n, suite if n == "suites" else v) for n, v in self.fields)
        return Source(fields).text


def machine_sources() -> list[Source]:
    """Return the enabled binary sources of /etc/apt, main lists first."""
    parts = _APT / "sources.list.d"
    found: list[Source] = []
    for path in [_APT / "sources.list", *sorted(parts.glob("*.list"))]:
        if path.is_file():
            found.extend(_one_line_sources(path.read_text()))
    for path in sorted(parts.glob("*.sources")):
        found.extend(_stanzas(path.read_text()))
    return found


def _one_line_sources(text: str) -> Iterator[Source]:
    for line in text.splitlines():
        match = _ONE_LINE.match(line.partition("#")[0].strip())
        if not match:
            continue
        uri, suite, *components = match["rest"].split()
        fields = [("types", "deb"), ("uris", uri), ("suites", suite)]
        fields.append(("components", " ".join(components)))
        for option in (match["options"] or "").split():
            name, _, value = option.partition("=")
            if name in _KEPT_OPTIONS:
                fields.append((_KEPT_OPTIONS[name].lower(), value.replace(",", " ")))
        yield Source(tuple(fields))


def _stanzas(text: str) -> Iterator[Source]:
    for block in re.split(r"\n\s*\n", text):
        fields: list[tuple[str, str]] = []
        for line in block.splitlines():
            if line.startswith("#"):
                continue
            if line[:1].isspace() and fields:
                name, value = fields[-1]
                fields[-1] = (name, f"{value}\n{line}")
            elif ":" in line:
                name, _, value = line.partition(":")
                fields.append((name.strip().lower(), value.strip()))
        known = dict(fields)
        enabled = known.get("enabled", "yes").lower() not in {"no", "false"}
        if enabled and "deb" in known.get("types", "").split() and "suites" in known:
            yield Source(tuple(fields))
