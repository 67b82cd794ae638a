"""What the death of Redis, of its machine and of its disk would cost now, in words.

Judged by Redis' present state, not by its configuration alone. For `/readyz`, `flask doctor`,
the log and the operator's webhook. Everything here is pure but `Stalls`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from evoflask.outbox.totals import Server

WELL, AILING, FAILING = "well", "ailing", "failing"

AT_RISK = {
    "always": "A power cut loses nothing that was answered 202.",
    "everysec": "A power cut can cost what was accepted in the last second, two at most; "
    "the death of the Redis process alone costs nothing that was answered 202.",
    "no": "A power cut can cost what was accepted since the kernel last wrote, half a minute "
    "usually; the death of the Redis process alone costs nothing that was answered 202.",
}
"""Cost of a healthy Redis by `appendfsync`."""
RECENT = 60.0
"""Seconds for which a disk that stalled is reported."""


@dataclass(frozen=True, slots=True)
class Risk:
    """`disk`: of `WELL`, `AILING` (a rewrite, a snapshot or an fsync failed) and `FAILING` (Redis
    refuses every write). `wrong`: sentences on what needs attention, worst first. `cost`: what
    would be lost now."""

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
    """`stalled`: fsyncs of the last minute that took over two seconds; `now`: Unix seconds."""
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
            "settled. Give its disk room or mend it: Redis goes on by itself within a second. Do "
            "not restart Redis before."
        )
    if not disk.rewrites:
        yield (
            "Redis could not rewrite its append-only file the last time (its log says why; often "
            "the disk is full): the file grows until the disk is full."
        )
    if not disk.snapshots and not server.refusal:
        yield ("Redis could not save its last snapshot (its log says why; often the disk is full).")
    if stalled:
        yield (
            f"Its disk stalls: {stalled} fsyncs of the last minute took over two seconds. Events "
            "wait for them, or are answered 503."
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
            "Redis keeps no append-only file (appendonly no): a power cut or a restart loses all "
            "that waits, or what came since its last snapshot."
        )
    unknown = "Redis does not tell its appendfsync; ask who runs it."
    return AT_RISK.get(server.fsync or "", unknown)


def _cost_of_failing(server: Server, now: float) -> str:
    disk = server.disk
    if not disk.appendonly:
        age = max(0.0, now - disk.snapshot_at)
        return (
            "The death of the Redis process or of its machine now loses everything since its last "
            f"good snapshot, {age:.0f} seconds ago: what was answered 202 since then too."
        )
    return (
        "The death of the Redis process now loses what Redis holds in memory and could not write "
        f"({disk.unwritten} bytes): events answered 503 that may still be delivered, and outcomes "
        "of deliveries, which are then repeated. A power cut also loses what was answered 202 in "
        "the last two seconds before the disk failed."
    )


class Stalls:
    """Counts fsyncs over two seconds of the last minute, as one process saw them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: tuple[str, int] | None = None
        """Run id of Redis, and its count."""
        self._last = (0, 0.0)
        """How many, and when by the monotonic clock."""

    def note(self, run_id: str, delayed: int) -> int:
        """`delayed`: Redis' count since its start. Returns those of the last minute."""
        now = time.monotonic()
        with self._lock:
            count, at = self._last
            if now - at > RECENT:
                count = 0
            if self._seen and self._seen[0] == run_id and delayed > self._seen[1]:
                count, at = count + delayed - self._seen[1], now
                self._last = (count, at)
            self._seen = (run_id, delayed)
            return count
