"""Image references: as the engine is asked for them, and as it shows them."""

import pytest

from agent.builders.image.references import familiar, is_reference, local_name, read_reference
from agent.model.cause import Cause
from agent.model.errors import JobError

D = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "shown", "pulled", "named"),
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
def test_references_are_read(text, shown, pulled, named):
    image = read_reference(text)
    assert (str(image), image.pulled_as, familiar(image)) == (shown, pulled, named)
    assert local_name(image) == (f"{image.repository}@{D}" if D in text else shown)
    assert is_reference(text)


@pytest.mark.parametrize("text", ["", "-x", "a b", "Python", "Org/python", "a:", D, "a//b", "$x"])
def test_what_is_none_is_told_why(text):
    assert not is_reference(text)
    with pytest.raises(JobError, match=r"image reference|image's id") as caught:
        read_reference(text)
    assert caught.value.cause is Cause.SOURCE_INVALID
    assert caught.value.hint
