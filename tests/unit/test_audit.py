"""The check of the locks fails for a vulnerability, and never passes in silence."""

import json
from typing import Any

import pytest

from tests import audit

CLEAN = {"name": "six", "version": "1.17.0", "vulns": []}
SKIPPED = {"name": "own", "skip_reason": "Dependency not found"}
HOLE = {"id": "PYSEC-1", "fix_versions": ["2.0"], "aliases": ["CVE-2026-1"]}
BAD = {"name": "bad", "version": "1.0", "vulns": [HOLE]}


def verdict(*found: dict[str, Any], refuse: bool = False, errors: str = "") -> tuple[int, str]:
    output = json.dumps({"dependencies": found}) if found else ""
    code, lines = audit.verdict(output, errors, required=refuse)
    return code, "\n".join(lines)


def test_a_vulnerability_fails_and_is_named() -> None:
    code, shown = verdict(CLEAN, BAD)
    assert code == 1
    assert "bad 1.0 has PYSEC-1 (fixed in 2.0)" in shown


def test_without_one_it_passes_and_says_how_many_were_looked_at() -> None:
    assert verdict(CLEAN) == (0, "1 packages, no known vulnerability")


@pytest.mark.parametrize("found", [(), (SKIPPED,)])
def test_without_a_database_it_says_so_and_fails_where_the_check_is_required(
    found: tuple[dict[str, Any], ...],
) -> None:
    for refuse in (False, True):
        code, shown = verdict(*found, refuse=refuse, errors="x\nconnection refused")
        assert code == int(refuse)
        assert shown.startswith("NOT CHECKED: no database")


def test_a_package_that_the_database_does_not_know_is_named() -> None:
    assert verdict(CLEAN, SKIPPED)[0] == 0
    code, shown = verdict(CLEAN, SKIPPED, refuse=True)
    assert code == 1
    assert "NOT CHECKED: own" in shown


def test_what_was_accepted_for_a_reason_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(audit.ACCEPTED, "CVE-2026-1", "the function is not used")
    assert verdict(BAD)[0] == 0
