"""Image references: read, refused, and put together again."""

import pytest

from agent.builders.docker.reference import parse_reference, what_is_wrong

D = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "shown", "pulled", "familiar"),
    [
        ("python", "python:latest", "latest", "python"),
        ("python:3.11-slim", "python:3.11-slim", "3.11-slim", "python"),
        ("docker.io/library/python:3", "docker.io/library/python:3", "3", "python"),
        ("docker.io/org/x", "docker.io/org/x:latest", "latest", "org/x"),
        ("library/python", "library/python:latest", "latest", "python"),
        ("127.0.0.1:5000/a/b:t", "127.0.0.1:5000/a/b:t", "t", "127.0.0.1:5000/a/b"),
        ("Registry.Example/a", "Registry.Example/a:latest", "latest", "Registry.Example/a"),
        (f"a/b@{D}", f"a/b@{D}", D, "a/b"),
        (f"a/b:t@{D}", f"a/b:t@{D}", D, "a/b"),
    ],
)
def test_references_are_read(text, shown, pulled, familiar):
    parsed = parse_reference(text)
    assert parsed is not None
    assert (str(parsed), parsed.pulled_as, parsed.familiar) == (shown, pulled, familiar)
    assert parsed.local == (f"{parsed.repository}@{D}" if D in text else shown)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "write it as"),
        ("-x", "starts with `-`"),
        ("a b", "a space"),
        ("Python", "lower-case"),
        ("Org/python", "lower-case"),
        ("h:5000/Org", "lower-case"),
        ("a:", "write it as"),
        ("a@sha256:short", "write it as"),
        (D, "write it as"),
        ("a//b", "write it as"),
        ("x" * 600, "write it as"),
        ("$x", "write it as"),
    ],
)
def test_what_is_none_is_told_why(text, words):
    assert parse_reference(text) is None
    assert words in what_is_wrong(text)
