"""Measure who uses the memory of Redis, and how much of it our entries may have.

Redis refuses writes by one number that includes everything. Our entries give way for their own
bytes alone, so they are counted apart. `pressure` in `lib.lua` computes the same for append.
"""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evoflask import plurals
from evoflask.outbox import keys
from evoflask.outbox.client import Outbox

LANE_BYTES = 65_536
"""A lane of fewer bytes does not give way, unless there are very many lanes."""
_INFO = "return redis.call('INFO', 'memory')"
"""Returns the text. redis-py would parse a hundred lines, of which ten are needed."""
_LINE = re.compile(r"^([a-z_]+):(\d+)\r?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes of Redis' memory, by user. A field that Redis does not report is 0."""

    used: int = 0
    limit: int = 0
    """`maxmemory`; 0: there is none."""
    uncounted: int = 0
    """Part of `used` that Redis does not compare with `limit`."""
    waiting: int = 0
    """Entries that lanes have. An entry on three lanes counts three times."""
    stored: int = 0
    """Entries on outboxes: those that lanes have, and those of the retention."""
    log: int = 0
    """The delivery log, until the clock writes it."""
    clients: int = 0
    """Output and query buffers of clients."""
    replicas: int = 0
    """Replicas' buffers and the replication backlog."""
    aof: int = 0
    """Buffers of the append-only file."""
    redis: int = 0
    """An empty Redis with our scripts."""

    @property
    def share(self) -> float:
        """Share of the limit that is used; 0 if there is no limit."""
        return self.used / self.limit if self.limit else 0.0

    @property
    def ours(self) -> int:
        """Bytes of our entries and of an empty Redis."""
        return min(max(self.stored, self.waiting) + self.redis, self._keys)

    @property
    def room(self) -> int:
        """Bytes that `ours` may have: the limit without the keys of others.

        Clients' buffers come and go, so they do not reduce it.
        """
        return max(0, self.limit - (self._keys - self.ours)) if self.limit else 0

    @property
    def pressure(self) -> float:
        """Share of `room` that `ours` uses; 0 if there is no limit."""
        if not self.limit:
            return 0.0
        return self.ours / self.room if self.room else 1.0

    @property
    def full(self) -> bool:
        """Return True if Redis refuses writes for want of memory."""
        return bool(self.limit) and self.used - self.uncounted > self.limit

    @property
    def _keys(self) -> int:
        return max(0, self.used - self.uncounted - self.clients)

    def excess(self, share: float) -> int:
        """Return the bytes of lanes to give up, so that `ours` becomes that share of the room.

        Return 0 also if all lanes together weigh less: giving them up would not help.
        """
        excess = self.ours - int(self.room * share) if self.limit else 0
        return excess if 0 < excess <= self.waiting else 0

    def least(self, lanes: int) -> int:
        """Return the bytes that each of so many lanes keeps even if memory is short."""
        return min(LANE_BYTES, self.room // 2 // max(lanes, 1))

    @property
    def users(self) -> dict[str, int]:
        """Bytes by user; each byte counts once.

        `others` is the rest: keys of other applications and of RQ, and Redis' overhead.
        """
        waiting = min(self.waiting, self.stored) if self.stored else self.waiting
        named = {
            "lanes": waiting,
            "retained": max(0, self.stored - waiting),
            "log": self.log,
            "clients": self.clients,
            "replicas": self.replicas,
            "aof": self.aof,
            "redis": self.redis,
        }
        return named | {"others": max(0, self.used - sum(named.values()))}


WORDS = {
    "lanes": "events that wait for their destinations",
    "retained": "delivered events of the retention",
    "log": "the delivery log",
    "clients": "buffers of Redis' clients",
    "replicas": "buffers for replicas",
    "aof": "buffers of the append-only file",
    "redis": "Redis itself",
    "others": "other keys",
}
"""How a sentence names each user."""


RELIEF, SHORT, FULL = 0.7, 0.8, 0.95
"""Shares of the room above which retention gives way, heavy lanes do, all is refused."""
OTHERS = 0.85
"""Share of maxmemory above which others fill Redis, if our entries do not."""


class State(enum.IntEnum):
    """Levels of pressure, the worst last."""

    WELL = 0
    OTHERS = 1
    RETENTION = 2
    LANES = 3
    FULL = 4


EFFECTS = {
    State.OTHERS: "Other data than our events fills Redis; when Redis is full, events are refused "
    "(503)",
    State.RETENTION: "Memory is short: delivered events are kept for less time than configured",
    State.LANES: "Memory is short: lanes that hold more than their share are refused (503), and "
    "their oldest events become dead letters",
    State.FULL: "Memory is full: events are refused (503) until memory is freed",
}
"""The effect of each state, without the full stop."""


def state(usage: Usage) -> State:
    """Return the level of pressure."""
    if not usage.limit:
        return State.WELL
    if usage.full or usage.pressure >= FULL:
        return State.FULL
    # The overhead of an empty Redis takes most of a small one's memory.
    entries = max(usage.stored, usage.waiting) >= usage.ours // 2
    if entries and usage.pressure >= SHORT:
        return State.LANES
    if entries and usage.pressure >= RELIEF:
        return State.RETENTION
    counted = usage.used - usage.uncounted
    return State.OTHERS if counted >= usage.limit * OTHERS else State.WELL


def sentence(usage: Usage) -> str:
    """Return a sentence with the three largest users of the memory."""
    largest = sorted(usage.users.items(), key=lambda each: -each[1])[:3]
    parts = [f"{WORDS[name]} {_size(n)}" for name, n in largest if n]
    return f"Redis uses {_size(usage.used)} of {_size(usage.limit)}: {', '.join(parts)}."


def _size(n: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return plurals.counted(n, "byte")


def parse(info: str, waiting: int, stored: int, log: int) -> Usage:
    """Return the usage by the section `memory` of `INFO`, and by our own counts. Pure."""
    said = {name: int(value) for name, value in _LINE.findall(info)}
    return _usage(said, waiting, stored, log)


def of_info(said: Mapping[str, Any], waiting: int, stored: int, log: int) -> Usage:
    """Return the usage by a section that redis-py has parsed, and by our own counts. Pure."""
    numbers = {name: value for name, value in said.items() if isinstance(value, int)}
    return _usage(numbers, waiting, stored, log)


def _usage(said: Mapping[str, int], waiting: int, stored: int, log: int) -> Usage:
    known = functools.partial(_said, said)
    return Usage(
        used=known("used_memory"),
        limit=known("maxmemory"),
        uncounted=known("mem_not_counted_for_evict"),
        waiting=waiting,
        stored=stored,
        log=log,
        clients=known("mem_clients_normal"),
        # Redis 7 has one buffer for all replicas, and the backlog is a part of it.
        replicas=known("mem_total_replication_buffers")
        or known("mem_clients_slaves") + known("mem_replication_backlog"),
        aof=known("mem_aof_buffer"),
        redis=known("used_memory_startup") + known("used_memory_scripts"),
    )


def _said(said: Mapping[str, int], name: str) -> int:
    return max(0, said.get(name, 0))


def counted(partition: int) -> list[str]:
    """Return the keys of a partition that count bytes: waiting, stored, of the log."""
    return [keys.of(partition, name) for name in ("weighing", "storing", "logging")]


def add_up(counts: list[bytes | None]) -> tuple[int, int, int]:
    """Return the three sums over the values of `counted` of all partitions, in one list."""
    numbers = [max(0, int(n or 0)) for n in counts]
    return sum(numbers[::3]), sum(numbers[1::3]), sum(numbers[2::3])


def read(outbox: Outbox, at_least: int) -> Usage:
    """Return the usage now. `at_least`: partitions that there may be. Raises `OutboxDown`."""
    numbers = outbox.partitions(at_least)

    def fetch(r: Any) -> list[Any]:
        pipe = r.pipeline(transaction=False)
        pipe.eval(_INFO, 0)
        for number in numbers:
            pipe.mget(counted(number))
        found: list[Any] = pipe.execute()
        return found

    info, *counts = outbox.ask(fetch)
    return parse(info.decode(), *add_up([each for row in counts for each in row]))
