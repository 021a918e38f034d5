"""What every configuration model shares: frozen, strict about keys, units in texts."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from agent.model.units import parse_duration, parse_size


def _to_seconds(value: object) -> object:
    return parse_duration(value) if isinstance(value, str) else value


def _to_bytes(value: object) -> object:
    return parse_size(value) if isinstance(value, str) else value


#: Seconds; written `30s`, `10m`, `2h`.
Duration = Annotated[float, BeforeValidator(_to_seconds), Field(ge=0)]
#: Bytes; written `512MiB`, `20GiB`.
Size = Annotated[int, BeforeValidator(_to_bytes), Field(ge=0)]
UserPath = Annotated[Path, BeforeValidator(lambda v: Path(v).expanduser() if v else v)]


class Model(BaseModel):
    """Base of all configuration models; unknown keys are refused by `agent.config.load`."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Secret(Model):
    """A secret by exactly one of three ways; never printed."""

    value: SecretStr | None = None
    #: Name of an environment variable of the agent.
    env: str | None = None
    #: A file whose content, without the last newline, is the secret.
    file: UserPath | None = None
