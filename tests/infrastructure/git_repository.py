"""The repositories that the Git servers hold; the same commits every time they are made."""

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .process import run

MONOREPO = "monorepo.git"
LIBRARY = "library.git"

_FILES = Path(__file__).with_name("monorepo")
_FIRST_DATE = 1_700_000_000
_GREETING = "hello from the first commit"
#: The content of branch `with-lfs`'s file in Git LFS, longer than any pointer.
WEIGHTS = b"0.25 0.5 0.75\n" * 1000


@dataclass
class _Author:
    """A work tree in which commits are made, each with a fixed date and author."""

    tree: Path
    made: int = 0
    commits: dict[str, str] = field(default_factory=dict)

    def git(self, *arguments: str | Path) -> str:
        date = f"{_FIRST_DATE + self.made * 60} +0000"
        environment = {
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_DATE": date,
            "GIT_COMMITTER_DATE": date,
            **{f"GIT_{role}_NAME": "Launch Tests" for role in ("AUTHOR", "COMMITTER")},
            **{f"GIT_{role}_EMAIL": "tests@localhost" for role in ("AUTHOR", "COMMITTER")},
        }
        return run(["git", *arguments], env=environment, cwd=self.tree)

    def commit(self, message: str, name: str = "") -> str:
        """Commit everything in the tree; under `name` the commit is told to the tests."""
        self.made += 1
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        commit = self.git("rev-parse", "HEAD")
        if name:
            self.commits[name] = commit
        return commit

    def say(self, greeting: str) -> None:
        """Let the hello_world job print another greeting, by which tests know the commit."""
        job = self.tree / "jobs/hello_world/job.py"
        text = job.read_text()
        before = text[text.index("GREETING = ") :].splitlines()[0]
        job.write_text(text.replace(before, f'GREETING = "{greeting}"'))


def make(directory: Path) -> Mapping[str, str]:
    """Make both bare repositories in `directory`; return the commits by name."""
    with tempfile.TemporaryDirectory() as scratch:
        library = _library(Path(scratch) / "library", directory / LIBRARY)
        author = _Author(Path(scratch) / "monorepo")
        author.tree.mkdir()
        _history(author, library)
        _publish(author, directory / MONOREPO)
        _store_large(directory / MONOREPO, WEIGHTS)
    return {**author.commits, "library": library}


def _history(author: _Author, library: str) -> None:
    author.git("init", "--quiet", "--initial-branch=main")
    shutil.copytree(_FILES / "jobs/hello_world", author.tree / "jobs/hello_world")
    author.say(_GREETING)
    author.commit("Add a job that says hello", "first")
    author.say("hello from v1.0")
    author.commit("Greet from the first release", "v1.0")
    author.git("tag", "v1.0")
    shutil.copytree(_FILES / "jobs/train", author.tree / "jobs/train")
    author.commit("Add a job that trains", "second")
    author.say("hello from v1.2")
    author.commit("Greet from the second release", "v1.2")
    author.git("tag", "--annotate", "--message", "Second release", "v1.2")
    _branch(author, "develop")
    _branch(author, "feature/longer-training")
    _branch(author, "abandoned")
    author.git("switch", "--quiet", "main")
    author.say("hello from main")
    author.commit("Greet from the main branch", "main")
    author.git("switch", "--quiet", "--create", "with-submodule")
    modules = '[submodule "library"]\n\tpath = library\n\turl = ../library.git\n'
    (author.tree / ".gitmodules").write_text(modules)
    author.git("update-index", "--add", "--cacheinfo", f"160000,{library},library")
    (author.tree / "library").mkdir()
    author.commit("Use the library as a submodule", "with-submodule")
    author.git("switch", "--quiet", "main")
    author.git("switch", "--quiet", "--create", "with-lfs")
    shutil.copytree(_FILES / "jobs/weights", author.tree / "jobs/weights")
    (author.tree / "jobs/weights/.gitattributes").write_text("*.bin filter=lfs diff=lfs -text\n")
    (author.tree / "jobs/weights/weights.bin").write_text(_pointer(WEIGHTS))
    author.commit("Keep weights in Git LFS", "with-lfs")
    author.git("switch", "--quiet", "main")


def _pointer(content: bytes) -> str:
    """What a commit holds of a file whose content is in Git LFS."""
    digest = hashlib.sha256(content).hexdigest()
    version = "https://git-lfs.github.com/spec/v1"
    return f"version {version}\noid sha256:{digest}\nsize {len(content)}\n"


def _store_large(repository: Path, content: bytes) -> None:
    """Put a content where the server looks for it."""
    digest = hashlib.sha256(content).hexdigest()
    place = repository / "lfs" / digest
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(content)


def _branch(author: _Author, name: str) -> None:
    author.git("switch", "--quiet", "--create", name, "v1.2")
    author.say(f"hello from {name}")
    author.commit(f"Greet from {name}", name)


def _library(tree: Path, target: Path) -> str:
    author = _Author(tree)
    tree.mkdir()
    author.git("init", "--quiet", "--initial-branch=main")
    (tree / "library.py").write_text('NAME = "library"\n')
    commit = author.commit("Add the library")
    _publish(author, target)
    return commit


def _publish(author: _Author, target: Path) -> None:
    author.git("init", "--quiet", "--bare", "--initial-branch=main", target)
    author.git("push", "--quiet", "--mirror", target)
    for name, value in (
        ("uploadpack.allowAnySHA1InWant", "true"),
        ("uploadpack.allowFilter", "true"),
        ("gc.auto", "0"),
    ):
        author.git("--git-dir", target, "config", name, value)
    # The commit stays, as after a forced push: reachable by its name alone.
    author.git("--git-dir", target, "update-ref", "-d", "refs/heads/abandoned")
