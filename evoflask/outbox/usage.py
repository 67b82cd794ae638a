"""Who uses the memory of Redis, and how much of it our entries may have.

Redis refuses writes by one number, in which everything is. Our entries give way for their own
bytes alone, so the numbers here are apart. `pressure` in `lib.lua` is the same sum for append.
"""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evoflask.outbox import keys
from evoflask.outbox.client import Outbox

LANE_BYTES = 65_536
"""A lane of fewer bytes gives no way, unless there are very many lanes."""
_INFO = "return redis.call('INFO', 'memory')"
"""As text: redis-py makes a table of its hundred lines, to be asked for ten."""
_LINE = re.compile(r"^([a-z_]+):(\d+)\r?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes. A field that Redis does not report is 0."""

    used: int = 0
    limit: int = 0
    """`maxmemory`; 0: there is none."""
    uncounted: int = 0
    """Part of `used` that Redis leaves out when it compares with `limit`."""
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
        """Used share of the limit; 0 where there is none."""
        return self.used / self.limit if self.limit else 0.0

    @property
    def ours(self) -> int:
        """Bytes of our entries and of an empty Redis."""
        return min(max(self.stored, self.waiting) + self.redis, self._keys)

    @property
    def room(self) -> int:
        """What `ours` may be: the limit without the keys of others. Clients' buffers come and go
        and take nothing from it."""
        return max(0, self.limit - (self._keys - self.ours)) if self.limit else 0

    @property
    def pressure(self) -> float:
        """Share of the room that is used; 0 where there is no limit."""
        if not self.limit:
            return 0.0
        return self.ours / self.room if self.room else 1.0

    @property
    def full(self) -> bool:
        """Redis refuses writes."""
        return bool(self.limit) and self.used - self.uncounted > self.limit

    @property
    def _keys(self) -> int:
        return max(0, self.used - self.uncounted - self.clients)

    def excess(self, share: float) -> int:
        """Bytes of lanes to give up so that `ours` is that share of the room; 0 too where all
        lanes together weigh less: giving them up would not help."""
        excess = self.ours - int(self.room * share) if self.limit else 0
        return excess if 0 < excess <= self.waiting else 0

    def least(self, lanes: int) -> int:
        """What each of so many lanes may weigh however short memory is."""
        return min(LANE_BYTES, self.room // 2 // max(lanes, 1))

    @property
    def users(self) -> dict[str, int]:
        """Bytes by user, each byte once. `others` is the rest: keys of other applications and of
        RQ, and what Redis adds to our own."""
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
"""The users in words."""


RELIEF, SHORT, FULL = 0.7, 0.8, 0.95
"""Shares of the room: retention gives way, heavy lanes do, everything is refused."""
OTHERS = 0.85
"""Share of maxmemory that is used, of which others are the cause."""


class State(enum.IntEnum):
    """How short memory is, the worst last."""

    WELL = 0
    OTHERS = 1
    RETENTION = 2
    LANES = 3
    FULL = 4


EFFECTS = {
    State.OTHERS: "Redis is filled by others than our events; when it is full, events are refused "
    "(503)",
    State.RETENTION: "Memory is short: delivered events are kept for less time than was asked for",
    State.LANES: "Memory is short: lanes that hold more than their share are refused (503), and "
    "their oldest events become dead letters",
    State.FULL: "Memory is full: events are refused (503) until it falls",
}
"""What a state means."""


def state(usage: Usage) -> State:
    """How short memory is."""
    if not usage.limit:
        return State.WELL
    if usage.full or usage.pressure >= FULL:
        return State.FULL
    # In a small Redis, an empty one takes most of the room.
    entries = max(usage.stored, usage.waiting) >= usage.ours // 2
    if entries and usage.pressure >= SHORT:
        return State.LANES
    if entries and usage.pressure >= RELIEF:
        return State.RETENTION
    counted = usage.used - usage.uncounted
    return State.OTHERS if counted >= usage.limit * OTHERS else State.WELL


def sentence(usage: Usage) -> str:
    """The three largest users: "Of 1.0 GB, other keys use 860 MB, ..."."""
    largest = sorted(usage.users.items(), key=lambda each: -each[1])[:3]
    parts = [f"{WORDS[name]} {_size(n)}" for name, n in largest if n]
    return f"Redis uses {_size(usage.used)} of {_size(usage.limit)}: {', '.join(parts)}."


def _size(n: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return f"{n} bytes"


def parse(info: str, waiting: int, stored: int, log: int) -> Usage:
    """A usage of the section `memory` of `INFO`, and of what we count. Pure."""
    said = {name: int(value) for name, value in _LINE.findall(info)}
    return _usage(said, waiting, stored, log)


def of_info(said: Mapping[str, Any], waiting: int, stored: int, log: int) -> Usage:
    """The same of a section that redis-py has read."""
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
        # Redis 7 has one buffer for all replicas, of which the backlog is a part.
        replicas=known("mem_total_replication_buffers")
        or known("mem_clients_slaves") + known("mem_replication_backlog"),
        aof=known("mem_aof_buffer"),
        redis=known("used_memory_startup") + known("used_memory_scripts"),
    )


def _said(said: Mapping[str, int], name: str) -> int:
    return max(0, said.get(name, 0))


def counted(partition: int) -> list[str]:
    """The keys of a partition in which bytes are counted: waiting, stored, of the log."""
    return [keys.of(partition, name) for name in ("weighing", "storing", "logging")]


def add_up(counts: list[bytes | None]) -> tuple[int, int, int]:
    """Their values of all partitions, one after the other, as sums."""
    numbers = [max(0, int(n or 0)) for n in counts]
    return sum(numbers[::3]), sum(numbers[1::3]), sum(numbers[2::3])


def read(outbox: Outbox, at_least: int) -> Usage:
    """Who uses the memory now. `at_least`: partitions that there may be. Raises `OutboxDown`."""
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
