"""What the clock reads of Redis to know what is due, and the lease under which it works."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from evoflask.outbox import keys
from evoflask.outbox.client import Outbox
from evoflask.outbox.usage import Usage

TOLD = b"told"
SEEN = b"seen"
_LEASE = """
redis.call('DEL', KEYS[1] .. ':nothing')
local holder = redis.call('GET', KEYS[1])
-- One that lasts longer than any was given: the clock went back.
local left = redis.call('PTTL', KEYS[1])
if holder and holder ~= ARGV[1] and left <= tonumber(ARGV[2]) then return 0 end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
"""Take or keep the lease, also on a full Redis. Atomic: two clocks must not both have it."""

_INFO = "return redis.call('INFO', ARGV[1])"
"""As text: redis-py makes a table of its hundred lines, to be asked for one."""
KEEP = 1.0
"""Seconds for which a lease that was taken needs no thought. It lasts for several of them."""


class Lease:
    """The right to do the chores, or what another key stands for, for a time."""

    def __init__(
        self, outbox: Outbox, holder: str, seconds: float, *, key: str = keys.CLOCK
    ) -> None:
        self._outbox = outbox
        self._holder = holder
        self._seconds = seconds
        self._key = key
        self._taken = 0.0

    def take(self) -> bool:
        """Whether it is ours, for the next seconds. Raises `OutboxDown`."""
        args = (self._holder, round(self._seconds * 1000))
        self._taken = time.monotonic()
        return bool(self._outbox.ask(lambda r: r.eval(_LEASE, 1, self._key, *args)))

    def keep(self) -> None:
        """Takes it anew where that is due, between two pieces of work. Raises `OutboxDown`."""
        if time.monotonic() - self._taken > KEEP:
            self.take()


@dataclass(frozen=True, slots=True)
class Persisted:
    """How far Redis is with its disk."""

    run_id: str
    settled: bool
    """Whatever was written some seconds ago is on disk, as far as Redis keeps a file at all."""


