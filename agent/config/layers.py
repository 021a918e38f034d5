"""Layers of configuration: values by key path, each with the place where it was written."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.config.document import Document, KeyPath


@dataclass(frozen=True, slots=True)
class Setting:
    """One value of one layer."""

    path: KeyPath
    value: Any
    #: `config.yaml:12`, `the environment variable LAUNCH_MAX_JOBS`, `--max-jobs`.
    origin: str


@dataclass(slots=True)
class Layers:
    """Settings merged in order: mappings by key, everything else as a whole."""

    data: dict[str, Any] = field(default_factory=dict)
    origins: dict[KeyPath, str] = field(default_factory=dict)

    def add(self, setting: Setting) -> None:
        """Put one value on top of what is there."""
        *around, last = setting.path
        target: Any = self.data
        for part in around:
            if not isinstance(target.get(part), dict):
                target[part] = {}
            target = target[part]
        target[last] = setting.value
        self._forget_below(setting.path)
        self.origins[setting.path] = setting.origin

    def origin(self, path: KeyPath) -> str | None:
        """Where a value, or the nearest value around it, was written."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        return None

    def _forget_below(self, path: KeyPath) -> None:
        for known in [each for each in self.origins if each[: len(path)] == path]:
            del self.origins[known]


def settings_of(document: Document) -> Iterator[Setting]:
    """The leaves of a file; lists count as one value, and so do empty mappings."""
    yield from _leaves(document, (), document.data)


def _leaves(document: Document, path: KeyPath, value: Mapping[str, Any]) -> Iterator[Setting]:
    for key, item in value.items():
        below = (*path, key)
        if isinstance(item, dict) and item:
            yield from _leaves(document, below, item)
        else:
            yield Setting(below, item, document.place(below))
