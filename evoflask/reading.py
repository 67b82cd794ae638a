"""Bound the bytes that reads of large events hold in a web process, in all and for each key.

An event has up to `MAX_BODY_BYTES`, and a client may take long to read it. So a read borrows the
bytes first, and gives them back once they are sent.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from evoflask.errors import TooMany, Unavailable

SMALL: Final = 65_536
"""Bytes of an event that need no loan: a thread holds more than that itself."""
SHARE: Final = 4
"""A key may hold one part in so many."""
HOLD: Final = "evoflask.hold"
"""A function in a request's environment, by the server. It counts bytes that the application holds
until the request is answered, and returns False if they do not fit."""
RETRY_AFTER: Final = 2
"""Seconds after which a refused client may ask again."""


class Reads:
    """Safe to share between threads."""

    def __init__(self, most: int) -> None:
        """`most`: bytes that all reads may hold. A single event may exceed it, alone."""
        self._most = most
        self._held: Counter[str] = Counter()
        self._changed = threading.Condition()

    def loan(self, holder: str) -> Loan:
        """Return an empty loan for the digest of a key or token."""
        return Loan(self, holder)

    @contextmanager
    def lent(self, holder: str, n: int, wait: float) -> Iterator[None]:
        """Hold `n` bytes within the block, for a caller that can try again later.

        Raises `Unavailable` if they are not free within `wait` seconds.
        """
        if n > SMALL and self.take(holder, n, wait):
            raise _too_many()
        try:
            yield
        finally:
            if n > SMALL:
                self.give(holder, n)

    def take(self, holder: str, n: int, wait: float = 0.0) -> str:
        """Take `n` bytes within `wait` seconds and return "".

        Else return "key" if the holder has its share, or "all" if others hold too many.
        """
        end = time.monotonic() + wait
        with self._changed:
            while self._refused(holder, n):
                left = end - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    return self._refused(holder, n) or self._add(holder, n)
            return self._add(holder, n)

    def give(self, holder: str, n: int) -> None:
        """Give bytes back."""
        with self._changed:
            self._held[holder] -= n
            if self._held[holder] <= 0:
                del self._held[holder]
            self._changed.notify_all()

    @property
    def held(self) -> int:
        """Bytes that are held now."""
        with self._changed:
            return self._held.total()

    def _add(self, holder: str, n: int) -> str:
        self._held[holder] += n
        return ""

    def _refused(self, holder: str, n: int) -> str:
        mine = self._held.get(holder, 0)
        if mine and mine + n > self._most // SHARE:
            return "key"
        total = self._held.total()
        return "all" if total and total + n > self._most else ""


class Loan:
    """The bytes that one read holds. One thread owns it; any thread may call `give`."""

    def __init__(self, reads: Reads, holder: str) -> None:
        self._reads = reads
        self._holder = holder
        self._n = 0

    def take(self, n: int) -> None:
        """Take `n` bytes more; small ones are free. Raises `TooMany`, `Unavailable`."""
        if n <= SMALL:
            return
        why = self._reads.take(self._holder, n)
        if why == "key":
            many = TooMany(
                "Other large events are still being read with this key; read their answers to "
                "the end, then repeat."
            )
            many.retry_after = RETRY_AFTER
            raise many
        if why:
            raise _too_many()
        self._n += n

    def give(self) -> None:
        """Give all of it back. May be called twice."""
        n, self._n = self._n, 0
        if n:
            self._reads.give(self._holder, n)

    def borrow(self, n: int) -> bool:
        """Take `n` bytes for a socket. Return False if the socket must wait.

        A socket that holds bytes gets more only after it gave them back.
        """
        if n <= SMALL:
            return True
        if self._n or self._reads.take(self._holder, n):
            return False
        self._n = n
        return True

    @property
    def held(self) -> int:
        """Bytes that it holds."""
        return self._n


def _too_many() -> Unavailable:
    error = Unavailable("Too many large events are being read here; repeat.")
    error.retry_after = RETRY_AFTER
    return error
