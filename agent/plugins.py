"""Entry points of third-party plugins; built-in parts are chosen in `agent.compose.backends`.

An entry point names a callable that takes a `PluginContext`:

- group `launch_agent.runners`, named after the resource that queues ask for: returns a
  `RunnerPort`;
- group `launch_agent.builders`, named after the resource whose jobs it builds for: returns a
  `BuilderPort`;
- group `launch_agent.sources`, named `git` or `artifact`: returns a `SourcePort`
  that replaces the built-in one.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Final, Literal

from agent.model.errors import ConfigError

Group = Literal["launch_agent.runners", "launch_agent.builders", "launch_agent.sources"]
Factory = Callable[["PluginContext"], Any]

RUNNERS: Final = "launch_agent.runners"
BUILDERS: Final = "launch_agent.builders"
SOURCES: Final = "launch_agent.sources"


@dataclass(frozen=True, slots=True)
class PluginContext:
    """What a plugin is made from."""

    #: Names the control plane in labels; empty for sources, which are made before it is known.
    control_plane_id: str
    #: A folder of the plugin's own.
    folder: Path
    #: Bounded thread pool, for blocking calls.
    threads: Executor
    environment: Mapping[str, str] = field(repr=False)


def find(group: Group) -> dict[str, Factory]:
    """The factories of one group, by name.

    Raises:
        ConfigError: two packages offer the same name, or a plugin cannot be imported.
    """
    points: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        other = points.setdefault(point.name, point)
        if other.value != point.value:
            message = (
                f"Two installed packages offer `{point.name}` in {group}: "
                f"{other.value} and {point.value}."
            )
            raise ConfigError(message, hint="Uninstall one of them.")
    return {name: _load(point) for name, point in points.items()}


def _load(point: EntryPoint) -> Factory:
    try:
        factory: Factory = point.load()
    except (ImportError, AttributeError) as error:
        message = f"The plugin `{point.name}` ({point.value}) cannot be loaded: {error}."
        raise ConfigError(message, hint="Reinstall it, or uninstall it.") from error
    return factory
