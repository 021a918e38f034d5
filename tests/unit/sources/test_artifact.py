"""Code artifacts: whole trees, inside only, each content fetched once."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from agent.config.execution import CodeConfig
from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.model.spec import ArtifactSource
from agent.ports.artifact import ArtifactEntry
from agent.sources.artifact import ArtifactFetcher
from agent.testing.builder_suite import RecordingLog
from tests.infrastructure.artifacts import ArtifactShelf, md5

FILES = {
    "main.py": b"print('hello')\n",
    "pkg/data.bin": bytes(range(256)) * 10_000,
    "pkg/again.bin": bytes(range(256)) * 10_000,
    "empty": b"",
    ".git/config": b"never",
    "wandb/run/log": b"never",
}


@pytest.fixture
def shelf():
    return ArtifactShelf()


@pytest.fixture
def fetch(shelf, tmp_path):
    with ThreadPoolExecutor(2) as threads:
        count = iter(range(100))

        async def run(artifact, entity="team", **config):
            fetcher = ArtifactFetcher(shelf, CodeConfig(**config), tmp_path / "cache", threads)
            into = tmp_path / f"into{next(count)}"
            into.mkdir()
            source = ArtifactSource(artifact=f"wandb-artifact://_id/{artifact}")
            return await fetcher.fetch(source, entity, into, RecordingLog())

        yield run


async def test_a_code_artifact_becomes_a_tree_without_what_is_never_code(shelf, fetch):
    made = shelf.put("code-train", FILES, "code")
    tree = await fetch(made.id)
    found = {p.relative_to(tree.root).as_posix(): p.read_bytes()
             for p in tree.root.rglob("*") if p.is_file()}  # fmt: skip
    assert found == {name: data for name, data in FILES.items() if data != b"never"}
    assert tree.identity == "artifact@people/things/code-train:v0"


async def test_the_second_time_nothing_is_sent_and_a_job_may_write_to_its_copy(shelf, fetch):
    made = shelf.put("code-train", FILES, "code")
    tree = await fetch(made.id)
    (tree.root / "main.py").write_text("changed")
    shelf.read_files.clear()
    again = await fetch(made.id)
    assert shelf.read_files == []
    assert (again.root / "main.py").read_bytes() == FILES["main.py"]


async def test_another_entity_reads_its_own(shelf, fetch):
    made = shelf.put("code-train", {"a": b"x"}, "code")
    await fetch(made.id)
    await fetch(made.id, entity="other/../team")
    assert shelf.read_files == ["a", "a"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("../evil", "leads out of the artifact"),
        ("/etc/passwd", "leads out of the artifact"),
        ("a/../../b", "leads out"),
        ("a//b", "not in its shortest form"),
        ("a\0b", "is not a path"),
    ],
)
async def test_paths_that_lead_out_are_refused_before_a_byte(shelf, fetch, path, words):
    made = shelf.put("code-train", {path: b"x"}, "code")
    with pytest.raises(JobError) as caught:
        await fetch(made.id)
    assert caught.value.cause is Cause.SOURCE_INVALID
    assert words in caught.value.message
    assert "people/things/code-train:v0" in caught.value.message
    assert shelf.read_files == []


async def test_limits_references_and_foreign_digests_are_named(shelf, fetch):
    made = shelf.put("code-train", {"a": b"xx", "b": b"yy"}, "code")
    with pytest.raises(JobError, match=r"sources\.code\.max_size"):
        await fetch(made.id, max_size=3)
    with pytest.raises(JobError, match=r"it has 2 files, .*max_files"):
        await fetch(made.id, max_files=1)
    elsewhere = replace(made, entries={"a": ArtifactEntry("a", "etag", 2, "s3://bucket/a")})
    shelf.by_id[made.id] = elsewhere
    with pytest.raises(JobError, match="'a' is a reference to another store"):
        await fetch(made.id)
    shelf.by_id[made.id] = replace(made, entries={"a": ArtifactEntry("a", "etag", 2)})
    with pytest.raises(JobError, match="is not a digest"):
        await fetch(made.id)


async def test_a_kept_content_is_no_larger_than_its_entry_says(shelf, fetch, tmp_path):
    """Else a version could list a large one many times as empty, and fill the disk."""
    await fetch(shelf.put("code-train", {"big": b"x" * 5000}, "code").id)
    made = shelf.put("code-evil", {"a": b"x" * 5000}, "code")
    lying = {path: ArtifactEntry(path, md5(b"x" * 5000), 0) for path in ("a", "b")}
    shelf.by_id[made.id] = replace(made, entries=lying)

    async def longer(artifact, path):
        raise JobError(Cause.SOURCE_INVALID, f"'{path}' is longer than the 0 bytes recorded.")
        yield b""

    shelf.read = longer
    with pytest.raises(JobError, match="is longer than the 0 bytes recorded"):
        await fetch(made.id, max_size=6000)
    assert [path for path in (tmp_path / "into1").rglob("*") if path.is_file()] == []


async def test_a_file_that_is_also_a_folder_is_refused(shelf, fetch):
    made = shelf.put("code-train", {"a": b"x", "a/b": b"y"}, "code")
    with pytest.raises(JobError, match="'a' of the code cannot be written"):
        await fetch(made.id)


async def test_what_is_not_there_is_told(fetch):
    with pytest.raises(JobError, match="not on the server") as caught:
        await fetch("nowhere")
    assert caught.value.cause is Cause.SOURCE_NOT_FOUND


async def test_a_broken_download_leaves_nothing_in_the_cache(shelf, fetch, tmp_path):
    made = shelf.put("code-train", {"a": b"x" * 5000}, "code")

    class CutError(Exception):
        pass

    async def cut(artifact, path):
        yield b"x" * 10
        raise CutError

    shelf.read = cut
    with pytest.raises(CutError):
        await fetch(made.id)
    assert [p for p in (tmp_path / "cache").rglob("*") if p.is_file()] == []
    assert md5(b"x" * 5000) == made.entries["a"].digest


async def test_names_that_are_no_paths_elsewhere_are_files_like_others(shelf, fetch):
    """Office programs leave `~$draft.docx`; that is neither a home folder nor a drive here."""
    odd = {"~$draft.docx": b"1", "C:notes": b"2", "a\\b": b"3", "a:b?#%": b"4"}
    tree = await fetch(shelf.put("code-train", odd, "code").id)
    assert {p.name: p.read_bytes() for p in tree.root.iterdir()} == odd
