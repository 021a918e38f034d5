"""References as people write them, and what git's words mean."""

import pytest

from agent.model.cause import Cause
from agent.model.errors import JobError, PolicyError
from agent.sources.git.checkout import absolute_url
from agent.sources.git.errors import CorruptMirrorError, failure, stalled
from agent.sources.git.refs import (
    RemoteRefs,
    check_ref,
    is_full_commit,
    is_short_commit,
    parse_refs,
    pick_commit,
    ref_not_found,
    ref_patterns,
)
from agent.sources.git.remote import parse_remote

ACCESS = "fatal: unable to access 'https://h/': "
ADVICE = """fatal: Could not read from remote repository.

Please make sure you have the correct access rights
and the repository exists.
"""
A, B, C, D = (letter * 40 for letter in "abcd")
LISTED = f"""ref: refs/heads/main\tHEAD
{A}\tHEAD
{A}\trefs/heads/main
{B}\trefs/heads/both
{C}\trefs/tags/both
{C}\trefs/tags/v1
{D}\trefs/tags/v1^{{}}
{B}\trefs/pull/7/head
"""


@pytest.mark.parametrize(
    ("ref", "commit", "found_as"),
    [
        (None, A, "default branch main"),
        ("main", A, "branch main"),
        ("origin/main", A, "branch main"),
        ("both", B, "branch both"),
        ("v1", D, "tag v1"),
        ("refs/tags/v1", D, "refs/tags/v1"),
        ("refs/pull/7/head", B, "refs/pull/7/head"),
    ],
)
def test_references_are_pinned(ref, commit, found_as):
    pin = pick_commit(parse_refs(LISTED), ref)
    assert pin is not None
    assert (pin.commit, pin.found_as) == (commit, found_as)


@pytest.mark.parametrize("ref", ["none", "refs/heads/none", "origin/none"])
def test_what_is_not_listed_is_not_found(ref):
    assert pick_commit(parse_refs(LISTED), ref) is None
    assert pick_commit(RemoteRefs({}, None), None) is None


def test_servers_are_asked_for_little():
    assert ref_patterns(None) == ("HEAD",)
    assert ref_patterns("refs/tags/v1") == ("refs/tags/v1", "refs/tags/v1^{}")
    assert "refs/heads/origin/x" in ref_patterns("origin/x")
    assert "refs/tags/x^{}" in ref_patterns("origin/x")


@pytest.mark.parametrize(
    "ref",
    ["", "-x", "--upload-pack=x", "a b", "a..b", "a~1", "a^", "a:b", "a?", "a*", "a[b", "a\\b",
     "a@{1}", "a//b", "a.lock", "a/", "a.", "/a", "a\nb", "a\x7f"],
)  # fmt: skip
def test_what_cannot_be_a_reference_is_refused(ref):
    with pytest.raises(JobError, match="cannot be a branch, tag or commit") as caught:
        check_ref("https://h/r", ref)
    assert caught.value.cause is Cause.SOURCE_INVALID


@pytest.mark.parametrize("ref", [None, "main", "feature/x-1", "v1.2.3", "a.b", "@", "HEAD"])
def test_ordinary_references_pass(ref):
    check_ref("https://h/r", ref)


def test_commits_are_recognised():
    assert is_full_commit(A)
    assert is_full_commit("A" * 40)
    assert is_full_commit("a" * 64)
    assert not is_full_commit("a" * 39)
    assert not is_full_commit(None)
    assert is_short_commit("abcd123")
    assert not is_short_commit("abc")
    assert not is_short_commit("main")
    assert not is_short_commit(None)


def test_the_nearest_name_is_offered():
    error = ref_not_found("https://h/r", "mian", parse_refs(LISTED))
    assert "no branch, tag or commit 'mian'" in error.message
    assert error.hint == "Did you mean `main`?"
    assert "is empty" in ref_not_found("https://h/r", "x", RemoteRefs({}, None)).message
    assert (
        "no default branch"
        in ref_not_found("u", None, RemoteRefs({"refs/heads/x": A}, None)).message
    )


