"""Decide which request gets the next thread. Pure; belongs to the main thread.

A holder is a key, or an address that sends none. A holder has a share of the threads. Requests
beyond the share wait for the holder's own requests, and take no thread from others. Holders with
waiting requests take turns. Keys that the process does not know have every fourth turn while others
wait, however many such keys there are.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

T = TypeVar("T")
_STRANGERS_EVERY: Final = 4


class Turns(Generic[T]):
    """Gives threads to requests. `threads`: requests that may be under way at once."""

    def __init__(self, threads: int) -> None:
        self._free = threads
        self._waiting: dict[Hashable, deque[T]] = {}
        self._under_way: Counter[Hashable] = Counter()
        self._shares: dict[Hashable, int] = {}
        self._first: dict[Hashable, bool] = {}
        self._ready: dict[bool, deque[Hashable]] = {True: deque(), False: deque()}
        """Holders with a waiting request and a free share, each once: known ones, strangers."""
        self._turn = 0

    @property
    def starving(self) -> bool:
        """Return True if a request waits for a thread, and not for its holder's share."""
        return bool(self._ready[True] or self._ready[False])

    def add(self, item: T, holder: Hashable, share: int, *, known: bool = True) -> None:
        """Let a request wait. `share`: how many of its holder may be under way at once."""
        waiting = self._waiting.setdefault(holder, deque())
        self._shares[holder] = max(1, share)
        self._first[holder] = known
        waiting.append(item)
        if len(waiting) == 1 and self._has_share(holder):
            self._ready[self._first[holder]].append(holder)

    def next(self) -> T | None:
        """Return a request to start now, or None. Each needs one call of `done`."""
        if not self._free or not self.starving:
            return None
        self._turn += 1
        known = bool(self._ready[True])
        if known and self._ready[False]:
            known = self._turn % _STRANGERS_EVERY != 0
        holder = self._ready[known].popleft()
        waiting = self._waiting[holder]
        item = waiting.popleft()
        self._free -= 1
        self._under_way[holder] += 1
        if not waiting:
            del self._waiting[holder]
        elif self._has_share(holder):
            self._ready[self._first[holder]].append(holder)
        return item

    def done(self, holder: Hashable) -> None:
        """Give back the thread of a request of this holder."""
        self._free += 1
        had_share = self._has_share(holder)
        self._under_way[holder] -= 1
        if not self._under_way[holder]:
            del self._under_way[holder]
        if holder not in self._waiting:
            if holder not in self._under_way:
                del self._shares[holder], self._first[holder]
        elif not had_share and self._has_share(holder):
            self._ready[self._first[holder]].append(holder)

    def _has_share(self, holder: Hashable) -> bool:
        return self._under_way[holder] < self._shares[holder]
