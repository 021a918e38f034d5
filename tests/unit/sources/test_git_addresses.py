"""Which hosts a source may make the agent reach: a table of forms, and nothing is connected to."""

import socket

import pytest

from agent.model.cause import Cause
from agent.model.errors import JobError, PolicyError
from agent.sources.address_policy import AddressPolicy, system_resolver
from agent.sources.git.remote import parse_remote


def policy(*addresses, private=(), embedded=False):
    return AddressPolicy(private, embedded, lambda _host, _port: list(addresses))


async def judged(rules, threads, host="git.example"):
    remote = parse_remote(f"https://{host}/r", ("https",))
    return await rules.checked_addresses(remote, threads)


PRIVATE = [
    "fec0::1", "feff::1", "5f00::1", "3fff::1", "100::1", "2001:db8::1", "198.18.0.1",
    "127.0.0.1", "127.8.8.8", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "100.64.0.1", "192.0.2.1", "198.18.0.1", "203.0.113.5", "::1", "fc00::1", "fd12:3456::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:c0a8:0101", "2002:7f00:0001::", "2002:0a00:1::",
    "::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::7f00:1", "2001:db8::1", "::ffff:0:127.0.0.1",
]  # fmt: skip
NEVER = [
    "169.254.169.254", "169.254.0.1", "169.254.170.2", "::ffff:169.254.169.254",
    "::ffff:a9fe:a9fe", "::169.254.169.254", "2002:a9fe:a9fe::", "64:ff9b::a9fe:a9fe", "fe80::1",
    "fe80::a:b%eth0", "febf::1", "fd00:ec2::254", "100.100.100.200", "168.63.129.16",
    "::ffff:100.100.100.200", "0.0.0.0", "::", "::ffff:0.0.0.0", "224.0.0.1", "ff02::1",
    "255.255.255.255", "240.0.0.1",
]  # fmt: skip
ODD = [
    "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.1", "127.0.1", "017700000001", "0",
    "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.16689662", "10.1", "0x0a.0.0.1",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
async def test_private_addresses_are_refused_unless_listed(address, threads):
    with pytest.raises(PolicyError, match="private_hosts") as caught:
        await judged(policy(address), threads)
    assert caught.value.cause is Cause.POLICY_SOURCE
    assert await judged(policy(address, private=("*",)), threads)
    assert await judged(policy(address, private=None, embedded=True), threads)
    with pytest.raises(PolicyError):
        await judged(policy(address, private=None, embedded=False), threads)


@pytest.mark.parametrize("address", NEVER)
async def test_link_local_and_metadata_are_refused_whatever_is_listed(address, threads):
    with pytest.raises(PolicyError, match="not allowed"):
        await judged(policy(address, private=("*",), embedded=True), threads)


@pytest.mark.parametrize("host", ODD)
async def test_odd_spellings_of_numbers_are_refused_unresolved(host, threads):
    def resolver(_host, _port):
        raise AssertionError("it was resolved")

    with pytest.raises(PolicyError, match="in its usual form"):
        await judged(AddressPolicy(("*",), True, resolver), threads, host)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111"])
async def test_public_addresses_pass(address, threads):
    assert await judged(policy(address), threads) == (address,)


async def test_one_bad_address_among_good_ones_is_enough(threads):
    with pytest.raises(PolicyError):
        await judged(policy("8.8.8.8", "10.0.0.1"), threads)


@pytest.mark.parametrize(
    ("entry", "allowed"),
    [
        ("10.0.0.0/8", True),
        ("10.0.0.1", True),
        ("10.1.0.0/16", False),
        ("git.example", True),
        ("GIT.EXAMPLE", True),
        (".example", True),
        ("*.example", True),
        ("other.example", False),
        ("ample", False),
        ("fc00::/7", False),
    ],
)
async def test_the_list_takes_networks_names_and_suffixes(entry, allowed, threads):
    rules = policy("10.0.0.1", private=(entry,))
    if allowed:
        assert await judged(rules, threads) == ("10.0.0.1",)
    else:
        with pytest.raises(PolicyError):
            await judged(rules, threads)


async def test_a_name_nobody_knows_is_unreachable(threads):
    def resolver(_host, _port):
        raise socket.gaierror(-2, "Name or service not known")

    with pytest.raises(JobError, match=r"'git\.example' of .* cannot be resolved") as caught:
        await judged(AddressPolicy((), False, resolver), threads)
    assert caught.value.cause is Cause.SOURCE_UNREACHABLE


def test_the_system_s_resolver_gives_plain_addresses():
    assert "127.0.0.1" in system_resolver("127.0.0.1", 443)
