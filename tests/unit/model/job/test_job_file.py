"""`wandb-job.json`: written as W&B's command line does, read from any client and mended."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model.errors import InvalidInputError
from agent.model.job import job_file
from agent.model.job.job_file import (
    Git,
    JobArtifactSource,
    JobImageSource,
    JobRepoSource,
    read_job_file,
    type_tree,
)

COMMIT = "933a265b7f8a83b90c4a3a7f8aa1c7ea256fc02b"
REMOTE = "https://git.example/acme/demo.git"
CODE = "wandb-artifact://_id/QXJ0aWZhY3Q6MTM="
GIT = {"remote": REMOTE, "commit": COMMIT}


def stored(source_type: str, source: object, **more: object) -> str:
    return json.dumps({"_version": "v0", "source_type": source_type, "source": source, **more})


#: As W&B's library writes it at a run's end, with its known faults.
RECORDED = stored(
    "repo",
    {"git": GIT, "entrypoint": ["pythonCPython 3.11", "train.py"], "notebook": False},
    input_types=type_tree({"lr": 0.1}),
    output_types=type_tree({"_step": 1}),
    runtime="CPython 3.11.7",
)


def test_known_faults_are_mended_and_said():
    reading = read_job_file(RECORDED)
    assert reading.job.runtime == "3.11"
    assert isinstance(reading.job.source, JobRepoSource)
    assert reading.job.source.entrypoint == ["python3.11", "train.py"]
    assert reading.job.input_types == type_tree({"lr": 0.1})
    assert reading.repairs == (
        "runtime 'CPython 3.11.7' is read as 3.11",
        "entry point's word 'pythonCPython 3.11' is read as python3.11",
    )


def test_a_clean_job_needs_no_repair_and_is_written_back_byte_by_byte():
    source = JobRepoSource(git=Git(remote=REMOTE, commit=COMMIT), entrypoint=["python", "a.py"])
    text = job_file.write_job_file(job_file.job_file(source, runtime="3.11"))
    reading = read_job_file(text)
    assert reading.repairs == ()
    assert job_file.write_job_file(reading.job) == text


def test_the_version_tells_of_build_keys():
    git = Git(remote=REMOTE, commit=COMMIT)

    def version(**keys: str) -> str:
        source = JobRepoSource(git=git, entrypoint=["python", "a.py"], **keys)
        text = job_file.write_job_file(job_file.job_file(source, runtime="3.11"))
        found: str = json.loads(text)["_version"]
        return found

    assert version() == version(base_image="org/x") == "v0"
    assert version(build_context="a") == version(dockerfile="D") == "0.17.0"


def test_image_jobs():
    source = JobImageSource(image="org/app:1", entrypoint=["python", "/opt/x.py"])
    text = job_file.write_job_file(job_file.job_file(source, runtime=None))
    assert json.loads(text)["runtime"] == ""
    read = read_job_file(text).job
    assert read.source == source
    assert read.runtime is None


def test_missing_and_empty_keys_have_defaults():
    read = read_job_file(stored("artifact", {"artifact": CODE, "notebook": None}, runtime=None)).job
    assert read.source == JobArtifactSource(artifact=CODE)
    assert read.runtime is None
    assert read.input_types == read.output_types == type_tree({})


def test_an_entry_point_in_one_text_is_split():
    source = {"artifact": CODE, "entrypoint": "python train.py"}
    reading = read_job_file(stored("artifact", source))
    assert isinstance(reading.job.source, JobArtifactSource)
    assert reading.job.source.entrypoint == ["python", "train.py"]
    assert reading.repairs == ("entry point 'python train.py' is split into words",)


def test_unknown_keys_and_marks_are_kept():
    text = stored("repo", {"git": GIT | {"new": 1}, "later": [2]}, _partial=True, future={"x": 3})
    written = json.loads(job_file.write_job_file(read_job_file(text).job))
    assert written["_partial"] is True
    assert written["future"] == {"x": 3}
    assert written["source"]["later"] == [2]
    assert written["source"]["git"]["new"] == 1


def test_passwords_are_not_kept():
    source = {"git": GIT | {"remote": "https://u:secret@git.example/r.git"}}
    read = read_job_file(stored("repo", source)).job
    assert "secret" not in job_file.write_job_file(read)
    assert isinstance(read.source, JobRepoSource)
    assert read.source.git.remote == "https://u@git.example/r.git"


def test_services():
    source = JobImageSource(image="x")
    text = job_file.write_job_file(
        job_file.job_file(source, runtime=None, services={"a": "always", "b": "never"})
    )
    assert read_job_file(text).job.services == {"a": "always", "b": "never"}
    with pytest.raises(InvalidInputError, match=r"`services\.a`: .*always.*never.*seen: 'often'"):
        job_file.job_file(source, runtime=None, services={"a": "often"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", r"holds \[\], not an object"),
        ("{}", "`source_type` is None.*Known"),
        (stored("repos", {}), "`source_type` is 'repos'.*Did you mean `repo`"),
        (stored("repo", {}), r"`source\.git`: Field required"),
        (stored("repo", {"git": {"remote": REMOTE}}), r"`source\.git\.commit`: Field required"),
        (stored("repo", 3), "`source`: .*seen: 3"),
        (stored("artifact", {}), r"`source\.artifact`: Field required"),
        (stored("artifact", {"artifact": "x"}), "'x' does not refer to a code artifact"),
        (stored("image", {}), r"`source\.image`: Field required"),
        (stored("image", {"image": ""}), r"`source\.image`: .*at least 1"),
        (stored("repo", {"git": GIT, "entrypoint": [1]}), r"`source\.entrypoint\.0`"),
        (stored("image", {"image": "x"}, runtime=3.11), r"`runtime` is 3\.11, not a string"),
        (stored("image", {"image": "x"}, runtime="new"), "The job's runtime: 'new'"),
        (stored("image", {"image": "x"}, input_types=[]), "`input_types`"),
        (stored("repo", {"git": GIT, "build_context": "../x"}), "build context '../x' leads out"),
        (stored("repo", {"git": GIT, "dockerfile": "/D"}), "Dockerfile '/D' is an absolute path"),
        (
            stored("repo", {"git": GIT, "entrypoint": ["python", "/etc/x.py"]}),
            "entry point's file '/etc/x.py' is an absolute path",
        ),
    ],
)
def test_what_is_wrong_is_named_by_its_path(text: str, message: str):
    with pytest.raises(InvalidInputError, match=message):
        read_job_file(text)


def test_a_new_job_is_checked_as_a_stored_one_is():
    with pytest.raises(InvalidInputError, match="build context"):
        job_file.job_file(JobArtifactSource(artifact=CODE, build_context=".."), runtime="3.11")


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str):
    with pytest.raises(InvalidInputError):
        read_job_file(text)
