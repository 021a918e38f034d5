"""The manifest and the docs about Kubernetes agree with the code."""

import re
from pathlib import Path

import yaml

from agent.model.cause import Cause
from agent.runners.kubernetes.access import RIGHTS

ROOT = Path(__file__).parents[2]


def test_the_manifest_grants_exactly_the_rights_of_the_agent() -> None:
    documents = yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text())
    (role,) = (each for each in documents if each["kind"] == "Role")
    granted = {
        (verb, resource, group)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert granted == {(right.verb, right.resource, right.group) for right in RIGHTS}


def test_the_docs_say_what_each_right_is_for() -> None:
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    section = text.partition("## Rights")[2].partition("## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert rows == [
        _row(right.verb, right.resource, right.group, right.purpose) for right in RIGHTS
    ]


def _row(verb: str, resource: str, group: str, purpose: str) -> str:
    shown = f"`{resource}`" + (f" (`{group}`)" if group else "")
    return f"| {verb} | {shown} | {purpose} |"


def test_every_cause_that_the_docs_explain_exists_and_what_pods_wait_for_is_explained() -> None:
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    section = text.partition("## When a job does not run")[2]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    told = {name for cell in cells for name in re.findall(r"`([A-Z_]+)`", cell)}
    assert told <= set(Cause)
    pending = (ROOT / "docs" / "causes.md").read_text().partition("## Started, and not running")[2]
    causes = re.findall(r"`([A-Z]+_[A-Z_]+)`", pending.partition("## Codes")[0])
    waited_for = set(causes) - {"SCHEDULE_TIMEOUT"}
    assert len(waited_for) > 10
    assert waited_for - told <= {"LOST_NODE"}
