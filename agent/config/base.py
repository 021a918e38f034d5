"""The base of all configuration models, and values with units, paths and secrets."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from agent.model.errors import ConfigError, InvalidInputError
from agent.model.units import parse_duration, parse_size


@dataclass(frozen=True, slots=True)
class WrittenForm:
    """In a field's annotation: how its values are written, for messages."""

    text: str


#: Validation context for files, variables and flags: numbers need their units there.
WRITTEN: Final[Mapping[str, bool]] = {"written": True}


def _to_seconds(value: object, info: ValidationInfo) -> object:
    if isinstance(value, str):
        return _read(parse_duration, value)
    _refuse_bare(value, info, "30s, 10m, 2h")
    return value


def _to_bytes(value: object, info: ValidationInfo) -> object:
    if isinstance(value, str):
        return _read(parse_size, value)
    _refuse_bare(value, info, "512MiB, 20GiB")
    return value


def _read(parse: Callable[[str], float], text: str) -> object:
    """Pydantic collects `ValueError` only."""
    try:
        return parse(text)
    except InvalidInputError as error:
        raise ValueError(error.message) from None


def _refuse_bare(value: object, info: ValidationInfo, forms: str) -> None:
    if info.context and value and isinstance(value, int | float):
        message = f"the number needs a unit: {forms}"
        raise ValueError(message)


def _to_path(value: object) -> object:
    return Path(value).expanduser() if isinstance(value, str) and value else value


_DURATION: Final = WrittenForm("a duration with its unit, such as 30s, 10m, 2h or 7d")

#: Seconds; written `30s`, `10m`, `2h`.
Duration = Annotated[float, BeforeValidator(_to_seconds), Field(ge=0), _DURATION]
#: Seconds, where W&B's files write a bare number.
Seconds = Annotated[
    float,
    BeforeValidator(lambda v: _read(parse_duration, v) if isinstance(v, str) else v),
    Field(ge=0),
    WrittenForm("a number of seconds, or a duration with its unit, such as 90s or 2m"),
]
#: Bytes; written `512MiB`, `20GiB`.
Size = Annotated[
    int,
    BeforeValidator(_to_bytes),
    Field(ge=0),
    WrittenForm("a size with its unit, such as 512MiB, 20GiB or 10GB"),
]
UserPath = Annotated[Path, BeforeValidator(_to_path), WrittenForm("a path")]


class Model(BaseModel):
    """Base of all configuration models: frozen, and strict about keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_booleans(cls, value: object, info: ValidationInfo) -> object:
        """Pydantic would read `true` as 1."""
        shown = str(cls.model_fields[info.field_name or ""].annotation)
        if isinstance(value, bool) and "bool" not in shown and "Any" not in shown:
            message = "true and false are not accepted here"
            raise ValueError(message)
        return value


class SecretReference(Model):
    """Where a secret is: in exactly one of three places; never printed."""

    value: SecretStr | None = None
    #: Name of an environment variable of the agent.
    env: str | None = None
    #: A file whose content, without the last newline, is the secret.
    file: UserPath | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if sum(place is not None for place in (self.value, self.env, self.file)) != 1:
            message = "give exactly one of `value`, `env` and `file`"
            raise ValueError(message)
        return self

    def read(self, environ: Mapping[str, str] | None = None) -> SecretStr:
        """The value of the secret, read at each call because files are rotated.

        Raises:
            ConfigError: the variable is not set, or the file cannot be read.
        """
        if self.value is not None:
            return self.value
        if self.env is not None:
            variables = os.environ if environ is None else environ
            if self.env not in variables:
                message = f"The environment variable {self.env}, which should hold a secret, "
                hint = "Set it where the agent is started."
                raise ConfigError(message + "is not set.", hint=hint)
            return SecretStr(variables[self.env])
        return read_secret_file(self.file or Path())


def read_secret_file(path: Path) -> SecretStr:
    """The content of a file without its last newline.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        message = f"The secret file {path} cannot be read: {reason}."
        raise ConfigError(message, hint="Check its path and who may read it.") from None
    return SecretStr(text.removesuffix("\n").removesuffix("\r"))
