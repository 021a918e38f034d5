"""Compares a lock with known vulnerabilities: `python tests/audit.py requirements.lock …`.

pip-audit asks the database of the package index. Where none can be asked, this check is skipped
with a message, and fails with LAUNCH_AUDIT_REQUIRED=1.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

#: Vulnerabilities that do not concern this product: id -> why.
ACCEPTED: dict[str, str] = {}


def main(locks: list[str]) -> int:
    required = os.environ.get("LAUNCH_AUDIT_REQUIRED") == "1"
    return max(_audit(Path(lock), required=required) for lock in locks)


def _audit(lock: Path, *, required: bool) -> int:
    program = Path(sys.executable).with_name("pip-audit")
    argv = [program, "-r", lock, "--require-hashes", "--disable-pip", "-f", "json"]
    done = subprocess.run(
        [*argv, "--progress-spinner", "off"], check=False, capture_output=True, text=True
    )
    code, lines = verdict(done.stdout, done.stderr, required=required)
    for line in lines:
        print(f"{lock}: {line}")
    return code


def verdict(output: str, errors: str, *, required: bool) -> tuple[int, list[str]]:
    """Exit code and lines to print, from what pip-audit printed."""
    try:
        found: list[dict[str, Any]] = json.loads(output)["dependencies"]
    except (ValueError, KeyError):
        found = []
    audited = [each for each in found if "vulns" in each]
    if not audited:
        last = errors.strip().splitlines()[-1] if errors.strip() and not found else ""
        last = last or "it knows none of the packages"
        why = f"no database of vulnerabilities could be asked ({last})"
        return int(required), [f"NOT CHECKED: {why}"]
    holes = [
        f"{each['name']} {each['version']} has {hole['id']}"
        f" (fixed in {', '.join(hole['fix_versions']) or 'no version'})"
        for each in audited
        for hole in each["vulns"]
        if hole["id"] not in ACCEPTED and not ACCEPTED.keys() & set(hole.get("aliases", ()))
    ]
    unknown = [each["name"] for each in found if "vulns" not in each]
    skipped = [f"NOT CHECKED: {', '.join(unknown)}"] if unknown else []
    summary = [] if holes else [f"{len(audited)} packages, no known vulnerability"]
    code = int(bool(holes or (unknown and required)))
    return code, [*holes, *skipped, *summary]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
