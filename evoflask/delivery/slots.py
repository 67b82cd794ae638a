"""How much may be under way at once, so that nobody waits for somebody else. Pure.

Three pools. `proven` is for lanes whose last attempts succeeded, `unproven` for the others
(no success yet, failing, or something of theirs has been under way for over a second): a
thousand destinations that hang fill the second one and not the first. What has been under
way for over a second moves to `slow`, which is large, so that it leaves room in its own.
"""

from __future__ import annotations

from collections import deque

SLOW_AFTER = 1.0
"""Seconds under way after which a delivery leaves the quick slots."""


class Pool:
    """A bound on deliveries and on their bytes. One delivery is always let in, however large."""

    __slots__ = ("bytes", "bytes_limit", "count", "limit")

    def __init__(self, limit: int, bytes_limit: int) -> None:
        self.limit, self.bytes_limit = limit, bytes_limit
        self.count = 0
        self.bytes = 0

    @property
    def free(self) -> bool:
        return self.count < self.limit

    def fits(self, size: int) -> bool:
        return self.bytes == 0 or self.bytes + size <= self.bytes_limit


class Slot:
    """The room that one delivery takes, from when its body is read until it ended."""

    __slots__ = ("owner", "pool", "running", "since", "size")

    def __init__(self, pool: Pool, size: int) -> None:
        self.pool = pool
        self.size = size
        self.since = 0.0
        self.running = False
        self.owner: object = None
        """Whose delivery it is, for who is told that it became slow."""


class Slots:
    """All of a sink's room in one drain. Bytes are counted as `drain_bytes` per pool."""

    def __init__(self, quick: int, slow: int, total_bytes: int) -> None:
        self.proven = Pool(quick, total_bytes // 4)
        self.unproven = Pool(quick, total_bytes // 4)
        self.slow = Pool(slow, total_bytes // 2)
        self._running: deque[Slot] = deque()

    def pool(self, proven: bool) -> Pool:
        return self.proven if proven else self.unproven

    def reserve(self, proven: bool, size: int) -> Slot | None:
        """Room for a body that is about to be read; None: not now."""
        pool = self.pool(proven)
        if not pool.fits(size):
            return None
        pool.bytes += size
        return Slot(pool, size)

    def release(self, slot: Slot) -> None:
        """The body was let go of; a delivery that ran is over."""
        slot.pool.bytes -= slot.size
        if slot.running:
            slot.pool.count -= 1
            slot.running = False
        slot.size = 0

    def run(self, slot: Slot, owner: object, proven: bool, now: float) -> None:
        """The delivery starts."""
        pool = self.pool(proven)
        if slot.pool is not pool:
            self._move(slot, pool)
        pool.count += 1
        slot.owner, slot.running, slot.since = owner, True, now
        self._running.append(slot)

    def age(self, now: float) -> list[Slot]:
        """Move what has been under way for over a second to the slow pool, while that has
        room. Answers what moved."""
        moved: list[Slot] = []
        while self._running:
            slot = self._running[0]
            if not slot.running or slot.pool is self.slow:
                self._running.popleft()
                continue
            if now - slot.since <= SLOW_AFTER:
                break
            if not self.slow.free or not self.slow.fits(slot.size):
                break
            self._running.popleft()
            slot.pool.count -= 1
            self._move(slot, self.slow)
            self.slow.count += 1
            moved.append(slot)
        return moved

    def _move(self, slot: Slot, pool: Pool) -> None:
        slot.pool.bytes -= slot.size
        pool.bytes += slot.size
        slot.pool = pool
