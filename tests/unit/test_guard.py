"""The table of addresses."""

from __future__ import annotations

import ipaddress

import pytest

from evoflask.net.guard import allowed, check_literal

REACHABLE = [
    *("1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0"),
    *("126.255.255.255", "128.0.0.0", "169.253.255.255", "169.255.0.0", "172.15.255.255"),
    *("172.32.0.0", "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0"),
    *("223.255.255.255", "168.63.129.15", "2606:4700:4700::1111", "2a00:1450::1", "2001:4860::1"),
    *("2600::1", "2003::1"),
]
REFUSED = {
    "unspecified": ["0.0.0.0", "::"],
    "private": [
        *("10.0.0.0", "10.255.255.255", "172.16.0.0", "172.31.255.255", "192.168.0.1"),
        *("fc00::1", "fdff::1", "fec0::1"),
    ],
    "loopback": ["127.0.0.1", "127.255.255.255", "::1"],
    "link-local": ["169.254.0.1", "169.254.255.255", "fe80::1", "febf::1", "fe80::1%eth0", "::1%1"],
    "carrier-grade NAT": ["100.64.0.0", "100.127.255.255", "100.100.100.200"],
    "multicast": ["224.0.0.1", "239.255.255.255", "ff02::1"],
    "reserved": [
        *("0.1.2.3", "240.0.0.1", "255.255.255.255", "192.0.0.192", "192.0.2.1", "198.18.0.1"),
        *("198.19.255.255", "198.51.100.1", "203.0.113.1", "2001:db8::1", "100::1", "4000::1"),
        *("3fff::1", "5f00::1", "2001:2::1", "8000::1"),
    ],
    "metadata service": ["169.254.169.254", "169.254.170.2", "168.63.129.16", "fd00:ec2::254"],
    "IPv4 inside IPv6 (mapped)": ["::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:7f00:1"],
    "IPv4 inside IPv6 (translated)": ["::ffff:0:127.0.0.1"],
    "IPv4 inside IPv6 (compatible)": ["::127.0.0.1", "::8.8.8.8", "::2"],
    "IPv4 inside IPv6 (6to4)": ["2002:7f00:1::1", "2002:808:808::1"],
    "IPv4 inside IPv6 (NAT64)": ["64:ff9b::127.0.0.1", "64:ff9b::808:808", "64:ff9b:1::a00:1"],
    "IPv4 inside IPv6 (Teredo)": ["2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001::1"],
    "IPv4 inside IPv6 (ISATAP)": ["2606:4700::5efe:7f00:1", "2606:4700::200:5efe:10.0.0.1"],
    "6to4 relay": ["192.88.99.1"],
    "not an IP address": [
        *("", "localhost", "2130706433", "127.1", "0177.0.0.1", "0x7f.0.0.1", "1.2.3.4.5"),
        *("１.1.1.1", "1.1.1.1 ", "1.1.1.256", ":::", "[::1]", "1.1.1.1/32"),
    ],
}
PAIRS = [(address, reason) for reason, addresses in REFUSED.items() for address in addresses]


@pytest.mark.parametrize("address", REACHABLE)
def test_a_public_address_may_be_reached(address: str) -> None:
    assert allowed(address) is None


@pytest.mark.parametrize(("address", "reason"), PAIRS)
def test_any_other_address_is_refused_with_its_reason(address: str, reason: str) -> None:
    assert allowed(address) == reason


@pytest.mark.parametrize(
    ("network", "address", "reason"),
    [
        ("127.0.0.0/8", "127.0.0.1", None),
        ("127.0.0.0/8", "::ffff:127.0.0.1", "IPv4 inside IPv6 (mapped)"),
        ("127.0.0.0/8", "10.0.0.1", "private"),
        ("127.0.0.1/32", "127.0.0.2", "loopback"),
        ("10.1.0.0/16", "10.1.2.3", None),
        ("10.1.0.0/16", "10.2.0.1", "private"),
        ("::1/128", "::1", None),
        ("::1/128", "127.0.0.1", "loopback"),
        ("64:ff9b::/96", "64:ff9b::8.8.8.8", None),
        ("::/0", "fd00::1", None),
        ("0.0.0.0/0", "169.254.169.254", None),
        ("fe80::/10", "fe80::1%eth0", "link-local"),
    ],
)
def test_an_allowed_network_opens_its_own_addresses_only(
    network: str, address: str, reason: str | None
) -> None:
    assert allowed(address, [ipaddress.ip_network(network)]) == reason


@pytest.mark.parametrize(
    "host", ["example.com", "localhost", "a.b.", "1a.example", "0x7g", "münchen.example", "x-1"]
)
def test_a_name_says_nothing_before_it_is_resolved(host: str) -> None:
    assert check_literal(host) is None


@pytest.mark.parametrize("host", ["1.1.1.1", "[2606:4700::1]", "2606:4700::1"])
def test_a_public_literal_passes(host: str) -> None:
    assert check_literal(host) is None


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "[::1]", "::1", "2130706433", "127.1", "0177.0.0.1", "0x7f.1", "0X7F000001"),
        *("1.2.3.4.", "0", "00.0.0.0", "1.2.3.0x", "256.256.256.256", "[fe80::1%25eth0]"),
    ],
)
def test_a_literal_inside_or_of_an_odd_spelling_is_refused(host: str) -> None:
    assert check_literal(host) is not None


def test_an_odd_spelling_is_refused_where_its_address_is_allowed() -> None:
    networks = [ipaddress.ip_network("127.0.0.0/8")]

    assert check_literal("127.0.0.1", networks) is None
    assert check_literal("2130706433", networks) == "not an IP address"
