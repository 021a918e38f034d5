"""Which names the server answers to."""

import pytest

from agent.control.middleware.browser_security import HostRules

RULES = HostRules.of("https://launch.example.org/base", ["gpu-box", "Other.Example:8450", "::2"])


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:1",
        "LOCALHOST:8450",
        "127.0.0.1:65535",
        "[::1]:8450",
        "[::1]",
        "launch.example.org",
        "launch.example.org:443",
        "gpu-box:8450",
        "other.example",
        "172.18.0.1:8450",
        "[::2]:80",
    ],
)
def test_our_own_names_are_admitted_with_any_port(host):
    assert RULES.admits([host], "172.18.0.1")


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [""],
        ["evil.example"],
        ["localhost", "localhost"],
        ["localhost.evil.example"],
        ["evil.example:8450"],
        ["127.0.0.1.nip.example"],
        ["user@localhost"],
        ["localhost/graphql"],
        ["localhost:99999999"],
        ["localhost:"],
        ["[::1"],
        ["172.18.0.2"],
        ["10.0.0.1"],
        ["2130706433"],
        ["0x7f.1"],
        ["localhost evil"],
    ],
)
def test_foreign_absent_repeated_and_malformed_names_are_not(headers):
    assert not RULES.admits(headers, "172.18.0.1")


def test_the_address_connected_to_is_a_name_of_ours_only_as_a_number():
    assert HostRules.of(None, []).admits(["[fe80::1]:80"], "fe80::1%eth0")
    assert HostRules.of(None, []).admits(["10.1.2.3"], "::ffff:10.1.2.3")
    assert not HostRules.of(None, []).admits(["10.1.2.3"], None)
