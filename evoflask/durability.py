"""Say what would be lost now if Redis, its machine or its disk failed.

The sentences follow from Redis' present state, not from its configuration alone. `/readyz`,
`flask doctor`, the log and the operator's webhook show them. All of this is pure except `Stalls`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from evoflask.outbox.totals import Server
from evoflask.plurals import counted

WELL, AILING, FAILING = "well", "ailing", "failing"

AT_RISK = {
    "always": "A power cut loses nothing that was answered 202.",
    "everysec": "A power cut can lose what was accepted in the last second, two at most. "
    "A death of the Redis process alone loses nothing that was answered 202.",
    "no": "A power cut can lose what the kernel has not written yet, usually half a minute. "
    "A death of the Redis process alone loses nothing that was answered 202.",
}
"""Cost of a healthy Redis by `appendfsync`."""
RECENT = 60.0
"""Seconds for which a disk that stalled is reported."""


@dataclass(frozen=True, slots=True)
class Risk:
    """The state of Redis' disk, and sentences about it.

    `disk` is `WELL`, `AILING` (a rewrite, a snapshot or an fsync failed) or `FAILING` (Redis
    refuses every write). `wrong`: faults to attend to, worst first. `cost`: what would be lost now.
    """

    disk: str
    wrong: tuple[str, ...]
    cost: str

    @property
    def failing(self) -> bool:
        return self.disk == FAILING

    @property
    def words(self) -> str:
        return " ".join([*self.wrong, self.cost])


def judge(server: Server, *, stalled: int = 0, now: float) -> Risk:
    """Return the risk that follows from a server's state.

    `stalled`: fsyncs of the last minute that took over two seconds. `now`: Unix seconds.
    """
    wrong = tuple(_wrong_disk(server, stalled))
    if server.refusal or not server.disk.appends:
        return Risk(FAILING, wrong, _cost_of_failing(server, now))
    disk = AILING if wrong else WELL
    return Risk(disk, (*wrong, *_wrong_settings(server)), _cost(server))


def _wrong_disk(server: Server, stalled: int) -> Iterator[str]:
    disk = server.disk
    if server.refusal or not disk.appends:
        why = server.refusal or "its append-only file could not be written"
        yield (
            f"Redis refuses all writes: {why}. Events are answered 503, and no delivery is "
            "settled. Free disk space or repair the disk. Redis then resumes within a second; do "
            "not restart it before."
        )
    if not disk.rewrites:
        yield (
            "The last rewrite of Redis' append-only file failed. Its log has the reason, often a "
            "full disk. The file grows until the disk is full."
        )
    if not disk.snapshots and not server.refusal:
        yield "Redis' last snapshot failed. Its log has the reason, often a full disk."
    if stalled:
        fsyncs = counted(stalled, "fsync")
        yield (
            f"Redis' disk stalls: {fsyncs} of the last minute took over two seconds. "
            "Events wait for them, or are answered 503."
        )


def _wrong_settings(server: Server) -> Iterator[str]:
    if server.policy not in ("", "noeviction"):
        yield (
            f"maxmemory-policy is {server.policy}: Redis may drop accepted events when its "
            "memory is full. Set it to noeviction."
        )


def _cost(server: Server) -> str:
    if not server.disk.appendonly:
        return (
            "Redis keeps no append-only file (appendonly no). A power cut or a restart loses all "
            "waiting events, or those since its last snapshot."
        )
    unknown = "Redis does not report its appendfsync; ask its operator."
    return AT_RISK.get(server.fsync or "", unknown)


def _cost_of_failing(server: Server, now: float) -> str:
    disk = server.disk
    if not disk.appendonly:
        age = max(0.0, now - disk.snapshot_at)
        return (
            "The death of the Redis process or of its machine now loses everything since its last "
            f"good snapshot, {counted(round(age), 'second')} ago. This includes events that were "
            "answered 202."
        )
    unwritten = counted(disk.unwritten, "byte")
    return (
        f"The death of the Redis process now loses {unwritten} that Redis could not write. They "
        "are events answered 503 that may still be delivered, and outcomes of deliveries, which "
        "are then repeated. A power cut also loses what was answered 202 in the last two seconds "
        "before the disk failed."
    )


class Stalls:
    """Counts fsyncs over two seconds of the last minute, as one process saw them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._run_id = ""
        self._delayed = 0
        """Redis' count when it was last noted."""
        self._recent: deque[tuple[float, int]] = deque()
        """Monotonic time and number of new stalls. Short: each takes Redis two seconds."""

    def note(self, run_id: str, delayed: int) -> int:
        """Return the stalls of the last minute. `delayed`: Redis' own count since its start.

        The first note of a run of Redis counts nothing: its stalls may be old.
        """
        now = time.monotonic()
        with self._lock:
            if run_id != self._run_id:
                self._run_id, self._delayed = run_id, delayed
            elif delayed > self._delayed:
                self._recent.append((now, delayed - self._delayed))
                self._delayed = delayed
            while self._recent and now - self._recent[0][0] > RECENT:
                self._recent.popleft()
            return sum(n for _, n in self._recent)
