"""The operator's keys by name, and who must wait for having brought wrong ones."""

from __future__ import annotations

import ipaddress

import pytest

from evoflask.doorkeeper import ADDRESSES, KNOWN, Doorkeeper, client_address
from evoflask.errors import TooManyFailures
from evoflask.keyring import Key, Keyring, digest

PROXIES = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))
RIGHT, OTHER = digest("right"), digest("other")


def test_each_key_is_found_by_its_digest_with_its_name() -> None:
    keys = Keyring("main", [("new", "key-2")], [("eyes", "key-3")])

    found = [keys.find(digest(text)) for text in ("main", "key-2", "key-3", "", "Main")]

    assert found == [
        Key("global", read_only=False),
        Key("new", read_only=False),
        Key("eyes", read_only=True),
        None,
        None,
    ]


def test_without_keys_nothing_is_one() -> None:
    assert Keyring("").find(digest("")) is None


def test_a_key_that_is_both_is_the_one_that_may_more() -> None:
    assert Keyring("", [("a", "k")], [("b", "k")]).find(digest("k")) == Key("a", read_only=False)


def test_what_follows_from_a_key_is_its_own() -> None:
    keys = Keyring("main", [("new", "key-2")])

    derived = {
        keys.derive("global", b"x"),
        keys.derive("new", b"x"),
        keys.derive("global", b"y"),
        Keyring("other").derive("global", b"x"),
    }

    assert len(derived) == 4
    with pytest.raises(KeyError):
        keys.derive("gone", b"x")


def test_after_too_many_failures_an_address_waits_until_the_first_is_a_minute_ago() -> None:
    door = Doorkeeper(3)
    for now in (0.0, 10.0, 20.0):
        door.admit(lambda: "a", OTHER, now)
        door.failed("a", now)

    with pytest.raises(TooManyFailures) as caught:
        door.admit(lambda: "a", OTHER, 30.0)

    assert caught.value.retry_after == 31
    door.admit(lambda: "b", OTHER, 30.0)
    door.admit(lambda: "a", OTHER, 60.0)
    door.failed("a", 60.0)
    with pytest.raises(TooManyFailures):
        door.admit(lambda: "a", OTHER, 61.0)


def test_a_key_that_was_right_before_does_not_wait_for_a_stranger_behind_its_address() -> None:
    door = Doorkeeper(1)
    door.succeeded(RIGHT)
    door.failed("a", 0.0)

    door.admit(lambda: "a", RIGHT, 1.0)

    with pytest.raises(TooManyFailures):
        door.admit(lambda: "a", OTHER, 1.0)
    door.forget(RIGHT)
    with pytest.raises(TooManyFailures):
        door.admit(lambda: "a", RIGHT, 1.0)


def test_what_is_remembered_has_a_bound() -> None:
    door = Doorkeeper(1)

    for n in range(ADDRESSES + 10):
        door.failed(f"a{n}", 0.0)
    for n in range(KNOWN + 10):
        door.succeeded(f"k{n}")

    assert len(door._failures) == ADDRESSES
    assert len(door._known) == KNOWN


@pytest.mark.parametrize(
    ("peer", "forwarded", "found"),
    [
        ("192.0.2.1", "", "192.0.2.1"),
        ("192.0.2.1", "198.51.100.9", "192.0.2.1"),  # no proxy of ours says so
        ("10.0.0.1", "198.51.100.9", "198.51.100.9"),
        ("10.0.0.1", "1.1.1.1, 198.51.100.9", "198.51.100.9"),  # the client wrote 1.1.1.1
        ("10.0.0.1", "1.1.1.1, 198.51.100.9, 10.2.3.4", "198.51.100.9"),
        ("10.0.0.1", "10.2.3.4", "10.2.3.4"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "1.1.1.1, unknown", "10.0.0.1"),
        ("10.0.0.1", "1.1.1.1:80", "10.0.0.1"),
        ("fd00::1", "2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "1.1.1.1", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "", "::ffff:192.0.2.1"),
        ("", "1.1.1.1", ""),
    ],
)
def test_whom_a_request_is_from(peer: str, forwarded: str, found: str) -> None:
    assert client_address(peer, forwarded, PROXIES) == found