class Timetable:
    """Reads; and notes when a chore was last done."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    def done(self, chores: Iterable[str]) -> None:
        """They were done now."""
        now = f"{time.time():.3f}"
        self._outbox.write("HSET", keys.CHORES, *(word for name in chores for word in (name, now)))

    def last_done(self) -> dict[str, float]:
        """When each chore was last done, Unix seconds."""
        rows: Any = self._outbox.ask(lambda r: r.hgetall(keys.CHORES))
        return {name.decode(): float(at) for name, at in rows.items() if name not in (TOLD, SEEN)}

    def told(self) -> str:
        """What `tell` noted last: to which run of Redis all configuration was pushed."""
        found: Any = self._outbox.ask(lambda r: r.hget(keys.CHORES, TOLD))
        return found.decode() if found else ""

    def tell(self, what: str) -> None:
        self._outbox.ask(lambda r: r.hset(keys.CHORES, TOLD, what))

    def run_id(self) -> str:
        return self._info("server", "run_id")[0]

    def persisted(self) -> Persisted:
        names = ("aof_enabled", "aof_last_write_status", "aof_pending_bio_fsync")
        enabled, status, pending = self._info("persistence", *names)
        waiting = enabled == "1" and (status != "ok" or int(pending or 0) > 1)
        return Persisted(self.run_id(), not waiting)

    def _info(self, section: str, *names: str) -> list[str]:
        """What Redis says of itself; empty where it does not say that."""
        said: Any = self._outbox.ask(lambda r: r.eval(_INFO, 0, section))
        found = (re.search(rf"^{name}:(.*?)\r?$", said.decode(), re.MULTILINE) for name in names)
        return [each[1] if each else "" for each in found]

    def now(self) -> float:
        """Redis' clock, Unix seconds."""
        seconds, micros = self._outbox.ask(lambda r: r.time())
        return float(seconds) + float(micros) / 1e6

    def went_back(self, least: float) -> float:
        """Seconds that Redis' clock went back since this was asked last, by anybody; 0 where it
        was less than `least`. What it says now is noted by `saw`."""
        found: Any = self._outbox.ask(lambda r: r.hget(keys.CHORES, SEEN))
        back = float(found or 0) - self.now()
        return back if found and back >= least else 0.0

    def saw(self) -> None:
        """Whatever followed from `went_back` is done."""
        self._outbox.write("HSET", keys.CHORES, SEEN.decode(), f"{self.now():.3f}")

    def dated(self, partition: int, sink: str, since: float) -> list[str]:
        """Lanes of a sink that are looked at after that moment only, Unix seconds."""
        found = []
        for kind in ("due", "alone"):
            key = keys.of(partition, f"{kind}:{sink}")
            rows: Any = self._outbox.ask(lambda r, k=key: list(r.zscan_iter(k, count=500)))  # type: ignore[misc]
            found += [lane.decode() for lane, at in rows if at > since * 1000]
        return found

    def quieten(self, partition: int, sink: str) -> None:
        """Forget who is awake for a sink, and that it was rung for: both are told again within
        a second where they are true, and would last too long where they are not."""
        for kind in ("awake", "drains", "rung"):
            self._outbox.write("DEL", keys.of(partition, f"{kind}:{sink}"))

    def older_than(self, partition: int, sinks: Sequence[str], seconds: float, n: int) -> list[str]:
        """Lanes whose oldest entry waits longer than that."""
        until = (self.now() - seconds) * 1000
        return [
            lane
            for sink in sinks
            for lane in self._range(keys.of(partition, f"oldest:{sink}"), until, n)
        ]

    def aged(self, partition: int, ahead: float, n: int) -> list[str]:
        """Instances whose oldest retained entry leaves retention within `ahead` seconds."""
        return self._range(keys.of(partition, "aging"), (self.now() + ahead) * 1000, n)

    def stored(self, partition: int, cursor: int) -> tuple[int, list[str]]:
        """A page of the instances that store something, and where the next page begins. 0 begins,
        and 0 is the end. An instance may come twice."""
        key = keys.of(partition, "stored")
        found: Any = self._outbox.ask(lambda r: r.zscan(key, cursor, count=100))
        return int(found[0]), [i.decode() for i, _ in found[1]]

    def over(self, partition: int, n: int) -> list[str]:
        """Lanes that append found beyond a limit of entries or bytes."""
        return self._members(keys.of(partition, "over"), n)

    def graves(self, partition: int, n: int) -> list[str]:
        """Lanes with something in `dying`, in no order, so that none comes first always."""
        return self._members(keys.of(partition, "graves"), n)

    def buried(self, partition: int, n: int) -> dict[str, int]:
        """Letters that the operator was not told of, by lane; of `n` lanes, in no order."""
        key = keys.of(partition, "buried")
        flat: Any = self._outbox.ask(lambda r: r.hrandfield(key, n, withvalues=True))
        return {s.decode(): int(k) for s, k in zip(flat[::2], flat[1::2], strict=True)}

    def forget_buried(self, partition: int) -> None:
        """There is nobody to tell."""
        self._outbox.write("UNLINK", keys.of(partition, "buried"))

    def sweeping(self) -> bool:
        """Whether something that was set aside is not swept yet."""
        return any(
            self._outbox.ask(lambda r, p=p: r.exists(keys.of(p, "sweep")))  # type: ignore[misc]
            for p in self._outbox.partitions(0)
        )

    def heaviest(
        self, partition: int, n: int, usage: Usage, share: float
    ) -> list[tuple[str, int, int]]:
        """Return (lane, bytes waiting, its share) of lanes above their share, heaviest first.

        The share is an equal part of the waiting bytes without the excess. These are at least half
        of the waiting bytes. A share is never below `Usage.least`.
        """
        key = keys.of(partition, "weight")
        rows: Any = self._outbox.ask(lambda r: r.zrevrange(key, 0, n - 1, withscores=True))
        count = int(self._outbox.ask(lambda r: r.zcard(key)))
        total = int(self._outbox.ask(lambda r: r.get(keys.of(partition, "weighing"))) or 0)
        # The excess concerns all partitions together.
        excess = usage.excess(share) * total // max(1, usage.waiting)
        equal = max(total - excess, total // 2) // max(1, count)
        most = max(equal, usage.least(count))
        return [(lane.decode(), int(w), most) for lane, w in rows if w > most]

    def _range(self, key: str, until: float, n: int) -> list[str]:
        rows: Any = self._outbox.ask(lambda r: r.zrangebyscore(key, "-inf", until, start=0, num=n))
        return [row.decode() for row in rows]

    def _members(self, key: str, n: int) -> list[str]:
        rows: Any = self._outbox.ask(lambda r: r.srandmember(key, n))
        return [row.decode() for row in rows]
