"""The log of a process, and the secrets that must not appear in it."""

from collections.abc import Iterator
from contextlib import suppress

from pydantic import SecretStr

from agent.config.agent import AgentConfig
from agent.config.base import Model, SecretReference
from agent.log import configure
from agent.model.errors import ConfigError
from agent.model.redact import Redactor


def configure_log(config: AgentConfig) -> Redactor:
    """Configure the process's log; returns its redactor, to which secrets can be added."""
    redactor = Redactor(_secrets(config))
    level = "debug" if config.verbosity and config.log.level == "info" else config.log.level
    configure(redactor, level=level, layout=config.log.format, file=config.log.file)
    return redactor


def _secrets(value: object) -> Iterator[str]:
    """Every secret in the configuration, and those it refers to that can be read now."""
    match value:
        case SecretStr():
            yield value.get_secret_value()
        case SecretReference():
            # An error is reported where the secret is needed.
            with suppress(ConfigError):
                yield value.read().get_secret_value()
        case Model():
            for _, field in value:
                yield from _secrets(field)
        case dict():
            for item in value.values():
                yield from _secrets(item)
        case tuple():
            for item in value:
                yield from _secrets(item)
