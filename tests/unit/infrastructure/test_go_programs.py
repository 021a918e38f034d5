from pathlib import Path

import pytest

from tests.infrastructure.errors import ServiceError
from tests.infrastructure.go_programs import GoProgram

PROGRAM = GoProgram("example.invalid/tool/cmd/tool", "v1.2.3", "example.invalid/tool.Version")
FAKE = """#!/bin/sh
echo "$@" >>{log}
mkdir -p "$GOPATH/pkg" "$GOBIN"
{end}
"""


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `go` on the path; gives the file that takes its arguments."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    log = tmp_path / "log"
    compiler(tmp_path, 'echo program >"$GOBIN/tool"')
    return log


def compiler(folder: Path, end: str) -> None:
    (folder / "go").write_text(FAKE.format(log=folder / "log", end=end))
    (folder / "go").chmod(0o755)


def test_a_program_is_built_once_and_only_it_is_kept(go: Path) -> None:
    made = PROGRAM.ensure()
    assert made.read_text() == "program\n"
    assert [each.name for each in made.parent.iterdir()] == [made.name]
    assert PROGRAM.ensure() == made
    (asked,) = go.read_text().splitlines()
    assert asked.startswith("install -trimpath ")
    assert "-X example.invalid/tool.Version=v1.2.3" in asked
    assert asked.endswith(" example.invalid/tool/cmd/tool@v1.2.3")


def test_a_build_that_fails_tells_the_compiler_s_words_and_leaves_nothing(
    go: Path, tmp_path: Path
) -> None:
    compiler(tmp_path, "echo no such version >&2; exit 1")
    with pytest.raises(ServiceError, match="no such version"):
        PROGRAM.ensure()
    assert list(PROGRAM.path().parent.iterdir()) == []
    assert go.exists()
