"""The way to a registry, and how it says which login it wants."""

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from agent.registries.authorization import base_url, proxy_for, read_challenge


@pytest.mark.parametrize(
    ("host", "url"),
    [
        (None, "https://registry-1.docker.io"),
        ("docker.io", "https://registry-1.docker.io"),
        ("reg.example:5000", "https://reg.example:5000"),
        ("localhost:5000", "http://localhost:5000"),
        ("127.0.0.9:5000", "http://127.0.0.9:5000"),
        ("[::1]:5000", "http://[::1]:5000"),
        ("127.0.0.1.example.org", "https://127.0.0.1.example.org"),
    ],
)
def test_only_loopback_is_spoken_to_in_plain_http(host, url):
    assert base_url(host) == url


def test_a_proxy_counts_for_far_registries_that_are_not_exempt():
    environment = {"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "near.example"}
    assert proxy_for("https://far.example/v2/", environment) == "http://proxy:3128"
    assert proxy_for("https://near.example/v2/", environment) is None
    assert proxy_for("http://127.0.0.1:5000/v2/", {"HTTP_PROXY": "http://proxy"}) is None
    assert proxy_for("https://far.example/v2/", {}) is None


def challenge(*values):
    headers = CIMultiDict([("WWW-Authenticate", value) for value in values])
    return read_challenge(CIMultiDictProxy(headers))


def test_a_token_is_preferred_to_a_password():
    found = challenge('Basic realm="x"', 'Bearer realm="https://t/",service="s",scope="a,b"')
    assert (found.scheme, found.realm, found.service) == ("bearer", "https://t/", "s")
    assert found.scope == "a,b"
    assert challenge('BASIC realm="x"').scheme == "basic"


@pytest.mark.parametrize("values", [(), ("Negotiate",), ('Bearer service="s"',)])
def test_a_challenge_that_nobody_understands_is_none(values):
    assert challenge(*values) is None
