"""The clock's recount of stored bytes: some instances in turn, some entries a tick.

A release that knows no sums erases entries without counting, and an expired key takes its entries
along. The sum then stays too high, and retention gives way too early.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Final

from evoflask.outbox import Outbox, verbs
from evoflask.outbox.timetable import Timetable

log = logging.getLogger(__name__)

CALLS: Final = 20
"""Scripts a tick and partition."""
ENTRIES: Final = 25
"""Entries that one script reads: 3 ms of Redis with bodies of 32 kB."""
INSTANCES: Final = 10_000
"""Instances whose sums are added up in one script: some milliseconds of Redis."""
REST_SECONDS: Final = 10.0
"""Pause after all instances of a partition had their turn."""


@dataclass(slots=True)
class _Round:
    """Holds the progress of one pass over all instances of a partition."""

    waiting: deque[str] = field(default_factory=deque)
    cursor: int = 0
    all_read: bool = False
    begins: float = 0.0
    """Start of the pass, in seconds of the monotonic clock."""


class Recounts:
    """`step` is called each second for each partition. Raises what the outbox raises."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._timetable = Timetable(outbox)
        self._rounds: dict[int, _Round] = defaultdict(_Round)

    def step(self, partition: int) -> None:
        """Go on with the round where the last step stopped."""
        now = self._rounds[partition]
        for _ in range(CALLS):
            if time.monotonic() < now.begins:
                return
            if now.waiting:
                self._recount(partition, now)
            elif now.all_read:
                self._outbox.run(verbs.resum(partition, most=INSTANCES))
                self._rounds[partition] = _Round(begins=time.monotonic() + REST_SECONDS)
                return
            else:
                now.cursor, found = self._timetable.stored(partition, now.cursor)
                now.waiting.extend(found)
                now.all_read = not now.cursor

    def _recount(self, partition: int, now: _Round) -> None:
        i = now.waiting[0]
        done, kept, found = self._outbox.run(verbs.recount(partition, i, n=ENTRIES))
        if not done:
            return
        now.waiting.popleft()
        if kept != found:
            extra = {"instance_id": i, "kept": kept, "found": found}
            log.info("the stored bytes of an instance were corrected", extra=extra)
