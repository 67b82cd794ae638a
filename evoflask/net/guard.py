"""Which addresses a tenant's URL may reach, and which headers it may set. Pure.

A tenant names the URL, we send the request from inside our network: without a guard any
tenant could talk to the metadata service, to Redis, to the neighbours. What counts is the
address that is connected to, so `net.http` asks here for every address that a name stands
for, and again for every socket.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

RESERVED_HEADERS = frozenset(
    {
        "connection",
        "content-encoding",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "webhook-id",
        "webhook-replay",
        "webhook-signature",
        "webhook-test",
        "webhook-timestamp",
    }
)
"""In lower case: those that frame the request, and those that promise who sent it."""

# Our own list, not `is_private` and its kin: their answers changed between patch releases
# of Python (3.11.9 and 3.11.10 differ), and some of what must not be reached is global there.
_REFUSED = tuple(
    (ipaddress.ip_network(network), reason)
    for network, reason in (
        ("0.0.0.0/32", "unspecified"),
        ("0.0.0.0/8", "reserved"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "carrier-grade NAT"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.169.254/32", "metadata service"),
        ("169.254.170.0/24", "metadata service"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("168.63.129.16/32", "metadata service"),  # Azure's, in public space
        ("192.0.0.0/24", "reserved"),  # and Oracle's metadata, 192.0.0.192
        ("192.0.2.0/24", "reserved"),
        ("192.31.196.0/24", "reserved"),
        ("192.52.193.0/24", "reserved"),
        ("192.88.99.0/24", "6to4 relay"),
        ("192.168.0.0/16", "private"),
        ("192.175.48.0/24", "reserved"),
        ("198.18.0.0/15", "reserved"),
        ("198.51.100.0/24", "reserved"),
        ("203.0.113.0/24", "reserved"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("::ffff:0:0/96", "IPv4 inside IPv6 (mapped)"),
        ("::ffff:0:0:0/96", "IPv4 inside IPv6 (translated)"),
        ("::/96", "IPv4 inside IPv6 (compatible)"),
        ("64:ff9b::/96", "IPv4 inside IPv6 (NAT64)"),
        ("64:ff9b:1::/48", "IPv4 inside IPv6 (NAT64)"),
        ("2001::/32", "IPv4 inside IPv6 (Teredo)"),
        ("2002::/16", "IPv4 inside IPv6 (6to4)"),
        ("fd00:ec2::/32", "metadata service"),
        ("fc00::/7", "private"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "private"),
        ("ff00::/8", "multicast"),
        ("2001::/23", "reserved"),
        ("2001:db8::/32", "reserved"),
        ("3fff::/20", "reserved"),
        ("5f00::/16", "reserved"),
    )
)
_GLOBAL_V6 = ipaddress.ip_network("2000::/3")
_ISATAP = (0x00005EFE, 0x02005EFE)


def allowed(address: str, allow_networks: Sequence[Network] = ()) -> str | None:
    """None: the IP address may be reached. Else why not, as a word or two.

    `allow_networks` come first and are compared with the address itself: allowing
    127.0.0.0/8 does not allow `::ffff:127.0.0.1`. What is not an address, as `getaddrinfo`
    or an interface would write it, is refused.
    """
    return _allowed(address, tuple(allow_networks))


@functools.lru_cache(maxsize=4096)
def _allowed(text: str, allow_networks: tuple[Network, ...]) -> str | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return "not an IP address"
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        return "link-local"
    if any(address in network for network in allow_networks):
        return None
    for network, reason in _REFUSED:
        if address in network:
            return reason
    if isinstance(address, ipaddress.IPv6Address):
        return _allowed_v6(address)
    return None


def _allowed_v6(address: ipaddress.IPv6Address) -> str | None:
    if address not in _GLOBAL_V6:
        return "reserved"
    if (int(address) >> 32) & 0xFFFFFFFF in _ISATAP:
        return "IPv4 inside IPv6 (ISATAP)"
    return None


_FOR_AN_OPERATOR = ("private", "loopback", "link-local", "carrier-grade NAT")
"""Reasons that name a network which may be the operator's own."""


def hint(reason: str) -> str:
    """Return how an operator allows an address refused for this reason, or "" if none should."""
    if not reason.endswith(_FOR_AN_OPERATOR):
        return ""
    return ". To allow it, the operator lists its network in WEBHOOK_ALLOW_NETWORKS"


def check_literal(host: str, allow_networks: Sequence[Network] = ()) -> str | None:
    """The same for a URL's host before anything is resolved. None for a name, which says
    nothing yet: its addresses will.

    Numbers that the C library reads as an address though no browser shows them so
    (`2130706433`, `0x7f.1`, `127.1`, `0177.0.0.1`) are refused, allowed network or not.
    """
    bare = host.removeprefix("[").removesuffix("]")
    if ":" in bare or _looks_numeric(bare):
        return allowed(bare, allow_networks)
    return None


def _looks_numeric(host: str) -> bool:
    last = host.rstrip(".").rpartition(".")[2].lower()
    return last.isdigit() or (
        last.startswith("0x") and all(c in "0123456789abcdef" for c in last[2:])
    )
