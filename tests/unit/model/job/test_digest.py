"""Digests of files and artifacts."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model.errors import InvalidInputError
from agent.model.job import digest


def test_recorded_digests():
    """From a recording of W&B's client: `requirements.frozen.txt`, empty and with `wandb`."""
    assert digest.entry_digest([]) == "1B2M2Y8AsgTpgAmY7PhCfg=="
    assert digest.entry_digest([b"wan", b"db"]) == "MSEXWHYorxdO5ooMoNrpSg=="


def test_an_artifact_is_the_sorted_list_of_its_entries():
    listed = b"wandb-artifact-manifest-v1\na:1\na.b:2\na/b:3\n"
    expected = hashlib.md5(listed).hexdigest()
    assert digest.manifest_digest({"a/b": "3", "a": "1", "a.b": "2"}) == expected


@given(st.dictionaries(st.text(), st.text("ab=", min_size=1)), st.randoms())
def test_the_order_of_entries_does_not_matter(entries: dict[str, str], chance):
    shuffled = list(entries.items())
    chance.shuffle(shuffled)
    assert digest.manifest_digest(dict(shuffled)) == digest.manifest_digest(entries)


@given(st.binary(min_size=16, max_size=16))
def test_digests_can_be_read_back(md5: bytes):
    assert digest.decoded(digest.encoded(md5)) == md5


@pytest.mark.parametrize(
    "text", ["", "x", "AAAA", "1B2M2Y8AsgTpgAmY7PhCfg", "1B2M2Y8AsgTpgAmY7PhCfh==", "ä"]
)
def test_other_texts_are_no_digests(text: str):
    with pytest.raises(InvalidInputError, match="not a digest"):
        digest.decoded(text)
