"""Git URLs: what is read from them, and every form that is refused before git is started."""

import time

import pytest

from agent.config.base import SecretReference
from agent.config.execution import GitConfig, GitCredential
from agent.model.cause import Cause
from agent.model.errors import JobError, PolicyError
from agent.sources.git.access import _pinned, _proxied, matching_credential, ssh_command
from agent.sources.git.command import ca_settings
from agent.sources.git.remote import parse_remote, without_credentials

ALL = ("https", "ssh", "http", "file")
DEFAULT = ("https", "ssh")


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://git.example/org/repo.git", "https://git.example/org/repo.git"),
        ("https://Git.Example:443/org/repo", "https://git.example/org/repo"),
        ("https://git.example:8443/r", "https://git.example:8443/r"),
        ("https://me@git.example/r", "https://git.example/r"),
        ("ssh://git@git.example/org/repo.git", "ssh://git@git.example/org/repo.git"),
        ("ssh://git@git.example:2222/r", "ssh://git@git.example:2222/r"),
        ("git@git.example:org/repo.git", "git@git.example:org/repo.git"),
        ("git.example:/srv/repo.git", "ssh://git.example/srv/repo.git"),
        ("git.example:~/repo.git", "git.example:~/repo.git"),
        ("git@[::1]:repo", "git@[::1]:repo"),
        ("https://[2001:db8::1]:8443/r", "https://[2001:db8::1]:8443/r"),
        ("http://git.example/r", "http://git.example/r"),
        ("file:///srv/repo.git", "file:///srv/repo.git"),
        ("file://localhost/srv/repo.git", "file:///srv/repo.git"),
    ],
)
def test_addresses_are_read(text, url):
    assert parse_remote(text, ALL).url == url


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("--upload-pack=touch /tmp/x", "starts with `-`"),
        ("-oProxyCommand=x", "starts with `-`"),
        ("https://git.example/a b", "a space, a control character"),
        ("https://git.example/a\nb", "a space, a control character"),
        ("https://gıt.example/a", "beyond ASCII"),
        ("https://user:secret@git.example/r", "it contains a password"),
        ("ssh://user:secret@git.example/r", "it contains a password"),
        ("https://git.example/r?x=1", "neither `?` nor `#`"),
        ("https://git.example/r#x", "neither `?` nor `#`"),
        ("https://git.example/", "names no repository"),
        ("https://git.example", "names no repository"),
        ("https:///r", "no valid host"),
        ("https://-oProxyCommand=x/r", "no valid host"),
        ("ssh://-oProxyCommand=x/r", "no valid host"),
        ("-x@host:path", "starts with `-`"),
        ("git@-oProxyCommand=x:path", "no valid host"),
        ("ssh://-x@git.example/r", "user name has"),
        ("https://git..example/r", "no valid host"),
        ("https://git.example:99999/r", "host or port"),
        ("https://[::1/r", "host or port"),
        ("https://git%2eexample/r", "no valid host"),
        ("/srv/repo", "it is not a URL"),
        ("./repo", "it is not a URL"),
        ("repo", "it is not a URL"),
        ("file://elsewhere/srv/repo", "three slashes"),
        ("", "it is not a URL"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_reason(text, words):
    with pytest.raises(JobError) as caught:
        parse_remote(text, ALL)
    assert caught.value.cause is Cause.SOURCE_INVALID
    assert words in caught.value.message
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["ext::sh%20-c%20x", "fd::17", "file:///etc", "http://git.example/r", "git://git.example/r",
     "ftp://git.example/r", "transport::address", "FILE:///etc"],
)  # fmt: skip
def test_other_protocols_are_the_administrator_s_to_allow(text):
    with pytest.raises(PolicyError) as caught:
        parse_remote(text, DEFAULT)
    assert caught.value.cause is Cause.POLICY_SOURCE
    assert "(allowed: https, ssh)" in caught.value.message
    assert "sources.git.protocols" in str(caught.value)


