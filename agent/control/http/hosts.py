"""Which names this server answers to: the defence against DNS rebinding.

A page of a foreign site can make a browser send requests to our address under the site's
own name. So a request must call us by a loopback name, by the address that it connected
to, by the external URL's host, or by a name that the administrator listed.
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_HOST: Final = re.compile(r"(?P<name>[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(?P<port>\d{1,5}))?")


@dataclass(frozen=True, slots=True)
class HostRules:
    """An exact allow-list; ports do not matter, since rebinding is about names."""

    names: frozenset[str]

    @classmethod
    def of(cls, external_url: str | None, allowed: Iterable[str]) -> "HostRules":
        """Loopback names, the external URL's host, and what the administrator allows."""
        external = urlsplit(external_url).hostname if external_url else None
        listed = {_name(entry) or entry.lower() for entry in allowed}
        return cls(_LOOPBACK | listed | ({external} if external else set()))

    def admits(self, headers: list[str], local_address: str | None) -> bool:
        """Whether exactly one `Host` came, and it names us.

        `local_address` is our end of the connection: whoever writes it as a number cannot
        have been led here by a name.
        """
        name = _name(headers[0]) if len(headers) == 1 else None
        return name is not None and (name in self.names or _same(name, local_address))


def _name(host: str) -> str | None:
    match = _HOST.fullmatch(host.lower())
    return match["name"].strip("[]") if match else None


def _same(name: str, local_address: str | None) -> bool:
    try:
        here = ipaddress.ip_address((local_address or "").partition("%")[0])
        return ipaddress.ip_address(name) in {here, getattr(here, "ipv4_mapped", None)}
    except ValueError:
        return False
