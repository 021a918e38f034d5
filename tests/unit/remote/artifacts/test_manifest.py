"""The manifest of a version, written piece by piece: JSON as W&B's client makes it."""

import json
from pathlib import Path
from tempfile import NamedTemporaryFile

import pytest

from agent.model.errors import LaunchError
from agent.model.job.digest import entry_digest
from agent.remote.artifacts.contents import Content, write_manifest

FILES = [Content("a 'ü'\n.py", "d1", 3, "/a"), Content("b", "d2", 0, b"")]


def test_it_names_every_file_and_who_brought_it() -> None:
    with NamedTemporaryFile() as file:
        content = write_manifest(file, FILES, "mine", {"b": "theirs"})
        raw = Path(file.name).read_bytes()
    assert json.loads(raw) == {
        "version": 1,
        "storagePolicy": "wandb-storage-policy-v1",
        "storagePolicyConfig": {"storageLayout": "V2"},
        "contents": {
            "a 'ü'\n.py": {"digest": "d1", "size": 3, "birthArtifactID": "mine"},
            "b": {"digest": "d2", "size": 0, "birthArtifactID": "theirs"},
        },
    }
    assert content == Content("wandb_manifest.json", entry_digest([raw]), len(raw), file.name)


def test_a_version_without_files_has_one_too() -> None:
    with NamedTemporaryFile() as file:
        write_manifest(file, [], "mine", {})
        assert json.loads(Path(file.name).read_bytes())["contents"] == {}


def test_a_full_disk_is_told() -> None:
    with (
        Path("/dev/full").open("wb", buffering=0) as full,
        pytest.raises(LaunchError, match="/dev/full: No space left on device") as told,
    ):
        write_manifest(full, FILES, "mine", {})
    assert "TMPDIR" in str(told.value)
