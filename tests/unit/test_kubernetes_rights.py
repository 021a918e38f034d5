"""The rights that the agent asks for are the ones that the manifest grants and the docs explain."""

from pathlib import Path

import yaml

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