def test_a_long_text_is_refused_in_no_time():
    before = time.process_time()
    with pytest.raises(JobError):
        parse_remote("a." * 100_000, ("https", "ssh"))
    assert time.process_time() - before < 5  # by the square of its length: half a minute


def test_messages_show_no_credentials():
    assert without_credentials("at https://a:b@c/d") == "at https://c/d"


def credential(url):
    return GitCredential(url=url, username="u", password=SecretReference(value="p" * 8))


@pytest.mark.parametrize(
    ("prefix", "matches"),
    [
        ("https://git.example", True),
        ("https://git.example/", True),
        ("https://git.example/org", True),
        ("https://git.example/org/repo.git", True),
        ("https://git.example/or", False),
        ("https://git.example:8443/", False),
        ("http://git.example/", False),
        ("https://git.example.evil/", False),
        ("https://GIT.example/org/", True),
    ],
)
def test_credentials_match_whole_hosts_and_path_parts(prefix, matches):
    remote = parse_remote("https://git.example/org/repo.git", ALL)
    found = matching_credential(GitConfig(credentials=(credential(prefix),)), remote)
    assert (found is not None) is matches


def test_the_longest_prefix_wins_and_ssh_gets_none():
    config = GitConfig(
        credentials=(credential("https://git.example/"), credential("https://git.example/org"))
    )
    found = matching_credential(config, parse_remote("https://git.example/org/repo", ALL))
    assert found is not None
    assert found.url == "https://git.example/org"
    assert matching_credential(config, parse_remote("ssh://git@git.example/org/repo", ALL)) is None


def test_ssh_is_told_to_ask_nothing_and_trust_nobody_new(tmp_path):
    config = GitConfig(known_hosts=tmp_path / "known hosts", ssh_key=tmp_path / "key")
    command = ssh_command(config, "git.example", 2222, "192.0.2.7")
    for option in (
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        "HostName=192.0.2.7",
        "'HostKeyAlias=[git.example]:2222'",
        "ConnectTimeout=30",
        f"'UserKnownHostsFile=\"{tmp_path}/known hosts\"'",
        f"'IdentityFile=\"{tmp_path}/key\"'",
        "IdentitiesOnly=yes",
    ):
        assert f"-o {option}" in command
    plain = ssh_command(GitConfig(stall_timeout=0), "git.example", 22, "192.0.2.7")
    assert "HostKeyAlias=git.example" in plain
    assert "IdentityFile" not in plain


def test_certificates_come_from_configuration_then_environment(tmp_path):
    given = GitConfig(ca_bundle=tmp_path / "ca.pem")
    assert ca_settings(given, {"SSL_CERT_FILE": "/env"}) == (
        ("http.sslCAInfo", str(tmp_path / "ca.pem")),
    )
    assert ca_settings(GitConfig(), {"SSL_CERT_FILE": "/env"}) == (("http.sslCAInfo", "/env"),)
    assert ca_settings(GitConfig(), {}) == ()


def test_addresses_are_pinned_in_curl_s_form():
    remote = parse_remote("https://git.example/r", ALL)
    assert (
        _pinned(remote, ("192.0.2.7", "2001:db8::1")) == "git.example:443:192.0.2.7,[2001:db8::1]"
    )
    inner = parse_remote("https://[2001:db8::1]/r", ALL)
    assert _pinned(inner, ("2001:db8::1",)) == "[2001:db8::1]:443:[2001:db8::1]"


def test_a_proxy_counts_unless_the_host_is_exempt():
    remote = parse_remote("https://git.example/r", ALL)
    assert not _proxied(remote, {})
    assert _proxied(remote, {"https_proxy": "http://p"})
    assert _proxied(remote, {"ALL_PROXY": "http://p"})
    assert not _proxied(remote, {"https_proxy": "http://p", "NO_PROXY": "x, .example"})
    assert not _proxied(parse_remote("ssh://git@h/r", ALL), {"all_proxy": "x"})
    assert not _proxied(remote, {"https_proxy": "http://p", "NO_PROXY": "*"})
    assert _proxied(remote, {"https_proxy": "http://p", "NO_PROXY": "ample"})
