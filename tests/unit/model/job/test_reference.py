"""References to jobs and to their code, and what is offered for a near miss."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model.errors import InvalidInputError
from agent.model.job import names
from agent.model.job.names import CodeReference, JobReference, parse_reference


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("e/p/n:latest", JobReference("e", "p", "n")),
        ("e/p/n:v3", JobReference("e", "p", "n", "v3")),
        (" e/my project/n:1.2 ", JobReference("e", "my project", "n", "1.2")),
        ("e/p/n", JobReference("e", "p", "n", "latest")),
        ("wandb-artifact://e/p/n:v0", JobReference("e", "p", "n", "v0")),
    ],
)
def test_full_references(text: str, expected: JobReference):
    assert parse_reference(text) == expected


def test_leading_parts_may_be_left_out_where_they_are_known():
    assert parse_reference("n:v1", entity="e", project="p") == JobReference("e", "p", "n", "v1")
    assert parse_reference("q/n", entity="e", project="p") == JobReference("e", "q", "n")
    assert str(parse_reference("n", entity="e", project="p")) == "e/p/n:latest"


def test_versions():
    assert JobReference("e", "p", "n", "v12").version == 12
    assert JobReference("e", "p", "n").version is None
    assert JobReference("e", "p", "n", "v12").job == "e/p/n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n", r"names no entity"),
        ("p/n", r"names no entity"),
        ("", r"names no entity"),
        ("e/p/n:", "'' is not the name of an alias"),
        ("e//n:v1", "'' is not the name of a project"),
        ("e/../n:v1", r"'\.\.' is not the name of a project"),
        ("e/p/n:a:b", "'a:b' is not the name of an alias"),
        ("e/p/jobs/n", "has 4 parts.*Did you mean `e/p/n:latest`"),
        ("e/p/n/v1", "Did you mean `e/p/n:v1`"),
        ("/e/p/n/", "Did you mean `e/p/n:latest`"),
        ("a/b/c/d/e/f", "has 6 parts.*The form is"),
        ("https://host.example/e/p/n:v1", "The form is"),
    ],
)
def test_near_misses(text: str, message: str):
    with pytest.raises(InvalidInputError, match=message):
        parse_reference(text)


def test_an_unknown_project_is_named_where_only_the_entity_is_known():
    with pytest.raises(InvalidInputError, match="names no project"):
        parse_reference("n:v1", entity="e")


PART = st.text(
    st.characters(exclude_characters="/:\\?#%", min_codepoint=33), min_size=1, max_size=9
)


@given(PART, PART, PART, PART)
def test_a_reference_is_read_back(entity: str, project: str, name: str, alias: str):
    parts = (entity, project, name, alias)
    if {".", ".."} & {*parts} or any(part != part.strip() for part in parts):
        return
    written = JobReference(*parts)
    assert parse_reference(str(written)) == written


def test_code_references():
    by_id = CodeReference(id="QXJ0aWZhY3Q6MTM=")
    assert names.parse_code_reference("wandb-artifact://_id/QXJ0aWZhY3Q6MTM=") == by_id
    assert str(by_id) == "wandb-artifact://_id/QXJ0aWZhY3Q6MTM="
    by_name = names.parse_code_reference("wandb-artifact://e/p/code-n:v2")
    assert by_name == CodeReference(name=JobReference("e", "p", "code-n", "v2"))
    assert str(by_name) == "wandb-artifact://e/p/code-n:v2"


@pytest.mark.parametrize(
    "text", ["", "e/p/n:v1", "wandb-artifact://_id/", "wandb-artifact://_id/ x"]
)
def test_other_texts_refer_to_no_code(text: str):
    with pytest.raises(InvalidInputError, match="does not refer to a code artifact"):
        names.parse_code_reference(text)


def test_what_does_not_exist_is_answered_with_the_nearest():
    missing = JobReference("e", "p", "trian", "stabel")
    no_job = names.no_such_job(missing, ["train", "eval"])
    assert str(no_job) == "There is no job `trian` in e/p. Did you mean `train`?"
    no_alias = names.no_such_version(missing, ["stable", "v0"])
    assert str(no_alias) == "The job e/p/trian has no alias `stabel`. Did you mean `stable`?"
    no_version = names.no_such_version(JobReference("e", "p", "n", "v9"), [])
    assert str(no_version) == "The job e/p/n has no version `v9`. There is no version yet."
