"""The log of a process, and the secrets that must not appear in it."""

from collections.abc import Iterator

from pydantic import SecretStr

from agent.config.agent import AgentConfig
from agent.config.base import Model, SecretReference
from agent.log import LogSetup, configure
from agent.model.errors import ConfigError
from agent.model.redact import Redactor


def configure_log(config: AgentConfig) -> Redactor:
    """Configure the process's log; returns its redactor, to which secrets can be added."""
    redactor = Redactor(_secrets(config))
    level = "debug" if config.verbosity and config.log.level == "info" else config.log.level
    configure(LogSetup(level, config.log.format, config.log.file, redactor))
    return redactor


def _secrets(value: object) -> Iterator[str]:
    """Every secret in the configuration, and those it refers to that can be read now."""
    match value:
        case SecretStr():
            yield value.get_secret_value()
        case SecretReference():
            yield from _read(value)
        case Model():
            for _, field in value:
                yield from _secrets(field)
        case dict():
            for item in value.values():
                yield from _secrets(item)
        case tuple():
            for item in value:
                yield from _secrets(item)


def _read(reference: SecretReference) -> Iterator[str]:
    try:
        yield reference.read().get_secret_value()
    except ConfigError:
        # Reported where the secret is needed.
        return
