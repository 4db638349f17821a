"""Which addresses a fetch may connect to: those of the public Internet, and no others.

The tables follow IANA's registries of special-purpose addresses (RFC 6890 and what was added since). They are written
out because `ipaddress.is_global` changes with the version of Python, and lacks what is public by number only.

Rules of this module: pure; no socket, no name resolution.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

_NOT_PUBLIC_4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network; 0.0.0.0 connects to this machine
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared by carriers; cloud metadata at 100.100.100.200
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's platform channel: a public number that answers from within
        "169.254.0.0/16",  # link-local; cloud metadata at 169.254.169.254
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments; cloud metadata at 192.0.0.192
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarking
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)

# Everything outside is loopback, unspecified, mapped or compatible IPv4, NAT64, discard, unique local, link-local,
# site-local, multicast or not assigned.
_GLOBAL_UNICAST_6 = IPv6Network("2000::/3")
_NOT_PUBLIC_6 = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments: Teredo, benchmarking, ORCHID
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: an IPv4 address in disguise
        "3fff::/20",  # documentation
    )
)


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """What an operator adds to the rule of public addresses.

    Attributes:
        allow: Networks that may be reached although they are not public.
        deny: Networks that may not be reached whatever else holds.
    """

    allow: tuple[Network, ...] = ()
    deny: tuple[Network, ...] = ()

    def permits(self, address: Address) -> bool:
        """Whether a fetch may connect to this address."""
        if _is_within(address, self.deny):
            return False
        return is_public(address) or _is_within(address, self.allow)


def is_public(address: Address) -> bool:
    """Whether an address is one of the public Internet, reached without any translation on the way."""
    if isinstance(address, IPv4Address):
        return not _is_within(address, _NOT_PUBLIC_4)
    return address in _GLOBAL_UNICAST_6 and not _is_within(address, _NOT_PUBLIC_6)


def _is_within(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)
