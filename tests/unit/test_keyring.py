"""The operator's keys by name, and the limit for wrong keys."""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

import pytest

from evoflask.dev.process import wait_for
from evoflask.doorkeeper import ADDRESSES, KNOWN, Doorkeeper, client_address
from evoflask.errors import DatabaseDown, TooManyFailures
from evoflask.keyring import Key, Keyring, digest

PROXIES = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))
RIGHT, UNSEEN, OTHER = digest("right"), digest("unseen"), digest("other")


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


def doorkeeper(most: int, *right: str) -> Doorkeeper:
    return Doorkeeper(most, lambda digests: {each for each in digests if each in right})


def test_after_too_many_wrong_keys_more_wait_until_the_first_is_a_minute_ago() -> None:
    door = doorkeeper(3)
    for now in (0.0, 10.0, 20.0):
        door.admit(lambda: "a", OTHER, now)
        assert door.failed("a", now) == 0.0

    with pytest.raises(TooManyFailures) as caught:
        door.admit(lambda: "a", OTHER, 30.0)

    assert caught.value.retry_after == 31
    assert door.failed("a", 30.0) == 30.0
    door.admit(lambda: "b", OTHER, 30.0)
    door.admit(lambda: "a", OTHER, 60.0)
    assert door.failed("a", 60.0) == 0.0
    with pytest.raises(TooManyFailures):
        door.admit(lambda: "a", OTHER, 61.0)


def test_a_right_key_passes_from_an_address_over_its_limit() -> None:
    """A key that was right before costs no query. A key that is new to the process costs one."""
    asked: list[str] = []

    def look_up(digests: Collection[str]) -> set[str]:
        asked.extend(digests)
        return {UNSEEN} & set(digests)

    door = Doorkeeper(1, look_up)
    door.succeeded(RIGHT)
    door.failed("a", 0.0)

    door.admit(lambda: "a", RIGHT, 1.0)
    door.admit(lambda: "a", UNSEEN, 1.0)

    with pytest.raises(TooManyFailures):
        door.admit(lambda: "a", OTHER, 1.0)
    assert asked == [UNSEEN, OTHER]


def test_a_key_that_was_right_and_is_wrong_now_waits_as_any_other() -> None:
    door = doorkeeper(1)
    door.succeeded(RIGHT)
    door.failed("a", 0.0)

    door.forget(RIGHT)

    with pytest.raises(TooManyFailures):
        door.admit(lambda: "a", RIGHT, 1.0)


def test_threads_that_bring_wrong_keys_share_one_query_at_a_time() -> None:
    begun, go = threading.Event(), threading.Event()
    queries: list[set[str]] = []

    def look_up(digests: Collection[str]) -> set[str]:
        queries.append(set(digests))
        begun.set()
        assert go.wait(60)
        return {UNSEEN} & set(digests)

    door = Doorkeeper(1, look_up)
    door.failed("a", 0.0)

    def admitted(sha256: str) -> bool:
        try:
            door.admit(lambda: "a", sha256, 1.0)
        except TooManyFailures:
            return False
        return True

    with ThreadPoolExecutor(40) as pool:
        first = pool.submit(admitted, "first")
        assert begun.wait(60)
        rest = [pool.submit(admitted, f"w{n}") for n in range(38)] + [pool.submit(admitted, UNSEEN)]
        wait_for(lambda: len(door._look_up._next.wanted) == 39, 60, "all of them to wait")
        go.set()

        assert not first.result()
        assert [each.result() for each in rest] == [False] * 38 + [True]

    assert [len(each) for each in queries] == [1, 39]


def test_a_query_that_fails_is_an_error_for_each_that_waited_and_for_no_other() -> None:
    outcomes: list[Exception | set[str]] = [DatabaseDown("down"), {UNSEEN}]

    def look_up(_: Collection[str]) -> set[str]:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    door = Doorkeeper(1, look_up)
    door.failed("a", 0.0)

    with pytest.raises(DatabaseDown):
        door.admit(lambda: "a", UNSEEN, 1.0)
    door.admit(lambda: "a", UNSEEN, 1.0)


def test_what_is_remembered_has_a_bound() -> None:
    door = doorkeeper(1)

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
