"""Environment variables as a layer of configuration.

Every key can be given as `LAUNCH_` and its path in capitals, with two underscores between
its parts: `LAUNCH_MAX_JOBS`, `LAUNCH_BUILDER__TYPE`. W&B's own variables count as well.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import yaml

from agent.config.agent import AgentConfig
from agent.config.base import Model
from agent.config.layers import Setting
from agent.config.shape import annotation_at, describe, key_paths
from agent.model.errors import ConfigError
from agent.model.names import nearest

_PREFIX: Final = "LAUNCH_"

#: Short names, and W&B's; ours win where both are set, since they come later.
_NAMED: Final[Mapping[str, tuple[str, ...]]] = {
    "WANDB_ENTITY": ("entity",),
    "WANDB_LAUNCH_MAX_JOBS": ("max_jobs",),
    "LAUNCH_DATA_DIR": ("control", "data_dir"),
    "LAUNCH_DATABASE_URL": ("control", "database_url"),
    "LAUNCH_EXTERNAL_URL": ("control", "external_url"),
}

#: Read elsewhere, or set for jobs by the agent.
_RESERVED: Final = frozenset(
    {
        "LAUNCH_CONFIG",
        "LAUNCH_SERVER",
        "LAUNCH_API_KEY",
        "LAUNCH_PROJECT",
        "LAUNCH_DEBUG",
        "LAUNCH_ITEM_ID",
        "LAUNCH_ATTEMPT",
        "LAUNCH_EPOCH",
        "LAUNCH_QUEUE",
    }
)

#: So much alike that it can only be a slip of the pen.
_SLIP: Final = 0.85


def environment_settings(environ: Mapping[str, str]) -> Iterator[Setting]:
    """What the environment says.

    Raises:
        ConfigError: a variable is almost, but not quite, one that we know.
    """
    known = _variables()
    for name in sorted(environ):
        if name in known and environ[name] != "" and not name.startswith(_PREFIX):
            yield _setting(name, known[name], environ[name])
    for name in sorted(environ):
        if name in known and environ[name] != "" and name.startswith(_PREFIX):
            yield _setting(name, known[name], environ[name])
        elif name not in known:
            _refuse_slip(name, known)


def _variables() -> dict[str, tuple[str, ...]]:
    own = {
        _PREFIX + "__".join(path).upper().replace("-", "_"): path
        for path in key_paths(AgentConfig)
        if "*" not in path and path[0] != "server"
    }
    return {**own, **_NAMED}


def _setting(name: str, path: tuple[str, ...], text: str) -> Setting:
    return Setting(path, _value(AgentConfig, path, text), f"the environment variable {name}")


def _value(model: type[Model], path: tuple[str, ...], text: str) -> Any:
    """Lists are written with commas; numbers and switches as in a file; texts as they are."""
    form = describe(annotation_at(model, path))
    if form.startswith("a list"):
        is_word = text == "auto"
        return text if is_word else [part.strip() for part in text.split(",") if part.strip()]
    if "number" in form or "`true`" in form or "mapping" in form:
        return _parsed(text)
    return text


def _parsed(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _refuse_slip(name: str, known: Mapping[str, object]) -> None:
    if not name.startswith(_PREFIX) or name in _RESERVED:
        return
    meant = nearest(name, known, cutoff=_SLIP)
    if meant is not None:
        message = f"The environment variable {name} is not known. Did you mean {meant}?"
        raise ConfigError(message, hint="Rename it, or unset it.")
