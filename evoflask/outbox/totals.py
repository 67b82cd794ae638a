"""What Redis says of the whole: counters by sink, what waits, its memory and its disk.

Every process adds to the same counters inside the scripts, so they are right however many
processes serve them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evoflask import redislink
from evoflask.outbox import disk, keys, usage
from evoflask.outbox.client import Outbox
from evoflask.outbox.disk import HEALTHY, Disk
from evoflask.outbox.usage import Usage

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the latency histogram from accept to delivery, seconds."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Counters since the Redis was made, over all partitions."""

    counters: Mapping[str, int]
    """`accepted`, `unwanted`, `duplicates`, `conflicts`, `disabled`, and by sink:
    `webhook:routed` and its like."""
    oldest: Mapping[str, float]
    """Age in seconds of the oldest event that waits, by sink; only where one waits."""
    memory: Usage
    failing: int = 0
    """Lanes with a failed attempt and no success since."""
    disk: Disk = HEALTHY

    def of(self, sink: str, what: str) -> int:
        return self.counters.get(f"{sink}:{what}", 0)

    def backlog(self, sink: str) -> int:
        """Deliveries that did not end yet: waiting, or given up without a letter."""
        came = self.of(sink, "routed") + self.of(sink, "requeued")
        return came - sum(self.of(sink, end) for end in ("delivered", "dead", "discarded"))

    def failed(self, sink: str) -> dict[str, int]:
        """Attempts that failed, by outcome."""
        start = f"{sink}:failed:"
        return {
            name.removeprefix(start): n
            for name, n in sorted(self.counters.items())
            if name.startswith(start)
        }

    def latency(self, sink: str) -> tuple[list[tuple[str, int]], float]:
        """Deliveries by upper bound of their latency, each with those of all smaller bounds;
        and the sum of latencies, seconds."""
        bounds, total = [], 0
        for bound in [*(f"{b:g}" for b in BUCKETS), "+Inf"]:
            total += self.of(sink, f"le:{bound}")
            bounds.append((bound, total))
        return bounds, self.of(sink, "latency_ms") / 1000


def read(outbox: Outbox, sinks: Sequence[str], partitions: int) -> Totals:
    """Raises `OutboxDown`."""
    numbers = outbox.partitions(partitions)

    def fetch(r: Any) -> list[Any]:
        pipe = r.pipeline(transaction=False)
        pipe.time()
        pipe.info("memory")
        pipe.info("persistence")
        for number in numbers:
            pipe.hgetall(keys.of(number, "totals"))
            pipe.zcard(keys.of(number, "failing"))
            for sink in sinks:
                pipe.zrange(keys.of(number, f"oldest:{sink}"), 0, 0, withscores=True)
        for number in numbers:
            pipe.mget(usage.counted(number))
        found: list[Any] = pipe.execute()
        return found

    (seconds, micros), memory, persistence, *rows = outbox.ask(fetch)
    counts = [each for row in rows[-len(numbers) :] for each in row]
    del rows[-len(numbers) :]
    now = seconds + micros / 1e6
    counters: Counter[str] = Counter()
    oldest: dict[str, float] = {}
    failing = 0
    width = 2 + len(sinks)
    for at in range(0, len(rows), width):
        counters.update({name.decode(): int(n) for name, n in rows[at].items()})
        failing += rows[at + 1]
        for sink, first in zip(sinks, rows[at + 2 : at + width], strict=True):
            if first:
                age = max(0.0, now - first[0][1] / 1000)
                oldest[sink] = max(age, oldest.get(sink, 0.0))
    found = usage.of_info(memory, *usage.add_up(counts))
    return Totals(counters, oldest, found, failing, disk.read(persistence))


def add(outbox: Outbox, counts: Mapping[str, int]) -> None:
    """Count what no script counts. Raises `OutboxDown`."""
    for name, n in counts.items():
        outbox.write("HINCRBY", keys.of(0, "totals"), name, n)


@dataclass(frozen=True, slots=True)
class Server:
    """The Redis itself, as far as it tells."""

    version: str
    role: str
    fsync: str | None
    """`appendfsync`; None: the server does not report it. Hosted ones often do not."""
    policy: str
    """`maxmemory-policy`"""
    memory: Usage
    run_id: str = ""
    disk: Disk = HEALTHY
    refusal: str = ""
    """Why the server refuses all writes, or ""."""

    @property
    def supported(self) -> bool:
        """6.2 or newer: ZMSCORE, HRANDFIELD and exclusive ranges of streams."""
        return tuple(int(n) for n in self.version.split(".")[:2] if n.isdigit()) >= (6, 2)


def server(outbox: Outbox) -> Server:
    """Raises `OutboxDown`."""
    info: dict[str, Any] = outbox.ask(lambda r: r.info())
    return Server(
        version=str(info.get("redis_version", "")),
        role=str(info.get("role", "")),
        fsync=outbox.ask(_fsync),
        policy=str(info.get("maxmemory_policy", "")),
        memory=usage.read(outbox, 1),
        run_id=str(info.get("run_id", "")),
        disk=disk.read(info),
        refusal=outbox.ask(_refusal),
    )


def _refusal(r: Any) -> str:
    # Redis refuses PING if it refuses writes. INFO does not say why they fail.
    pong = r.pipeline(transaction=False).ping().execute(raise_on_error=False)[0]
    refused = isinstance(pong, Exception) and redislink.refuses_writes(pong)
    return redislink.disk_words(pong) if refused else ""


def _fsync(r: Any) -> str | None:
    # Hosted servers refuse CONFIG; that it is refused is no failure.
    found = r.pipeline(transaction=False).config_get("appendfsync").execute(raise_on_error=False)[0]
    return found.get("appendfsync") if isinstance(found, dict) else None


def some_lanes(outbox: Outbox, partitions: int, most: int) -> list[str]:
    """Return lanes with waiting events, drawn at random: at most `most` of each partition."""
    found: list[str] = []
    for number in outbox.partitions(partitions):
        key = keys.of(number, "weight")
        drawn: Any = outbox.ask(lambda r, k=key: r.zrandmember(k, most))  # type: ignore[misc]
        found += [lane.decode() for lane in drawn or ()]
    return found


def awake(outbox: Outbox, sinks: Sequence[str], partitions: int) -> list[str]:
    """Sinks that a drain works for at this moment."""
    numbers = outbox.partitions(partitions)
    return [
        sink
        for sink in sinks
        if outbox.ask(lambda r, s=sink: r.exists(*(keys.of(n, f"awake:{s}") for n in numbers)))  # type: ignore[misc]
    ]
