"""What lies in Redis, a page at a time, and what does not hold of it: the audit's eyes.

Nothing here writes. Scripts look where only one moment can be compared with itself; what
walks over many keys is a page of a scan, so that memory is bounded and Redis is never held up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from evoflask.outbox import keys
from evoflask.outbox.client import Outbox
from evoflask.outbox.verbs import Call, script

PAGE = 100
"""Members or entries that one script looks at: some milliseconds of Redis with large bodies."""


@dataclass(frozen=True, slots=True)
class Config:
    """What Redis was told of an instance."""

    revision: int
    epoch: str
    gone: bool


@dataclass(frozen=True, slots=True)
class Leaks:
    """A page of an outbox's entries at or before its edge."""

    looked: int
    last: str
    """Where the next page goes on; empty: this was the end."""
    entries: int
    """Entries of the whole outbox at that moment."""
    edge: str
    kept: int
    """Entries after the edge, as they were counted one by one."""
    leaked: Sequence[str]


def check(partition: int, lanes: Sequence[str]) -> Call[list[list[str]]]:
    """What does not hold of each lane, in words of check.lua."""
    return Call(
        script("check"),
        keys.prefix(partition),
        lanes,
        lambda answer: [[_text(word) for word in row] for row in answer],
    )


def inspect(partition: int, lane: str, members: Sequence[str]) -> Call[list[tuple[str, str]]]:
    """(member, fault in a word of inspect.lua) of those that are not as they should be."""

    def read(answer: Any) -> list[tuple[str, str]]:
        flat = [_text(part) for part in answer]
        return list(zip(flat[::2], flat[1::2], strict=True))

    return Call(script("inspect"), keys.prefix(partition), (lane, *members), read)


def leaks(partition: int, i: str, after: str) -> Call[Leaks]:
    """Entries that nobody has; `after` "-" begins."""

    def read(answer: Any) -> Leaks:
        looked, last, entries, edge, kept, *leaked = answer
        return Leaks(looked, _text(last), entries, _text(edge), kept, [_text(e) for e in leaked])

    return Call(script("leaks"), keys.prefix(partition), (i, after, PAGE), read)


def configs(outbox: Outbox, instances: Sequence[tuple[int, str]]) -> list[Config | None]:
    """What Redis was told of instances (partition, `<i>`), in order."""

    def fetch(r: Any) -> list[Any]:
        pipe = r.pipeline(transaction=False)
        for partition, i in instances:
            pipe.hmget(keys.of(partition, f"config:{i}"), "revision", "epoch", "gone")
        rows: list[Any] = pipe.execute()
        return rows

    return [
        Config(int(row[0]), row[1].decode(), row[2] is not None) if row[0] else None
        for row in outbox.ask(fetch)
    ]


def members(outbox: Outbox, partition: int, lane: str, part: str) -> Iterator[list[str]]:
    """What lies in `waiting`, `dying` or `tries` of a lane, page by page. One that is there
    all the while is seen at least once."""
    key = keys.of(partition, f"{part}:{lane}")
    scored = part == "waiting"
    cursor = 0

    def scan(r: Any) -> Any:
        return (r.zscan if scored else r.hscan)(key, cursor, count=PAGE)

    while True:
        cursor, found = outbox.ask(scan)
        rows = [_text(row[0] if scored else row) for row in found]
        for at in range(0, len(rows), PAGE):
            yield rows[at : at + PAGE]
        if not cursor:
            return


def named(outbox: Outbox, partition: int, kind: str) -> Iterator[list[str]]:
    """The ids of all keys of a kind, `lane`, `config` or `body`, page by page."""
    start = keys.of(partition, f"{kind}:")
    pattern = f"{start}*"
    cursor = 0

    def scan(r: Any) -> Any:
        return r.scan(cursor, match=pattern, count=1000)

    while True:
        cursor, found = outbox.ask(scan)
        if found:
            yield [_text(key).removeprefix(start) for key in found]
        if not cursor:
            return


def entry_exists(outbox: Outbox, partition: int, i: str, entry: str) -> bool:
    key = keys.outbox(partition, i)
    return bool(outbox.ask(lambda r: r.xrange(key, entry, entry)))


def body_exists(outbox: Outbox, partition: int, i: str, entry: str) -> bool:
    return bool(outbox.ask(lambda r: r.exists(keys.body(partition, i, entry))))


def waits(outbox: Outbox, lanes: Sequence[tuple[int, str, str]]) -> list[bool]:
    """Whether members (partition, lane, member) wait on their lanes, in order."""

    def fetch(r: Any) -> list[Any]:
        pipe = r.pipeline(transaction=False)
        for partition, lane, member in lanes:
            pipe.zscore(keys.of(partition, f"waiting:{lane}"), member)
        rows: list[Any] = pipe.execute()
        return rows

    return [score is not None for score in outbox.ask(fetch)]


