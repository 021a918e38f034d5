"""config.example.yaml is documentation that a machine reads."""

import re
from pathlib import Path

import pytest

from agent.config.agent import AgentConfig
from agent.config.document import parse_document
from agent.config.load import load
from agent.config.schema import key_paths

EXAMPLE = Path(__file__).parents[3] / "config.example.yaml"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path)}


def uncommented() -> str:
    """The example with every `#key: value` in force; prose has a space after its `#`."""
    return re.sub(r"^( *)#(?=[^ #\n-]|- )", r"\1", EXAMPLE.read_text(), flags=re.MULTILINE)


def test_the_example_is_accepted_as_it_is(environment: dict[str, str]) -> None:
    assert load(environment, file=EXAMPLE).config.queues == ("default",)


def test_everything_that_the_example_shows_is_accepted(
    environment: dict[str, str], tmp_path: Path
) -> None:
    whole = tmp_path / "whole.yaml"
    whole.write_text(uncommented())
    config = load(environment, file=whole).config
    assert config.server is not None
    assert config.mounts["datasets"].target == "/data"


def test_the_example_shows_every_key() -> None:
    shown = parse_document(uncommented(), EXAMPLE.name).data
    missing = [path for path in key_paths(AgentConfig) if not _has(shown, path)]
    assert missing == []


def test_active_values_of_the_example_are_the_defaults(
    environment: dict[str, str], tmp_path: Path
) -> None:
    empty = tmp_path / "empty.yaml"
    empty.write_text("queues: [default]\n")
    assert load(environment, file=EXAMPLE).config == load(environment, file=empty).config


def test_commented_defaults_are_the_defaults(environment: dict[str, str], tmp_path: Path) -> None:
    """Commented keys show the default, unless they need an example to say anything."""
    whole = tmp_path / "whole.yaml"
    whole.write_text(uncommented())
    shown = load(environment, file=whole).config
    default = load({"HOME": str(Path.home())}, file=tmp_path / "whole.yaml").config
    assert shown.control.lease == AgentConfig().control.lease == default.control.lease
    assert shown.prune == AgentConfig().prune
    assert shown.stopped_run_timeout == AgentConfig().stopped_run_timeout


def _has(value: object, path: tuple[str, ...]) -> bool:
    if not path:
        return True
    first, *rest = path
    if first == "*":
        items = list(value.values()) if isinstance(value, dict) else value
        return isinstance(items, list) and any(_has(item, tuple(rest)) for item in items)
    return isinstance(value, dict) and first in value and _has(value[first], tuple(rest))
