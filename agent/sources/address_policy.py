"""To which addresses the agent may connect on behalf of a user's input (SSRF protection)."""

import ipaddress
import socket
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final

from agent.model.cause import Cause
from agent.model.errors import JobError, PolicyError
from agent.sources.git.remote import Remote
from agent.system.tasks import in_thread

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[[str, int], list[str]]

#: Metadata services of clouds outside the link-local range.
_METADATA: Final = frozenset({"fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192"})
#: IPv6 networks whose last 32 bits are an IPv4 address: NAT64, its local form, and SIIT.
_EMBEDS_IPV4: Final = tuple(
    ipaddress.ip_network(text) for text in ("64:ff9b::/96", "64:ff9b:1::/48", "::ffff:0:0:0/96")
)

_PUBLIC_IPV6: Final = ipaddress.ip_network("2000::/3")
#: Reserved after this version of Python: documentation, and the old anycast of 6to4.
_RESERVED: Final = tuple(map(ipaddress.ip_network, ("3fff::/20", "192.88.99.0/24")))


def system_resolver(host: str, port: int) -> list[str]:
    """All addresses of a host, resolved as the machine does it. Blocks.

    Raises:
        OSError: the name cannot be resolved.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """Which addresses may be connected to: public ones, and private ones on the list.

    What the hosts in `configured` resolve to is allowed unchecked.
    """

    #: Networks, host names, `.suffix`es, or `*`; `None` means all if `embedded`, else none.
    private_hosts: tuple[str, ...] | None
    #: The control plane is embedded: the user is the administrator.
    embedded: bool
    resolver: Resolver = system_resolver
    #: Hosts and ports of package indexes and registries that the administrator configured.
    configured: tuple[tuple[str, int], ...] = ()

    async def checked_addresses(self, remote: Remote, threads: Executor) -> tuple[str, ...]:
        """Resolve a remote's host, check every address, and return them.

        Raises:
            PolicyError: `POLICY_SOURCE`: one of the addresses is not allowed.
            JobError: `SOURCE_UNREACHABLE`: the name cannot be resolved.
        """
        self._refuse_unusual_form(remote)
        try:
            found = await in_thread(threads, lambda _: self.resolver(remote.host, remote.port))
        except OSError as error:
            raise JobError(
                Cause.SOURCE_UNREACHABLE,
                f"Host '{remote.host}' of {remote.url} cannot be resolved ({error.strerror}).",
                hint="Check its spelling and the agent's name server.",
            ) from None
        parsed = [ipaddress.ip_address(text.partition("%")[0]) for text in found]
        if (remote.host, remote.port) not in self.configured:
            for address in parsed:
                self._check(remote, address)
        return tuple(str(address) for address in parsed)

    def _refuse_unusual_form(self, remote: Remote) -> None:
        """Refuse addresses such as `0x7f.1` and `2130706433`, which hide what they are."""
        try:
            ipaddress.ip_address(remote.host)
        except ValueError:
            pass
        else:
            return
        try:
            socket.inet_aton(remote.host)
        except OSError:
            return
        raise _refused(remote, remote.host, "write the address in its usual form")

    def _check(self, remote: Remote, address: Address) -> None:
        inner = _inner(address)
        if str(inner) in _METADATA or inner.is_link_local:
            raise _refused(remote, address, "link-local and metadata addresses are never allowed")
        if inner.is_unspecified or inner.is_multicast or _is_broadcast(inner):
            raise _refused(remote, address, "it is not the address of a single host")
        if not _is_public(inner) and not self._listed(remote.host, inner):
            raise _refused(
                remote, address, "private addresses are allowed by `sources.private_hosts` only"
            )

    def _listed(self, host: str, address: Address) -> bool:
        if self.private_hosts is None:
            return self.embedded
        return any(_matches(entry, host, address) for entry in self.private_hosts)


def _inner(address: Address) -> Address:
    """The IPv4 address inside an IPv6 one: mapped, compatible, 6to4, translated."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    low = int(address) & 0xFFFFFFFF
    compatible = int(address) >> 32 == 0 and low > 1
    translated = any(address in network for network in _EMBEDS_IPV4)
    return ipaddress.IPv4Address(low) if compatible or translated else address


def _is_public(address: Address) -> bool:
    """IPv6 has assigned one block for public use: site-local and other old ranges are outside."""
    if not address.is_global or any(address in network for network in _RESERVED):
        return False
    return address.version == 4 or address in _PUBLIC_IPV6  # noqa: PLR2004


def _is_broadcast(address: Address) -> bool:
    return address.version == 4 and address.is_reserved  # noqa: PLR2004 -- 240.0.0.0/4


def _matches(entry: str, host: str, address: Address) -> bool:
    wanted = entry.strip().lower()
    if wanted in {"*", host}:
        return True
    if wanted.startswith((".", "*.")):
        return host.endswith(wanted.removeprefix("*"))
    try:
        return address in ipaddress.ip_network(wanted, strict=False)
    except ValueError:
        return False


def _refused(remote: Remote, address: object, why: str) -> PolicyError:
    return PolicyError(
        Cause.POLICY_SOURCE,
        f"URL '{remote.url}' leads to {address}, which is not allowed: {why}.",
    )