def stored(outbox: Outbox, partition: int, i: str) -> tuple[int, int] | None:
    """Return (bytes of an outbox as they are kept, as they are); None if it changed meanwhile."""

    def read(answer: Any) -> tuple[int, str, int, tuple[int, str]]:
        looked, last, found, kept, newest = answer
        return looked, _text(last), int(found), (int(kept), _text(newest))

    after, total = "-", 0
    first: tuple[int, str] | None = None
    while True:
        call = Call(script("bytes"), keys.prefix(partition), (i, after, PAGE), read)
        looked, after, found, state = outbox.run(call)
        total += found
        first = first or state
        if looked < PAGE:
            return (state[0], total) if state == first else None


def storing(outbox: Outbox, partition: int) -> tuple[int, int] | None:
    """Return (the sum of stored bytes as it is kept, as it is); None if it changed meanwhile."""
    return _sum(outbox, partition, "stored", "storing")


def unmatched_ids(outbox: Outbox, partition: int, i: str) -> tuple[int, int]:
    """Return how many fingerprints have no id, and how many ids lack the fingerprint that their
    date announces."""
    prints, seen = (keys.of(partition, f"{kind}:{i}") for kind in ("prints", "seen"))

    def pairs(ids: Sequence[bytes]) -> list[tuple[float | None, bool]]:
        """Date and fingerprint of each, by one moment."""

        def fetch(r: Any) -> list[Any]:
            pipe = r.pipeline(transaction=True)
            for each in ids:
                pipe.zscore(seen, each)
                pipe.hexists(prints, each)
            rows: list[Any] = pipe.execute()
            return rows

        rows = outbox.ask(fetch)
        return list(zip(rows[::2], rows[1::2], strict=True))

    alone = bare = 0
    for page in _scanned(outbox, lambda r, at: r.hscan(prints, at, count=1000)):
        alone += sum(date is None and there for date, there in pairs(page))
    for page in _scanned(outbox, lambda r, at: r.zscan(seen, at, count=1000)):
        bare += sum((date or 0.0) % 1 == 0.5 and not there for date, there in pairs(page))
    return alone, bare


def _scanned(outbox: Outbox, scan: Callable[[Any, int], Any]) -> Iterator[list[bytes]]:
    at = 0
    while True:
        at, found = outbox.ask(lambda r, at=at: scan(r, at))  # type: ignore[misc]
        rows = [row[0] if isinstance(row, tuple) else row for row in found]
        for n in range(0, len(rows), 1000):
            yield rows[n : n + 1000]
        if not at:
            return


OF_AN_INSTANCE = ("seen", "prints", "unwanted")
"""Keys that go with their instance, beside the outbox."""


def left_over(outbox: Outbox, partition: int, i: str) -> list[str]:
    """Return what is left of an instance that Redis does not know any more; none while it is still
    to be swept."""

    def fetch(r: Any) -> list[Any]:
        pipe = r.pipeline(transaction=True)
        pipe.hmget(keys.of(partition, f"config:{i}"), "revision", "gone")
        pipe.sismember(keys.of(partition, "sweep"), f"{i} outbox")
        pipe.zscore(keys.of(partition, "stored"), i)
        for kind in OF_AN_INSTANCE:
            pipe.exists(keys.of(partition, f"{kind}:{i}"))
        rows: list[Any] = pipe.execute()
        return rows

    (revision, gone), sweeping, *there = outbox.ask(fetch)
    if sweeping or (revision and not gone):
        return []
    names = ("stored", *OF_AN_INSTANCE)
    return [name for name, each in zip(names, there, strict=True) if each]


def storing_instances(outbox: Outbox, partition: int) -> Iterator[list[str]]:
    """Instances whose stored bytes are kept, page by page."""
    key = keys.of(partition, "stored")
    for page in _scanned(outbox, lambda r, at: r.zscan(key, at, count=1000)):
        yield [_text(i) for i in page]


def weighing(outbox: Outbox, partition: int) -> tuple[int, int] | None:
    """Return (the sum of all lanes' weights as it is kept, as it is); None if it changed
    meanwhile."""
    return _sum(outbox, partition, "weight", "weighing")


def _sum(outbox: Outbox, partition: int, parts: str, whole: str) -> tuple[int, int] | None:
    """The counters show a change, too: what came and what left may weigh the same, and counters
    only grow."""
    before = totals(outbox, partition), _number(outbox, partition, whole)
    key, total, at = keys.of(partition, parts), 0, 0
    while rows := outbox.ask(lambda r, n=at: r.zrange(key, n, n + 999, withscores=True)):  # type: ignore[misc]
        total += sum(int(weight) for _, weight in rows)
        at += 1000
    after = totals(outbox, partition), _number(outbox, partition, whole)
    return (before[1], total) if after == before else None


def _number(outbox: Outbox, partition: int, name: str) -> int:
    found: Any = outbox.ask(lambda r: r.get(keys.of(partition, name)))
    return int(found or 0)


def totals(outbox: Outbox, partition: int) -> dict[str, int]:
    """The partition's counters."""
    rows: Any = outbox.ask(lambda r: r.hgetall(keys.of(partition, "totals")))
    return {_text(name): int(n) for name, n in rows.items()}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
