"""The log of a process, and the secrets that it must never show."""

from collections.abc import Iterator

from pydantic import SecretStr

from agent.config.agent import AgentConfig
from agent.config.base import Model, SecretReference
from agent.log import LogSetup, configure
from agent.model.errors import ConfigError
from agent.model.redact import Redactor


def start_log(config: AgentConfig) -> Redactor:
    """Direct the log to where the configuration says; gives what removes secrets from it."""
    redactor = Redactor(_secrets(config))
    level = "debug" if config.verbosity and config.log.level == "info" else config.log.level
    configure(LogSetup(level, config.log.format, config.log.file, redactor))
    return redactor


def _secrets(value: object) -> Iterator[str]:
    """Every secret that the configuration holds or refers to, as far as it is there now."""
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
        # Whoever needs it will say so, and name it.
        return
