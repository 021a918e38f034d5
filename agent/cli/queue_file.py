"""A queue described in a file or on flags."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from agent.cli.values import mapping_from
from agent.config.document import Document, read_document
from agent.model.errors import InvalidInputError
from agent.model.names import did_you_mean

Json = dict[str, Any]

_KEYS: Final = (
    "name",
    "resource",
    "resource_args",
    "config",
    "template_variables",
    "prioritization",
)


@dataclass(frozen=True, slots=True)
class QueueFile:
    """What was said about a queue; `None` was not said."""

    name: str | None = None
    resource: str | None = None
    config: Json | None = None
    template_variables: Json | None = None
    prioritization: bool | None = None

    def fields(self) -> Json:
        """As the wire's `SaveLaunchQueueInput` names them; only what was said."""
        mode = None if self.prioritization is None else "V0" if self.prioritization else "DISABLED"
        every = {
            "resource": self.resource,
            "config": self.config,
            "templateVariables": self.template_variables,
            "prioritizationMode": mode,
        }
        return {key: value for key, value in every.items() if value is not None}


def read_queue_file(
    file: Path | None, config: str | None, resource: str | None, *, prioritization: bool | None
) -> QueueFile:
    """A file, then the flags on top of it.

    Raises:
        InvalidInputError: names file, line and key.
    """
    described = _from_document(read_document(file)) if file else QueueFile()
    if config is not None:
        described = replace(described, config=mapping_from(config, "--config"))
    if resource is not None:
        described = replace(described, resource=resource)
    if prioritization is not None:
        described = replace(described, prioritization=prioritization)
    return described


def _from_document(document: Document) -> QueueFile:
    for key in document.data:
        if key not in _KEYS:
            message = f"{document.place((key,))}: unknown key `{key}`."
            raise InvalidInputError(message, hint=did_you_mean(key, _KEYS, "key"))
    config = _config(document)
    arguments = (config or {}).get("resource_args")
    resource = _text(document, "resource")
    if resource is None and isinstance(arguments, dict) and len(arguments) == 1:
        resource = next(iter(arguments))
    return QueueFile(
        name=_text(document, "name"),
        resource=resource,
        config=config,
        template_variables=_mapping(document, "template_variables"),
        prioritization=_switch(document, "prioritization"),
    )


def _config(document: Document) -> Json | None:
    """The template: W&B's whole `config`, or its one part `resource_args`."""
    whole, arguments = _mapping(document, "config"), _mapping(document, "resource_args")
    if whole is not None and arguments is not None:
        message = f"{document.place(('resource_args',))}: `resource_args` is there twice."
        raise InvalidInputError(message, hint="Keep it here, or inside `config`.")
    return whole if arguments is None else {"resource_args": arguments}


def _text(document: Document, key: str) -> str | None:
    value = document.data.get(key)
    if value is not None and not isinstance(value, str):
        raise _wrong(document, key, "a text")
    return value


def _mapping(document: Document, key: str) -> Json | None:
    value = document.data.get(key)
    if value is not None and not isinstance(value, dict):
        raise _wrong(document, key, "a mapping of `key: value`")
    return value


def _switch(document: Document, key: str) -> bool | None:
    value = document.data.get(key)
    if value is not None and not isinstance(value, bool):
        raise _wrong(document, key, "`true` or `false`")
    return value


def _wrong(document: Document, key: str, form: str) -> InvalidInputError:
    seen = document.data[key]
    message = f"{document.place((key,))}: `{key}`: seen `{seen}`; expected {form}."
    return InvalidInputError(message)
