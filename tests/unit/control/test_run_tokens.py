"""Run tokens."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.control.auth.run_tokens import PREFIX, RunToken, create_token, parse_token

KEY = b"k" * 32
TOKENS = st.builds(RunToken, st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1))


@given(TOKENS)
def test_a_token_says_what_it_was_made_of_in_forty_characters(token: RunToken) -> None:
    text = create_token(KEY, token)
    assert re.fullmatch(r"launchrun-[A-Za-z0-9_-]{40}", text)
    assert parse_token(KEY, text) == token
    assert create_token(KEY, token) == text


@given(TOKENS, st.integers(0, 39), st.sampled_from("ABCabc019_-"))
def test_a_token_with_any_other_character_is_refused(
    token: RunToken, place: int, letter: str
) -> None:
    text = create_token(KEY, token)
    place += len(PREFIX)
    changed = text[:place] + letter + text[place + 1 :]
    assert changed == text or parse_token(KEY, changed) is None


@given(TOKENS)
def test_a_token_of_another_installation_is_refused(token: RunToken) -> None:
    assert parse_token(b"o" * 32, create_token(KEY, token)) is None


@given(st.text() | (st.text() | st.text(min_size=40, max_size=40)).map(lambda t: PREFIX + t))
def test_nonsense_is_refused(text: str) -> None:
    assert parse_token(KEY, text) is None


@pytest.mark.parametrize("letter", ["!", "\x80"])
def test_forty_characters_that_are_no_base64_are_refused(letter: str) -> None:
    assert parse_token(KEY, PREFIX + letter * 40) is None
