"""Names are total, idempotent, short and stable; own names are checked with a suggestion."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model.errors import InvalidInputError
from agent.model.job import names
from agent.model.job.names import named_remote, stored_remote

SAFE = re.compile(r"[A-Za-z0-9_.-]{0,128}")
LONG = st.text(max_size=400) | st.text("abc/", min_size=100, max_size=400)


@given(LONG)
def test_any_text_becomes_a_safe_name_that_stays_as_it_is(text: str):
    safe = names.safe_name(text)
    assert SAFE.fullmatch(safe)
    assert names.safe_name(safe) == safe


@given(LONG)
def test_only_the_middle_of_a_long_text_is_lost(text: str):
    safe = names.safe_name(text)
    if len(text) <= 128:
        assert len(safe) == len(text)
    else:
        assert len(safe) == 128
        assert safe[:63] == names.safe_name(text[:63])
        assert safe[-63:] == names.safe_name(text[-63:])


@given(LONG, LONG, LONG)
def test_every_default_name_is_safe_whatever_the_source(one: str, two: str, three: str):
    found = [
        names.git_job_name(one, two),
        names.code_artifact_name(one, two),
        names.code_artifact_name(one, two, three),
        names.code_job_name(one, two),
        names.image_job_name(one).job,
    ]
    assert all(SAFE.fullmatch(name) for name in found)
    assert found == [names.safe_name(name) for name in found]


@given(LONG)
def test_an_images_alias_is_one_that_may_be_given(image: str):
    alias = names.image_job_name(image).alias
    assert alias is None or (alias and alias == image.rpartition(":")[2])


def test_names_are_the_documented_ones():
    remote = "https://github.com/o/r.git"
    assert names.git_job_name(remote, "train.py") == "job-https___github.com_o_r.git_train.py"
    assert names.git_job_name(remote, "./a//b.py") == "job-https___github.com_o_r.git_a_b.py"
    assert names.code_artifact_name("any", "python x.py", "hello") == "code-hello"
    assert names.code_job_name(".", "python main.py") == "job-code-main.py"
    assert names.code_job_name("path/to", "python code.py") == "job-code-path_to_code.py"
    registry = "123456789012.dkr.ecr.us-east-1.amazonaws.com/my-image"
    expected = names.ImageName(f"job-{registry.replace('/', '_')}", "develop")
    assert names.image_job_name(f"{registry}:develop") == expected
    plain = names.ImageName("job-localhost_5000_x_y", None)
    assert names.image_job_name("localhost:5000/x/y") == plain


def test_a_git_job_without_a_file_is_named_by_its_remote_alone():
    assert names.git_job_name("git@h:o/r.git", "") == "job-git_h_o_r.git_"


@pytest.mark.parametrize("name", ["train", "a.b-c_D", "x" * 128, "0"])
def test_a_valid_own_name_is_taken_verbatim(name: str):
    assert names.checked_name(name) == name


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("my job", "`my_job`"),
        ("E/P/n:v1", "`E_P_n_v1`"),
        ("ä", "`train-resnet`"),
        ("..", "`train-resnet`"),
        ("", "`train-resnet`"),
        ("x" * 129, f"`{'x' * 63}..{'x' * 63}`"),
    ],
)
def test_an_invalid_own_name_is_refused_with_a_valid_suggestion(name: str, suggestion: str):
    with pytest.raises(InvalidInputError) as refused:
        names.checked_name(name)
    assert suggestion in str(refused.value)
    assert names.checked_name(suggestion.strip("`"))


@given(st.text(max_size=200).filter(lambda text: text != names.safe_name(text)))
def test_whatever_is_suggested_is_valid(name: str):
    with pytest.raises(InvalidInputError) as refused:
        names.checked_name(name)
    suggested = (refused.value.hint or "").split("`")[1]
    assert names.checked_name(suggested) == suggested


def test_the_flag_counts_before_the_environment():
    environment = {"WANDB_JOB_NAME": "from-env"}
    assert names.own_name("by-flag", environment) == "by-flag"
    assert names.own_name(None, environment) == "from-env"
    assert names.own_name("", {"WANDB_JOB_NAME": ""}) is None
    with pytest.raises(InvalidInputError, match="WANDB_JOB_NAME"):
        names.own_name(None, {"WANDB_JOB_NAME": "not good"})


def test_aliases_end_with_latest_and_come_once():
    assert names.aliases_of([]) == ["latest"]
    assert names.aliases_of(["b", "a"], "1.2") == ["b", "a", "1.2", "latest"]
    assert names.aliases_of(["latest", "1.2", "1.2"], "1.2") == ["latest", "1.2"]


@pytest.mark.parametrize("alias", ["", " ", "a/b", "a:b", "v0", "v12", "x" * 129])
def test_an_alias_that_cannot_be_is_refused_with_a_suggestion(alias: str):
    with pytest.raises(InvalidInputError) as refused:
        names.checked_alias(alias)
    assert refused.value.hint is not None
    suggested = refused.value.hint.split("`")[1]
    assert names.checked_alias(suggested) == suggested


@pytest.mark.parametrize("alias", ["latest", "v1.2", "v01", "prod eu", "ä"])
def test_other_aliases_are_free(alias: str):
    assert names.checked_alias(alias) == alias


def test_versions_are_told_from_free_aliases():
    assert [names.version_of(a) for a in ("v0", "v17", "v01", "v", "latest")] == [0, 17] + [
        None
    ] * 3


@pytest.mark.parametrize(
    ("remote", "stored", "named"),
    [
        ("https://u:pw@host/o/r.git", "https://u@host/o/r.git", "https://u:@host/o/r.git"),
        ("https://u:p%40w@h:8443/r", "https://u@h:8443/r", "https://u:@h:8443/r"),
        ("https://:pw@host/r", "https://host/r", "https://:@host/r"),
        ("ssh://git:pw@host:22/r", "ssh://git@host:22/r", "ssh://git:@host:22/r"),
        ("https://user@host/r", "https://user@host/r", "https://user@host/r"),
        ("git@host:org/r.git", "git@host:org/r.git", "git@host:org/r.git"),
        ("https://[broken/r", "https://[broken/r", "https://[broken/r"),
    ],
)
def test_passwords_leave_remotes(remote: str, stored: str, named: str):
    assert stored_remote(remote) == stored
    assert named_remote(remote) == named


@given(st.text(max_size=80))
def test_remotes_of_any_text_stay_texts(remote: str):
    assert stored_remote(stored_remote(remote)) == stored_remote(remote)
    assert isinstance(named_remote(remote), str)
