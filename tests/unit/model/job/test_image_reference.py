"""Image references, by the grammar of the OCI distribution specification."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model.errors import InvalidInputError
from agent.model.job.image_reference import ImageReference, parse_image

SHA = "sha256:" + "0a" * 32


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("python", ImageReference(None, "python")),
        ("python:3.11-slim", ImageReference(None, "python", "3.11-slim")),
        ("org/app:main", ImageReference(None, "org/app", "main")),
        ("localhost/x", ImageReference("localhost", "x")),
        ("localhost:5000/x/y", ImageReference("localhost:5000", "x/y")),
        ("127.0.0.1:5000/x:V1", ImageReference("127.0.0.1:5000", "x", "V1")),
        ("[::1]:5000/x", ImageReference("[::1]:5000", "x")),
        ("Host.example/x", ImageReference("Host.example", "x")),
        (f"img@{SHA}", ImageReference(None, "img", None, SHA)),
        (f"h:1/img:1.0@{SHA}", ImageReference("h:1", "img", "1.0", SHA)),
        ("a__b/c-d--e/f.g_h:_x", ImageReference(None, "a__b/c-d--e/f.g_h", "_x")),
        ("img@md5+x:" + "0" * 32, ImageReference(None, "img", None, "md5+x:" + "0" * 32)),
        (
            "123456789012.dkr.ecr.us-east-1.amazonaws.com/my-image:develop",
            ImageReference("123456789012.dkr.ecr.us-east-1.amazonaws.com", "my-image", "develop"),
        ),
    ],
)
def test_references_are_taken_apart_and_put_together(text: str, expected: ImageReference):
    assert parse_image(text) == expected
    assert str(expected) == text


def test_a_digest_decides_also_beside_a_tag():
    assert parse_image(f"img:1.0@{SHA}").pulled_as == SHA
    assert parse_image("img:1.0").pulled_as == "1.0"
    assert parse_image("img").pulled_as == "latest"
    assert parse_image(f"h:1/img:1.0@{SHA}").repository == "h:1/img"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "The image reference is empty"),
        ("two words", "holds white space"),
        ("a\nb", "holds white space"),
        ("https://host/x", "begins with `https://`.*Write `host/x`"),
        ("Org/app:Main", "no upper-case letters.*Did you mean `org/app:Main`"),
        ("host:5000/App", "no upper-case letters.*`host:5000/app`"),
        ("App", "no upper-case letters.*`app`"),
        ("app:", "the tag '' is not valid"),
        ("app:.x", "the tag '.x' is not valid"),
        ("app:" + "x" * 129, "is not valid: 1 to 128"),
        ("a//b", "'a//b' is not the path of a repository"),
        ("a___b", "'a___b' is not the path of a repository"),
        ("-a", "'-a' is not the path of a repository"),
        ("host.x/", "it names no repository"),
        (":tag", "it names no repository"),
        ("h_x.y:1/app", "'h_x.y:1' is not the host"),
        ("host:70000/app", "'70000' is not a port"),
        ("host:0/app", "'0' is not a port"),
        ("img@sha256:00", "'sha256:00' is not a digest"),
        ("img@" + SHA.upper(), "is not a digest"),
        ("img@sha256:" + "0A" * 32, "is not a digest"),
        (f"img@{SHA}@{SHA}", "is not a digest"),
        ("img@", "'' is not a digest"),
        ("0a" * 32, "an image's id, not its name"),
        (SHA, "an image's id, not its name"),
        ("a/" * 127 + "bb", "longer than 255"),
        ("a/" * 500 + "b", "longer than 600"),
    ],
)
def test_what_is_wrong_is_said(text: str, message: str):
    with pytest.raises(InvalidInputError, match=message):
        parse_image(text)


@given(st.text(max_size=40) | st.text("aA0.:/@-_[]", max_size=40))
def test_whatever_is_accepted_is_written_back_as_it_was(text: str):
    try:
        reference = parse_image(text)
    except InvalidInputError:
        return
    assert str(reference) == text
    assert parse_image(str(reference)) == reference
