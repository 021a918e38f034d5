"""Signed tokens of cookies and links."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.control.auth.sessions import Sessions


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def sessions(clock):
    return Sessions(b"secret" * 6, "abcdefghijkl", clock)


def test_what_was_issued_names_its_key(sessions):
    assert sessions.check("session", sessions.issue("session", "key-1")) == "key-1"


def test_a_link_is_no_session_and_a_session_no_link(sessions):
    assert sessions.check("session", sessions.issue("link", "key-1")) is None
    assert sessions.check("link", sessions.issue("session", "key-1")) is None


def test_what_is_too_old_is_refused(sessions, clock):
    link, session = sessions.issue("link", "k"), sessions.issue("session", "k")
    clock.now += 3601
    assert sessions.check("link", link) is None
    assert sessions.check("session", session) == "k"
    clock.now += 7 * 86400
    assert sessions.check("session", session) is None


def test_a_revoked_token_is_refused(sessions):
    link, other = sessions.issue("link", "k"), sessions.issue("link", "k")
    sessions.revoke(link)
    assert sessions.check("link", link) is None
    assert sessions.check("link", other) == "k"


def test_another_plane_signs_otherwise(sessions, clock):
    other = Sessions(b"other" * 6, "zzzzzzzzzzzz", clock)
    assert other.check("session", sessions.issue("session", "k")) is None
    assert other.cookie_name != sessions.cookie_name


@given(st.text() | st.text().map(lambda text: f"{text}.{text}"))
def test_a_forged_text_is_refused_and_never_fails(text):
    assert Sessions(b"secret", "abcdefgh").check("session", text) is None


def test_memory_is_bounded(sessions):
    for number in range(9000):
        sessions.revoke(f"text {number}")
    assert len(sessions._revoked) == 8192
