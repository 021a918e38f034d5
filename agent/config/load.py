"""Configuration from file, environment and flags, in this order; the later wins.

`pydantic-settings` would merge the same layers, but forgets where each value came from;
people who ask `--check-config`, and every error message, need the file and the line.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from agent.config.agent import AgentConfig
from agent.config.base import WRITTEN
from agent.config.complaints import complaints
from agent.config.document import Document, KeyPath, read_document
from agent.config.environment import environment_settings
from agent.config.execution import PruneConfig, PruneRule
from agent.config.layers import Layers, Setting, settings_of
from agent.config.paths import data_dir, find_config_file, state_dir
from agent.config.shape import keys_at
from agent.config.wandb import WANDB_DEFAULTS, is_wandb_shape
from agent.model.errors import ConfigError

DEFAULT_ORIGIN: Final = "default"


@dataclass(frozen=True, slots=True)
class Loaded:
    """The whole configuration, and where each of its values came from."""

    config: AgentConfig
    origins: Mapping[KeyPath, str]
    file: Path | None
    #: The file is W&B's: unless it or something else names a server, W&B's is meant.
    wandb_shape: bool

    def origin(self, path: KeyPath) -> str:
        """Where a value was written; `default` when nowhere."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        return DEFAULT_ORIGIN


def load(
    environ: Mapping[str, str], *, file: Path | None = None, flags: Iterable[Setting] = ()
) -> Loaded:
    """Read everything once.

    Raises:
        ConfigError: names every value that cannot be accepted, each with its place.
    """
    path = find_config_file(environ, file)
    document = read_document(path) if path else None
    wandb_shape = bool(path and document and is_wandb_shape(path, document.data, environ))
    layers = Layers()
    for setting in _defaults(environ, wandb_shape=wandb_shape):
        layers.add(setting)
    for setting in settings_of(document) if document else ():
        if setting.value is not None or not keys_at(AgentConfig, setting.path):
            layers.add(setting)  # but for sections whose keys are all commented out
    for setting in (*environment_settings(environ), *flags):
        layers.add(setting)
    config = _validated(layers, document)
    return Loaded(config, dict(layers.origins), path, wandb_shape)


def _defaults(environ: Mapping[str, str], *, wandb_shape: bool) -> Iterable[Setting]:
    """Defaults that depend on the machine or on whose file it is."""
    yield Setting(("state_dir",), str(state_dir(environ)), DEFAULT_ORIGIN)
    yield Setting(("control", "data_dir"), str(data_dir(environ)), DEFAULT_ORIGIN)
    for kind, rule in dict(PruneConfig()).items():
        if isinstance(rule, PruneRule):  # so that a file may give one half of it
            yield Setting(("prune", kind, "max_age"), f"{rule.max_age:f}s", DEFAULT_ORIGIN)
            yield Setting(("prune", kind, "max_size"), f"{rule.max_size}b", DEFAULT_ORIGIN)
    for key, value in WANDB_DEFAULTS.items() if wandb_shape else ():
        yield Setting((key,), value, "default of W&B's launch-config.yaml")


def _validated(layers: Layers, document: Document | None) -> AgentConfig:
    try:
        return AgentConfig.model_validate(layers.data, context=dict(WRITTEN))
    except ValidationError as error:
        found = complaints(AgentConfig, error, layers.data, partial(_place, layers, document))
    if len(found) == 1:
        raise ConfigError(found[0], hint="config.example.yaml shows all keys.")
    lines = "\n".join(f"  {each}" for each in found)
    message = f"The configuration cannot be accepted:\n{lines}\n"
    raise ConfigError(message, hint="config.example.yaml shows all keys.")


def _place(layers: Layers, document: Document | None, path: KeyPath) -> str:
    return layers.origin(path) or (document.place(path) if document else "configuration")
