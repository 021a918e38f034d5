"""What a configuration names and this machine does not have: no mistake of form, told early."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from agent.config.base import Model, Secret
from agent.config.complaints import dotted
from agent.config.document import KeyPath
from agent.config.shape import values_of
from agent.model.errors import ConfigError

#: Keys of files and folders that are read, never made.
_READ: Final = frozenset({"ca_bundle", "known_hosts", "ssh_key", "buildkit_certs", "source"})


def unready(config: Model, environ: Mapping[str, str]) -> tuple[str, ...]:
    """One sentence for each secret that cannot be read and each path that does not exist.

    They do not keep an agent from starting, since secrets are read anew for each job.
    """
    return tuple(_unready((), config, environ))


def _unready(path: KeyPath, value: Any, environ: Mapping[str, str]) -> Iterator[str]:
    if isinstance(value, Secret):
        yield from _unread(path, value, environ)
    elif isinstance(value, Path) and path[-1] in _READ and not value.exists():
        yield f"`{dotted(path)}`: {value} does not exist."
    else:
        for key, inner in _inside(value):
            yield from _unready((*path, key), inner, environ)


def _inside(value: Any) -> Iterator[tuple[str | int, Any]]:
    match value:
        case Model():
            yield from values_of(value)
        case dict():
            yield from value.items()
        case tuple():
            yield from enumerate(value)


def _unread(path: KeyPath, secret: Secret, environ: Mapping[str, str]) -> Iterator[str]:
    try:
        secret.read(environ)
    except ConfigError as error:
        yield f"`{dotted(path)}`: {error}"
