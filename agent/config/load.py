"""Configuration from file, environment and flags, in this order; the later wins.

`pydantic-settings` would merge the same layers, but forgets where each value came from;
`--check-config` and every message show file and line.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from agent.config import wandb
from agent.config.agent import AgentConfig
from agent.config.base import WRITTEN
from agent.config.document import Document, KeyPath, dotted, parse_value, read_document
from agent.config.execution import PruneConfig, PruneRule
from agent.config.local_files import data_dir, find_config_file, state_dir
from agent.config.schema import annotation_at, describe, key_paths, keys_at, validation_messages
from agent.model.errors import ConfigError
from agent.model.names import nearest

DEFAULT_ORIGIN: Final = "default"

_PREFIX: Final = "LAUNCH_"
#: Short names, and W&B's; ours win where both are set, since they come later.
_NAMED_VARIABLES: Final[Mapping[str, tuple[str, ...]]] = {
    "WANDB_ENTITY": ("entity",),
    "WANDB_LAUNCH_MAX_JOBS": ("max_jobs",),
    "LAUNCH_DATA_DIR": ("control", "data_dir"),
    "LAUNCH_DATABASE_URL": ("control", "database_url"),
    "LAUNCH_OBJECT_STORE_URL": ("control", "object_store", "url"),
    "LAUNCH_OBJECT_STORE_ENDPOINT": ("control", "object_store", "endpoint"),
    "LAUNCH_OBJECT_STORE_REGION": ("control", "object_store", "region"),
    "LAUNCH_OBJECT_STORE_KEY": ("control", "object_store", "key"),
    "LAUNCH_SIGNING_KEYS": ("control", "signing_keys"),
    "LAUNCH_ADMINISTRATOR_KEY": ("control", "administrator_key"),
    "LAUNCH_EXTERNAL_URL": ("control", "external_url"),
}
#: Read elsewhere, or set for jobs by the agent.
_OTHER_VARIABLES: Final = frozenset(
    {
        "LAUNCH_CONFIG",
        "LAUNCH_SERVER",
        "LAUNCH_API_KEY",
        "LAUNCH_PROJECT",
        "LAUNCH_DEBUG",
        "LAUNCH_RETRY_FOR",
        "LAUNCH_ITEM_ID",
        "LAUNCH_ATTEMPT",
        "LAUNCH_EPOCH",
        "LAUNCH_QUEUE",
    }
)
#: A variable this much like a known one is taken for a spelling mistake.
_MISSPELT: Final = 0.85


@dataclass(frozen=True, slots=True)
class ConfigValue:
    """One value of one layer."""

    path: KeyPath
    value: Any
    #: `config.yaml:12`, `the environment variable LAUNCH_MAX_JOBS`, `--max-jobs`.
    origin: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """The whole configuration, and where each of its values was written."""

    config: AgentConfig
    origins: Mapping[KeyPath, str]
    file: Path | None
    #: The file has W&B's shape; without a named server, W&B's hosted service is used.
    wandb_shape: bool
    #: One sentence for each key of the file that has no effect.
    warnings: tuple[str, ...] = ()

    def origin(self, path: KeyPath) -> str:
        """Where a value was written; `default` when nowhere."""
        return _nearest_origin(self.origins, path) or DEFAULT_ORIGIN


def load(
    environ: Mapping[str, str], *, file: Path | None = None, flags: Iterable[ConfigValue] = ()
) -> Loaded:
    """Read everything once.

    Raises:
        ConfigError: names every value that cannot be accepted, each with its place.
    """
    path = find_config_file(environ, file)
    document = read_document(path) if path else None
    wandb_shape = bool(path and document and wandb.is_wandb_shape(path, document.data, environ))
    layers, warnings = _Layers(), dict[KeyPath, str]()
    for value in _defaults(environ, wandb_shape=wandb_shape):
        layers.add(value)
    for value in _leaves(document, (), document.data) if document else ():
        ignored = wandb.without_effect(value.path, value.value, value.origin)
        if ignored is not None:
            key, reason = ignored
            warnings.setdefault(key, f"{value.origin}: `{dotted(key)}` has no effect: {reason}.")
        elif value.value is not None or not keys_at(AgentConfig, value.path):
            layers.add(value)  # sections without keys are skipped
    for value in (*environment_values(environ), *flags):
        layers.add(value)
    config = _validated(layers, document)
    return Loaded(config, dict(layers.origins), path, wandb_shape, tuple(warnings.values()))


def flag_values(
    given: Mapping[str, Any], keys: Mapping[str, tuple[str, KeyPath]]
) -> Iterator[ConfigValue]:
    """The values of a command's options that were given.

    `keys`: the option as users write it and the key that it sets, by the parameter's name.
    """
    for name, value in given.items():
        if value not in {None, ()}:
            origin, path = keys[name]
            yield ConfigValue(path, list(value) if isinstance(value, tuple) else value, origin)


@dataclass(slots=True)
class _Layers:
    """Values merged in order: mappings by key, everything else as a whole."""

    data: dict[str, Any] = field(default_factory=dict)
    origins: dict[KeyPath, str] = field(default_factory=dict)

    def add(self, value: ConfigValue) -> None:
        """Override what earlier layers gave for this path."""
        *around, last = value.path
        target: Any = self.data
        for part in around:
            if not isinstance(target.get(part), dict):
                target[part] = {}
            target = target[part]
        target[last] = value.value
        depth = len(value.path)
        for known in [each for each in self.origins if each[:depth] == value.path]:
            del self.origins[known]
        self.origins[value.path] = value.origin


def _nearest_origin(origins: Mapping[KeyPath, str], path: KeyPath) -> str | None:
    """Where a value, or the nearest value around it, was written."""
    around = (path[:length] for length in range(len(path), 0, -1))
    return next((origins[each] for each in around if each in origins), None)


def _defaults(environ: Mapping[str, str], *, wandb_shape: bool) -> Iterator[ConfigValue]:
    """Defaults that depend on the machine or on whose file it is."""
    yield ConfigValue(("state_dir",), str(state_dir(environ)), DEFAULT_ORIGIN)
    yield ConfigValue(("control", "data_dir"), str(data_dir(environ)), DEFAULT_ORIGIN)
    for kind, rule in dict(PruneConfig()).items():
        if isinstance(rule, PruneRule):  # a file may set only max_age or max_size
            yield ConfigValue(("prune", kind, "max_age"), f"{rule.max_age:f}s", DEFAULT_ORIGIN)
            yield ConfigValue(("prune", kind, "max_size"), f"{rule.max_size}b", DEFAULT_ORIGIN)
    for key, value in wandb.DEFAULTS.items() if wandb_shape else ():
        yield ConfigValue((key,), value, "default of W&B's launch-config.yaml")


def _leaves(document: Document, path: KeyPath, value: Mapping[str, Any]) -> Iterator[ConfigValue]:
    """The values of a file; a list counts as one value, and so does an empty mapping."""
    for key, item in value.items():
        below = (*path, key)
        if isinstance(item, dict) and item:
            yield from _leaves(document, below, item)
        else:
            yield ConfigValue(below, item, document.location(below))


def _validated(layers: _Layers, document: Document | None) -> AgentConfig:
    def location(path: KeyPath) -> str:
        written = _nearest_origin(layers.origins, path)
        return written or (document.location(path) if document else "configuration")

    try:
        return AgentConfig.model_validate(layers.data, context=dict(WRITTEN))
    except ValidationError as error:
        found = validation_messages(AgentConfig, error, layers.data, location)
    if len(found) == 1:
        raise ConfigError(found[0], hint="config.example.yaml shows all keys.")
    lines = "\n".join(f"  {each}" for each in found)
    message = f"The configuration is not valid:\n{lines}\n"
    raise ConfigError(message, hint="config.example.yaml shows all keys.")


# ------------------------------------------------------------------ environment variables


def environment_values(environ: Mapping[str, str]) -> Iterator[ConfigValue]:
    """Values of `LAUNCH_` variables (`LAUNCH_BUILDER__TYPE`) and of those of W&B's that count.

    Raises:
        ConfigError: a variable looks like a misspelled known one.
    """
    known = {
        _PREFIX + "__".join(path).upper().replace("-", "_"): path
        for path in key_paths(AgentConfig)
        if "*" not in path and path[0] != "server"
    } | dict(_NAMED_VARIABLES)
    # Those of W&B first.
    for name in sorted(environ, key=lambda name: (name.startswith(_PREFIX), name)):
        if name in known and environ[name]:
            value = _variable_value(known[name], environ[name])
            yield ConfigValue(known[name], value, f"the environment variable {name}")
        elif name not in known and name.startswith(_PREFIX) and name not in _OTHER_VARIABLES:
            meant = nearest(name, known, cutoff=_MISSPELT)
            if meant is not None:
                message = f"The environment variable {name} is unknown. Did you mean {meant}?"
                raise ConfigError(message, hint="Rename it, or unset it.")


def _variable_value(path: tuple[str, ...], text: str) -> Any:
    """Lists are written with commas; numbers and switches as in a file; strings as they are."""
    form = describe(annotation_at(AgentConfig, path))
    if form.startswith("a list"):
        is_word = text == "auto"
        return text if is_word else [part.strip() for part in text.split(",") if part.strip()]
    if "number" in form or "`true`" in form or "mapping" in form:
        return parse_value(text)
    return text
