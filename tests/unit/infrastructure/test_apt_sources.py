from pathlib import Path

import pytest

from tests.infrastructure import apt_sources
from tests.infrastructure.apt_sources import Source, machine_sources

ONE_LINE = """
# deb http://mirror.invalid/disabled bookworm main
deb [arch=amd64,arm64 signed-by=/keys/a.gpg] http://mirror.invalid/debian bookworm main contrib
deb-src http://mirror.invalid/debian bookworm main
deb http://other.invalid/tool stable main
"""

STANZAS = """\
# a comment
Types: deb deb-src
URIs: http://mirror.invalid/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By:
 -----BEGIN KEY-----
 abc

Types: deb
URIs: http://mirror.invalid/off
Suites: bookworm
Enabled: no
"""


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "sources.list.d").mkdir()
    monkeypatch.setattr(apt_sources, "_APT", tmp_path)
    return tmp_path


def test_one_line_source_keeps_its_trust_when_moved_to_another_suite(apt: Path) -> None:
    (apt / "sources.list").write_text(ONE_LINE)
    debian, tool = machine_sources()
    assert tool.suite_of("bookworm") is False
    assert debian.moved_to("trixie").splitlines() == [
        "types: deb",
        "uris: http://mirror.invalid/debian",
        "suites: trixie",
        "components: main contrib",
        "architectures: amd64 arm64",
        "signed-by: /keys/a.gpg",
    ]


def test_stanza_keeps_an_embedded_key_and_disabled_ones_are_left_out(apt: Path) -> None:
    (apt / "sources.list.d" / "debian.sources").write_text(STANZAS)
    (source,) = machine_sources()
    assert source.suites == ["bookworm", "bookworm-updates"]
    assert source.uri == "http://mirror.invalid/debian"
    moved = source.moved_to("trixie")
    assert "suites: trixie\n" in moved
    assert " -----BEGIN KEY-----\n abc" in moved


def test_files_that_apt_does_not_read_are_not_read(apt: Path) -> None:
    (apt / "sources.list.d" / "off.list.disabled").write_text(ONE_LINE)
    assert machine_sources() == []


@pytest.mark.parametrize(
    ("suites", "belongs"),
    [("bookworm-security", True), ("bookworm/updates", True), ("bookwormish", False)],
)
def test_a_suite_belongs_to_a_release_by_its_first_word(suites: str, belongs: bool) -> None:
    assert Source((("suites", suites),)).suite_of("bookworm") is belongs
