"""Who knocks too often with a wrong key. Pure but for its own memory; safe between threads.

An address that failed too often in the last minute is told to wait, whatever key it brings
next, or guessing would cost nothing. But somebody behind the same address may have the right
one, and must not wait for a stranger: keys that were right before, in this process, are let
through and looked at. So is every key once the minute is over.
"""

from __future__ import annotations

import ipaddress
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Final

from evoflask.errors import TooManyFailures

MINUTE: Final = 60.0
ADDRESSES: Final = 10_000
"""Addresses that are remembered; beyond it the one that was wrong the longest ago goes."""
KNOWN: Final = 10_000
"""Keys that were right; beyond it the one that was used the longest ago goes."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Doorkeeper:
    """`most`: failures of one address in a minute."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()
        self._known: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    def admit(self, address: Callable[[], str], sha256: str, now: float) -> None:
        """Before a key is looked at. `address`: whom it is from, which is only asked where that
        counts; `sha256`: its digest; `now`: seconds, of a clock that never goes back. Raises
        `TooManyFailures`."""
        if not self._failures or sha256 in self._known:
            return
        whose = address()
        with self._lock:
            times = self._failures.get(whose)
            if times is None or len(times) < self._most:
                return
            wait = times[0] + MINUTE - now
        if wait > 0:
            error = TooManyFailures("Too many wrong keys came from this address; wait a minute.")
            error.retry_after = int(wait) + 1
            raise error

    def failed(self, address: str, now: float) -> None:
        """A wrong key came from there."""
        with self._lock:
            times = self._failures.setdefault(address, deque(maxlen=self._most))
            times.append(now)
            self._failures.move_to_end(address)
            while len(self._failures) > ADDRESSES:
                self._failures.popitem(last=False)

    def succeeded(self, sha256: str) -> None:
        """The key was right."""
        with self._lock:
            self._known[sha256] = None
            self._known.move_to_end(sha256)
            while len(self._known) > KNOWN:
                self._known.popitem(last=False)

    def forget(self, sha256: str) -> None:
        """The key was wrong this time: it is as good as any other."""
        with self._lock:
            self._known.pop(sha256, None)


def client_address(peer: str, forwarded_for: str, trusted: Sequence[Network]) -> str:
    """Whom a request is from: `peer`, or where that is a proxy of ours, whom it names, from the
    right, as long as those are proxies of ours too. What a client writes there itself stands
    further left, and counts for nothing.

    An IPv6 address stands for its /64: who has one has all of them.
    """
    address = peer
    for named in reversed([each.strip() for each in forwarded_for.split(",")] if trusted else []):
        if not _is_in(address, trusted) or _parse(named) is None:
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


def _is_in(address: str, networks: Sequence[Network]) -> bool:
    parsed = _parse(address)
    return parsed is not None and any(parsed in network for network in networks)