@pytest.mark.parametrize(
    ("output", "cause"),
    [
        ("fatal: Authentication failed for 'https://h/r/'", Cause.SOURCE_AUTH),
        ("fatal: could not read Username for 'https://h': No such device", Cause.SOURCE_AUTH),
        (f"git@h: Permission denied (publickey).\r\n{ADVICE}", Cause.SOURCE_AUTH),
        (f"Host key verification failed.\n{ADVICE}", Cause.SOURCE_AUTH),
        (f"{ACCESS}The requested URL returned error: 403", Cause.SOURCE_AUTH),
        ("fatal: repository 'https://h/r/' not found", Cause.SOURCE_NOT_FOUND),
        ("fatal: '/r' does not appear to be a git repository", Cause.SOURCE_NOT_FOUND),
        ("fatal: u/info/refs not valid: is this a git repository?", Cause.SOURCE_NOT_FOUND),
        ("fatal: remote error: upload-pack: not our ref abc", Cause.SOURCE_NOT_FOUND),
        (f"{ACCESS}Could not resolve host: h", Cause.SOURCE_UNREACHABLE),
        (f"{ACCESS}Failed to connect to h port 443", Cause.SOURCE_UNREACHABLE),
        ("ssh: connect to host h port 22: Connection refused", Cause.SOURCE_UNREACHABLE),
        (f"{ACCESS}server certificate verification failed.", Cause.SOURCE_UNREACHABLE),
        (f"{ACCESS}gnutls_handshake() failed", Cause.SOURCE_UNREACHABLE),
        ("error: RPC failed; curl 18 transfer closed\nfatal: early EOF", Cause.SOURCE_UNREACHABLE),
        ("The requested URL returned error: 503", Cause.SOURCE_UNREACHABLE),
        ("fatal: write error: No space left on device", Cause.DISK_FULL),
        ("fatal: something new", Cause.SOURCE_INVALID),
    ],
)  # fmt: skip
def test_git_s_words_have_a_cause(output, cause):
    error = failure("https://h/r", output)
    assert isinstance(error, JobError)
    assert error.cause is cause
    assert "https://h/r" in error.message


@pytest.mark.parametrize("code", [301, 302, 307])
def test_redirects_are_a_matter_of_policy(code):
    error = failure("u", f"fatal: unable to access 'u': The requested URL returned error: {code}")
    assert isinstance(error, PolicyError)
    assert error.cause is Cause.POLICY_SOURCE


def test_a_damaged_mirror_is_not_an_error_of_the_job():
    error = failure(
        "the mirror", "error: object file objects/aa is empty\nfatal: loose object is corrupt"
    )
    assert isinstance(error, CorruptMirrorError)


def test_the_telling_line_is_quoted_without_credentials():
    output = "remote: hello\nfatal: boom at https://a:b@h/r\n"
    assert "git says: fatal: boom at https://h/r." in str(failure("u", output))
    advice = f"Host key verification failed.\n{ADVICE}"
    assert "git says: Host key verification failed." in str(failure("u", advice))
    assert "git gave no reason." in str(failure("u", ""))


def test_a_stalled_server_has_a_sentence():
    assert "sent nothing for 5 s" in stalled("u", 5).message


@pytest.mark.parametrize(
    ("url", "absolute"),
    [
        ("https://h/x", "https://h/x"),
        ("../lib.git", "https://git.example/org/lib.git"),
        ("../../other/lib", "https://git.example/other/lib"),
        ("./sub", "https://git.example/org/repo.git/sub"),
    ],
)
def test_a_submodule_s_address_is_relative_to_its_parent(url, absolute):
    remote = parse_remote("https://git.example/org/repo.git", ("https",))
    assert absolute_url(remote, url) == absolute


@pytest.mark.parametrize(
    ("url", "absolute"),
    [
        ("../lib.git", "git@git.example:org/lib.git"),
        ("../../lib.git", "git@git.example:lib.git"),
        ("./sub", "git@git.example:org/repo.git/sub"),
    ],
)
def test_a_submodule_stays_beside_a_parent_in_the_short_form(url, absolute):
    remote = parse_remote("git@git.example:org/repo.git", ("ssh",))
    assert absolute_url(remote, url) == absolute
