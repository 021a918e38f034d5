"""`.dockerignore` as BuildKit reads it; the engine itself is asked in the integration tests."""

import pytest

from agent.builders.image.content_key import tree_digest
from agent.builders.image.ignore import Ignore, ignore_text
from agent.system.tasks import Stop


@pytest.mark.parametrize(
    ("rules", "path", "excluded"),
    [
        ("data", "data", True),
        ("data", "sub/data", False),
        ("/data/", "data", True),
        ("**/data", "sub/data", True),
        ("*.log", "a.log", True),
        ("*.log", "sub/a.log", False),
        ("**/*.log", "sub/deep/a.log", True),
        ("a?c", "abc", True),
        ("a?c", "a/c", False),
        ("[ab].txt", "b.txt", True),
        ("data/**", "data/x/y", True),
        ("# data", "data", False),
        ("*\n!main.py", "main.py", False),
        ("*\n!main.py", "other.py", True),
        ("data\n!data/keep", "data/keep", False),
        ("data\n!data/keep", "data/lose", True),
        ("!data\ndata", "data", True),
        ("./data", "data", True),
        ("a.b", "aXb", False),
        ("\\!x", "!x", True),
        ("", "x", False),
        (".", "x", False),
        ("[", "x", False),
    ],
)
def test_rules(rules, path, excluded):
    assert Ignore(rules).excludes(path) is excluded


def test_what_is_never_code_stays_behind_whatever_the_job_says():
    found = ("wandb", "a [b]/env*")
    rules = Ignore(ignore_text("!.git\n!wandb\n!**/.venv\n", found))
    for path in (".git", "wandb", "sub/.venv", "pkg/__pycache__", "a [b]/env*"):
        assert rules.excludes(path)
    for path in ("sub/wandb", "a [b]/envs", "a b/env"):
        assert not rules.excludes(path)


def test_secrets_stay_behind_unless_the_job_lets_one_in():
    assert Ignore(ignore_text("")).excludes("deep/.env")
    assert Ignore(ignore_text("")).excludes("id_rsa")
    rules = Ignore(ignore_text("!.env\n"))
    assert not rules.excludes(".env")
    assert rules.excludes("deep/.env")


def test_the_digest_counts_what_is_sent_and_nothing_else(tmp_path):
    (tmp_path / "data/keep").mkdir(parents=True)
    (tmp_path / "data/big").write_text("1")
    (tmp_path / "main.py").write_text("1")

    def digest(rules):
        return tree_digest(tmp_path, everything=True, stop=Stop(), ignore=Ignore(rules))

    plain, kept = digest("data"), digest("data\n!data/keep")
    (tmp_path / "data/big").write_text("2")
    assert digest("data") == plain
    assert digest("data\n!data/keep") == kept
    (tmp_path / "data/keep/x").write_text("3")
    assert digest("data") == plain
    assert digest("data\n!data/keep") != kept
    (tmp_path / "main.py").write_text("2")
    assert digest("data") != plain
