"""Read the state of Redis' disk, and log when Redis refuses writes.

With `appendfsync everysec` Redis answers a command before the kernel has taken it. The write may
fail, or wait for an fsync that is under way. Redis refuses only the commands after a failed write
(MISCONF). So each append is followed by a check, see `client.Outbox.run_written`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evoflask.log import Repeats

log = logging.getLogger(__name__)

CALM = 2.0
"""Seconds without a refusal after which a success ends the failure."""
READS = frozenset({"look", "find", "fate", "scan", "check", "inspect", "leaks"})
"""Verbs that work while Redis refuses writes."""


@dataclass(frozen=True, slots=True)
class Disk:
    """The state of Redis' files, as Redis reports it. A hidden field counts as healthy."""

    appendonly: bool = False
    appends: bool = True
    """The last write to the append-only file worked."""
    rewrites: bool = True
    """The last rewrite of the append-only file worked."""
    snapshots: bool = True
    """The last snapshot worked."""
    snapshot_at: float = 0.0
    """Date of the last good snapshot, or of the server's start, Unix seconds."""
    unwritten: int = 0
    """Bytes that were answered and not yet handed to the kernel."""
    delayed: int = 0
    """Times that Redis waited two seconds for an fsync, since its start."""


HEALTHY = Disk()


def read(info: Mapping[str, Any]) -> Disk:
    """Return the state in redis-py's `info`, which has the section `persistence`."""
    return Disk(
        appendonly=bool(info.get("aof_enabled")),
        appends=info.get("aof_last_write_status", "ok") == "ok",
        rewrites=info.get("aof_last_bgrewrite_status", "ok") == "ok",
        snapshots=info.get("rdb_last_bgsave_status", "ok") == "ok",
        snapshot_at=float(info.get("rdb_last_save_time") or 0),
        unwritten=int(info.get("aof_buffer_length") or 0),
        delayed=int(info.get("aof_delayed_fsync") or 0),
    )


class Notices:
    """Logs once for the process that Redis refuses writes, and once that it takes them again."""

    def __init__(self) -> None:
        self._repeats = Repeats(log)
        self._last = 0.0
        """Last refusal, by the monotonic clock."""

    def refused(self, reason: str) -> None:
        """Log the first refusal, and a further one once a minute."""
        self._last = time.monotonic()
        self._repeats.write(f"Redis refuses all writes: {reason}")

    def taken(self, verb: str) -> None:
        """Log the end of the refusals. Call it when a verb succeeded."""
        if not self._repeats.failing or verb in READS:
            return
        # A verb of another thread may have begun before the refusal.
        if time.monotonic() - self._last > CALM:
            self._repeats.over("Redis takes writes again")


notices = Notices()
