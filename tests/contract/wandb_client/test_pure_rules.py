"""Names, digests and type trees are those that W&B's client 0.31.0 computes."""

import hashlib
import string

import pytest

from agent.model.job import digest, entry_point, names
from agent.model.job.job_file import type_tree
from tests.contract.wandb_client.environment import WandbClient

TEXTS = [
    "",
    "plain",
    "job-https://github.com/o/r.git_train.py",
    "Ünïcode und Leerzeichen",
    "日本語/名前",
    "a" * 128,
    "a" * 129,
    "x/" * 100,
    string.printable,
    "emoji 🚀" * 30,
    "line\n" * 40,
]


@pytest.mark.parametrize("text", TEXTS)
def test_safe_names_are_the_same(wandb_client: WandbClient, text: str):
    assert names.safe_name(text) == wandb_client.call("safe_name", name=text)


@pytest.mark.parametrize(
    ("directory", "entry_point_text"),
    [
        (".", "python main.py"),
        ("./", "python main.py"),
        ("./src", "python train.py --lr 1"),
        ("path/to/dir", "python main.py"),
        ("/abs/dir/", "python main.py"),
        ("../sibling", "python main.py"),
        ("my code/decode", "bash run.sh"),
        ("dir", "main.py"),
        ("dir", "python -m package.module"),
        ("dir", "python main.py --out /tmp/out/"),
        ("a./b", "python ./x/./y.py"),
    ],
)
def test_code_artifacts_are_named_alike(
    wandb_client: WandbClient, directory: str, entry_point_text: str
):
    last = entry_point_text.rsplit(" ", maxsplit=1)[-1]
    path = last if last.startswith("/") else f"{directory.rstrip('/')}/{last}"
    theirs = wandb_client.call("code_artifact_name", path=path, name=None)
    assert names.code_artifact_name(directory, entry_point_text) == theirs


def test_a_jobs_own_name_names_its_code(wandb_client: WandbClient):
    theirs = wandb_client.call("code_artifact_name", path="any", name="hello")
    assert names.code_artifact_name("any", "python x.py", "hello") == theirs == "code-hello"


@pytest.mark.parametrize(
    "image",
    [
        "repo/name:tag",
        "repo/name",
        "python:3.11-slim",
        "localhost:5000/x/y",
        "localhost:5000/x/y:1.2",
        "port:5000:1000/1000/test/p:alias1",
        "123456789012.dkr.ecr.us-east-1.amazonaws.com/my-image:develop",
        "img@sha256:" + "a1" * 32,
        "img:1.0@sha256:" + "b2" * 32,
        "org/job_hello_world:main",
        "image:",
        "image:bad tag",
        "x:5000/y:5000",
    ],
)
def test_image_jobs_are_named_alike_and_take_the_same_alias(wandb_client: WandbClient, image: str):
    files = {"requirements.txt": ""}
    metadata = {"python": "", "docker": image}
    theirs = wandb_client.call(
        "from_run", files=files, metadata=metadata, settings={"job_source": "image"}
    )
    ours = names.image_job_name(image)
    assert ours.job == theirs["name"]
    assert ([ours.alias] if ours.alias else []) == theirs["aliases"]


@pytest.mark.parametrize(
    ("remote", "program"),
    [
        ("https://github.com/o/r.git", "train.py"),
        ("https://host.example:8443/org/repo.git", "jobs/hello/job.py"),
        ("git@host.example:org/repo.git", "train.py"),
        ("ssh://host.example/org/repo.git", "a b/ü.py"),
        ("https://host.example/" + "long/" * 40 + "r.git", "train.py"),
    ],
)
def test_git_jobs_are_named_as_a_run_in_a_checkout_names_them(
    wandb_client: WandbClient, remote: str, program: str
):
    metadata = {
        "python": "3.11.7",
        "codePath": program,
        "git": {"remote": remote, "commit": "0" * 40},
    }
    theirs = wandb_client.call("from_run", files={"requirements.txt": ""}, metadata=metadata)
    assert names.git_job_name(remote, program) == theirs["name"]


@pytest.mark.parametrize(
    "remote",
    ["https://user:secret@host.example/o/r.git", "https://u:p%40w@HOST.example:8443/o/r.git"],
)
def test_a_password_leaves_the_name_as_in_a_run(wandb_client: WandbClient, remote: str):
    recorded = wandb_client.call("without_password", url=remote)
    assert names.named_remote(remote) == recorded
    assert names.git_job_name(remote, "x.py") == names.git_job_name(recorded, "x.py")


@pytest.mark.parametrize(
    "words",
    [
        ["python", "main.py"],
        ["main.py"],
        ["run.sh", "--x"],
        ["bash", "run.sh"],
        ["python3.11", "jobs/train.py", "--lr", "0.1"],
    ],
)
def test_the_file_of_a_plain_entry_point_is_the_same(wandb_client: WandbClient, words: list[str]):
    assert entry_point.script_of(words) == wandb_client.call("entry_point_file", entrypoint=words)


def b64(content: bytes) -> str:
    return digest.encoded(hashlib.md5(content).digest())


@pytest.mark.parametrize(
    "entries",
    [
        {},
        {"wandb-job.json": b64(b"{}"), "requirements.frozen.txt": b64(b"")},
        {"b": b64(b"1"), "a": b64(b"2"), "a/b": b64(b"3"), "a.b": b64(b"4"), "B": b64(b"5")},
        {"ä": b64(b"1"), "zz": b64(b"2"), "日本": b64(b"3"), "🚀": b64(b"4"), "\uffee": b64(b"5")},
    ],
)
def test_artifacts_have_the_same_digest(wandb_client: WandbClient, entries: dict[str, str]):
    theirs = wandb_client.call("manifest_digest", entries=entries)
    assert digest.manifest_digest(entries) == theirs
    assert digest.manifest_digest(dict(reversed(entries.items()))) == theirs


@pytest.mark.parametrize("content", [b"", b"wandb", bytes(range(256)) * 5000])
def test_files_have_the_same_digest(wandb_client: WandbClient, tmp_path, content: bytes):
    file = tmp_path / "file"
    file.write_bytes(content)
    theirs = wandb_client.call("file_digest", path=str(file))
    ours = digest.entry_digest([content[:100], content[100:]])
    assert ours == theirs
    assert digest.decoded(ours).hex() == wandb_client.call("hex_of", string=theirs)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"lr": 0.1, "epochs": 10, "name": "x", "on": True, "nothing": None},
        {"nested": {"a": {"b": 1}}},
        {"list": [1, 2.5, 3], "words": ["a"], "flags": [True, False], "none": []},
        {"lists": [[1, 2], [3, 4]]},
        {"tables": [{"a": 1}]},
    ],
)
def test_type_trees_are_the_same(wandb_client: WandbClient, value: object):
    assert type_tree(value) == wandb_client.call("type_tree", value=value)
