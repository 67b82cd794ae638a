"""Limit wrong keys by address. Safe between threads.

A right key always passes, even from an address that sent too many wrong ones. Neighbours may share
that address. The address of a key counts only after the key proved wrong.

An address over its limit gets 429 for a wrong key. A key that this process has not seen may be
right, so one query looks it up. All threads share that query, so only one is under way at a time.
"""

from __future__ import annotations

import ipaddress
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Sequence
from typing import Final

from evoflask.errors import TooManyFailures

MINUTE: Final = 60.0
ADDRESSES: Final = 10_000
"""Addresses that are remembered. One more replaces the address with the oldest failure."""
KNOWN: Final = 10_000
"""Right keys that are remembered. One more replaces the least recently used key."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
LookUp = Callable[[Collection[str]], Collection[str]]
"""Takes digests or cookies, and returns the right ones."""


class Doorkeeper:
    """`most`: wrong keys of one address in a minute. `look_up` finds the keys that are right."""

    def __init__(self, most: int, look_up: LookUp) -> None:
        self._most = most
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()
        self._known: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()
        self._look_up = Shared(look_up)

    def admit(
        self,
        address: Callable[[], str],
        sha256: str,
        now: float,
        is_right: Callable[[], bool] | None = None,
    ) -> None:
        """Refuse a wrong key from an address over its limit, and no other key.

        `address` is called only if an address has failures. `now`: seconds of a monotonic clock.
        `is_right` replaces `look_up` for a key that `look_up` cannot find.
        Raises `TooManyFailures`, or the error of the look-up.
        """
        if not self._failures or self.knows(sha256):
            return
        wait = self._wait(address(), now)
        if wait > 0 and not (self._look_up(sha256) if is_right is None else is_right()):
            raise too_many(wait)

    def knows(self, sha256: str) -> bool:
        """Return True if the key was right when this process last saw it."""
        return sha256 in self._known

    def failed(self, address: str, now: float) -> float:
        """Count a wrong key, unless its address is over the limit.

        Return the seconds that the address must wait, or 0 if it is not over the limit.
        """
        wait = self._wait(address, now)
        if wait > 0:
            return wait
        with self._lock:
            times = self._failures.setdefault(address, deque(maxlen=self._most))
            times.append(now)
            self._failures.move_to_end(address)
            while len(self._failures) > ADDRESSES:
                self._failures.popitem(last=False)
        return 0.0

    def succeeded(self, sha256: str) -> None:
        """Remember a right key."""
        with self._lock:
            self._known[sha256] = None
            self._known.move_to_end(sha256)
            while len(self._known) > KNOWN:
                self._known.popitem(last=False)

    def forget(self, sha256: str) -> None:
        """Forget a key that was wrong this time."""
        with self._lock:
            self._known.pop(sha256, None)

    def _wait(self, address: str, now: float) -> float:
        with self._lock:
            times = self._failures.get(address)
            if times is None or len(times) < self._most:
                return 0.0
            return max(0.0, times[0] + MINUTE - now)


def too_many(wait: float) -> TooManyFailures:
    """Return the error for a wrong key whose address must wait `wait` seconds."""
    error = TooManyFailures("Too many wrong keys came from this address; wait a minute.")
    error.retry_after = int(wait) + 1
    return error


class _Batch:
    """Digests of one query, and its result."""

    def __init__(self) -> None:
        self.wanted: set[str] = set()
        self.found: Collection[str] | None = None
        self.error: Exception | None = None


class Shared:
    """Runs one query at a time. Threads that arrive during a query share the next one."""

    def __init__(self, look_up: LookUp) -> None:
        self._look_up = look_up
        self._next = _Batch()
        self._lock = threading.Lock()
        self._turn = threading.Lock()

    def __call__(self, sha256: str) -> bool:
        """Return True if the digest or cookie is right.

        Raises the query's error in each of its threads.
        """
        with self._lock:
            batch = self._next
            batch.wanted.add(sha256)
        with self._turn:
            if batch.found is None and batch.error is None:
                self._run(batch)
        if batch.error is not None:
            raise batch.error
        return sha256 in (batch.found or ())

    def _run(self, batch: _Batch) -> None:
        with self._lock:
            self._next = _Batch()
        try:
            batch.found = self._look_up(batch.wanted)
        except Exception as error:
            batch.error = error


def client_address(peer: str, forwarded_for: str, trusted: Sequence[Network]) -> str:
    """Whom a request is from: `peer`, or where that is a proxy of ours, whom it names, from the
    right, as long as those are proxies of ours too. What a client writes there itself stands
    further left, and counts for nothing.

    An IPv6 address stands for its /64: who has one has all of them.
    """
    address = peer
    for named in reversed([each.strip() for each in forwarded_for.split(",")] if trusted else []):
        if not is_in(address, trusted) or _parse(named) is None:
            break
        address = named
    parsed = _parse(address)
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is None:
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return address


def _parse(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None


def is_in(address: str, networks: Sequence[Network]) -> bool:
    """Return True if the address is in one of the networks. Text that is no address is in none."""
    parsed = _parse(address)
    return parsed is not None and any(parsed in network for network in networks)
