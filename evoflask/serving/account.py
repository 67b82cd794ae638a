"""Count the bytes of requests and answers that a web process holds. Safe between threads.

A request counts from its first byte until it is answered, and so do the bytes that a packed body
becomes. A large answer counts until the client has taken it. Requests whose key this process does
not know share a small part, so clients without a key cannot fill the memory.
"""

from __future__ import annotations

import threading
from typing import Final

SMALL: Final = 16_384
"""Bytes of a request that is received even if the account is full. The number of connections bounds
these requests."""


class Account:
    """Counts bytes against two bounds.

    `most`: bytes of all together. `strangers`: bytes of requests without a known key.
    """

    def __init__(self, most: int, strangers: int) -> None:
        self._most = most
        self._strangers = min(most, strangers)
        self._used = {True: 0, False: 0}
        self._lock = threading.Lock()

    def add(self, size: int, *, known: bool) -> None:
        """Count bytes; a negative size gives them back."""
        with self._lock:
            self._used[known] += size

    def move(self, size: int) -> None:
        """Move bytes of a request from the strangers to the known holders. Negative: back."""
        with self._lock:
            self._used[False] -= size
            self._used[True] += size

    def try_add(self, size: int) -> bool:
        """Count bytes of a known holder, unless they do not fit. Returns True if they do."""
        with self._lock:
            if self.used + size > self._most:
                return False
            self._used[True] += size
            return True

    @property
    def used(self) -> int:
        return self._used[True] + self._used[False]

    def full(self, own: int = 0, *, known: bool) -> bool:
        """Return True if no further large request may be received.

        `own`: bytes of that request that count already.
        """
        used, strangers = self.used - own, self._used[False] - own
        return used >= self._most or (not known and strangers >= self._strangers)

    @property
    def overdrawn(self) -> bool:
        """Return True if all together hold more than their bound."""
        return self.used > self._most

    @property
    def overdrawn_by_strangers(self) -> bool:
        """Return True if strangers hold more than their part."""
        return self._used[False] > self._strangers
