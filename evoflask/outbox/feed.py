"""What websockets read: the feed, which tells that something was appended, and the outboxes.

The feed is a capped stream a partition, so however many tenants there are, one blocking read
waits for all of them. A reader that missed lines sees it by their running number; one that
missed entries sees it by theirs (`Entry.number`), whatever took them away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import redis

from evoflask import redislink
from evoflask.outbox import keys
from evoflask.outbox.client import TIMEOUT, Outbox, translated

Position = tuple[int, int]
"""A stream id as something that can be compared."""
START: Position = (0, 0)
LONGEST = 5.0
"""Seconds that one read of the feeds may wait."""
LINES = 500
"""Lines of a feed that one read brings along, at most."""
BODIES = 8
"""Bodies beside their entries that one command fetches."""
PAGE_BYTES = 4 * 1024 * 1024
"""Bytes of entries that one page brings along, but one entry at least."""


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a feed was read: the stream's id, and the running number of that line."""

    id: str
    number: int


@dataclass(frozen=True, slots=True)
class Line:
    """What one append put on one outbox. `count` 0: the instance's configuration changed."""

    partition: int
    number: int
    outbox: str
    name: str
    """The instance's."""
    first: str
    last: str
    count: int
    """Entries that websockets get; others may lie between `first` and `last`."""
    size: int
    """Bytes of the whole call."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry that websockets get."""

    id: Position
    number: int
    """Of all entries of this outbox that websockets get, which one it is; from 1, without holes."""
    event_id: str
    event: str
    at: float
    """When it was accepted, Unix seconds of Redis' clock."""
    meta: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Tail:
    """The end of an outbox at one moment."""

    last: Position
    number: int
    """Of the last entry that websockets got."""
    edge: Position
    """The newest entry that left retention."""


@dataclass(frozen=True, slots=True)
class Page:
    """A piece of an outbox after some position."""

    entries: Sequence[Entry]
    last: Position | None
    """The last entry that was looked at; None: there was none."""
    number: int
    """How many entries websockets got of this outbox by the time it was read."""
    end: bool
    """Nothing lay behind it then."""
    short: bool = False
    """It ends before a body whose bytes the caller could not borrow."""


class Feed:
    """Safe to share between threads, except for `wait`, which has a connection of its own.

    Every method raises `OutboxDown`. Nothing is tried twice.
    """

    def __init__(self, outbox: Outbox, waiting: redis.Redis) -> None:
        self._outbox = outbox
        self._waiting = waiting

    @classmethod
    def at(cls, url: str, *, connections: int = 8) -> Feed:
        """With clients of its own, whose callers wait for a connection; connects to nothing yet."""
        outbox = Outbox(_pooled(url, TIMEOUT, connections, "evoflask-outboxes"))
        return cls(outbox, _pooled(url, LONGEST + TIMEOUT, 1, "evoflask-feed"))

    def partitions(self, at_least: int) -> list[int]:
        """Partitions that instances live in, or may."""
        return self._outbox.partitions(at_least)

    def ends(self, partitions: Sequence[int]) -> dict[int, Mark]:
        """Where each feed ends now."""
        found = {}
        for partition in partitions:
            rows, number = self._outbox.ask(lambda r, p=partition: _end(r, p))  # type: ignore[misc]
            found[partition] = Mark(rows[0][0].decode() if rows else "0-0", int(number or 0))
        return found

    def after(self, partition: int, mark: Mark) -> tuple[list[Line], int]:
        """Lines after the mark, and the number of the feed's last line, at one moment."""
        rows, number = self._outbox.ask(lambda r: _after(r, partition, mark))
        return [line(partition, fields) for _, fields in rows], int(number or 0)

    def wait(self, marks: dict[int, Mark], seconds: float) -> list[Line]:
        """Lines of any feed after its mark, as soon as there are some; [] when there were none
        in time, which is `LONGEST` at most. Moves the marks."""
        with translated():
            names = {keys.of(p, "feed"): p for p in marks}
            since: dict[Any, Any] = {key: marks[p].id for key, p in names.items()}
            answer: Any = self._waiting.xread(since, count=LINES, block=round(seconds * 1000))
        lines = []
        for key, rows in answer or ():
            partition = names[key.decode()]
            lines += [line(partition, fields) for _, fields in rows]
            marks[partition] = Mark(rows[-1][0].decode(), lines[-1].number)
        return lines

    def ranges(self, wanted: Sequence[tuple[int, str, str, str]]) -> list[list[Entry]]:
        """Entries from first to last of some outboxes (partition, `<i>`, first, last)."""
        if not wanted:
            return []

        def fetch(r: Any) -> Any:
            pipe = r.pipeline(transaction=False)
            for partition, i, first, last in wanted:
                pipe.xrange(keys.outbox(partition, i), first, last)
            return pipe.execute()

        rows = self._outbox.ask(fetch)
        return [
            self._entries(partition, i, each)
            for (partition, i, _, _), each in zip(wanted, rows, strict=True)
        ]

    def page(
        self,
        partition: int,
        i: str,
        after: Position,
        n: int,
        borrow: Callable[[int], bool] = lambda _: True,
    ) -> Page:
        """Return at most `n` entries after a position.

        `borrow` gets the size of the large bodies in bytes, once. If it returns False, the page
        ends before the first of them.
        """

        def fetch(r: Any) -> Any:
            # The counter first: what it counts is in the range that is read after it, or gone.
            pipe = r.pipeline(transaction=False)
            pipe.hget(keys.of(partition, f"config:{i}"), "ws")
            pipe.xrange(keys.outbox(partition, i), f"({text(after)}", "+", count=n)
            return pipe.execute()

        number, rows = self._outbox.ask(fetch)
        piece = rows[: _bounded([int(fields[b"size"]) for _, fields in rows])]
        large = [(k, int(f[b"size"])) for k, (_, f) in enumerate(piece) if _is_beside(f)]
        short = bool(large) and not borrow(sum(size for _, size in large))
        if short:
            piece = piece[: large[0][0]]
        entries = self._entries(partition, i, piece)
        last = position(piece[-1][0].decode()) if piece else None
        end = len(rows) < n and len(piece) == len(rows)
        return Page(entries, last, int(number or 0), end, short)

    def tail(self, partition: int, i: str) -> Tail:
        """The end of an outbox, all of it of one moment."""

        def fetch(r: Any) -> Any:
            pipe = r.pipeline(transaction=True)
            pipe.hmget(keys.of(partition, f"config:{i}"), "ws", "edge")
            pipe.xrevrange(keys.outbox(partition, i), count=1)
            return pipe.execute()

        (number, edge), rows = self._outbox.ask(fetch)
        last = position(rows[0][0].decode()) if rows else START
        edge_ = position(edge.decode()) if edge else START
        return Tail(max(last, edge_), int(number or 0), edge_)

    def close(self) -> None:
        """Let go of connections. May be called twice."""
        self._outbox.redis.close()
        self._waiting.close()

    def _entries(self, partition: int, i: str, rows: Sequence[Any]) -> list[Entry]:
        wanted = []
        for id_, fields in rows:
            if fields.get(b"ws"):
                wanted.append((id_.decode(), fields))
        beside = [keys.body(partition, i, id_) for id_, f in wanted if b"data" not in f]
        bodies = iter(self._bodies(beside))
        found = [(id_, f, f[b"data"] if b"data" in f else next(bodies)) for id_, f in wanted]
        # One whose body went while it was being read is missing, and its number tells so.
        return [_entry(id_, fields, data) for id_, fields, data in found if data is not None]

    def _bodies(self, names: Sequence[str]) -> list[bytes | None]:
        found: list[bytes | None] = []
        for at in range(0, len(names), BODIES):
            found += self._outbox.ask(lambda r, n=at: r.mget(names[n : n + BODIES]))  # type: ignore[misc]
        return found


def position(id_: str) -> Position:
    """`1700000000000-3` as something that can be compared."""
    ms, _, seq = id_.partition("-")
    return int(ms), int(seq or 0)


def text(at: Position) -> str:
    """The reverse."""
    return f"{at[0]}-{at[1]}"


def before(at: Position) -> Position:
    """The greatest position below it."""
    return (at[0], at[1] - 1) if at[1] else (at[0] - 1, 2**63)


def line(partition: int, fields: dict[bytes, bytes]) -> Line:
    """A row of the feed."""
    return Line(
        partition,
        int(fields[b"n"]),
        fields[b"i"].decode(),
        fields.get(b"name", b"").decode(),
        fields.get(b"first", b"").decode(),
        fields.get(b"last", b"").decode(),
        int(fields.get(b"count", 0)),
        int(fields.get(b"size", 0)),
    )


def _bounded(sizes: Sequence[int]) -> int:
    """How many of them weigh no more than a page may, one at least."""
    for n, total in enumerate(accumulate(sizes)):
        if n and total > PAGE_BYTES:
            return n
    return len(sizes)


def _is_beside(fields: dict[bytes, bytes]) -> bool:
    """Return True if a websocket gets the entry, and its body is kept beside it."""
    return bool(fields.get(b"ws")) and b"data" not in fields


def _entry(id_: str, fields: dict[bytes, bytes], data: bytes) -> Entry:
    return Entry(
        position(id_),
        int(fields[b"ws"]),
        fields[b"id"].decode(),
        fields[b"event"].decode(),
        int(fields[b"at"]) / 1000,
        fields[b"meta"],
        data,
    )


def _end(r: Any, partition: int) -> Any:
    pipe = r.pipeline(transaction=True)
    pipe.xrevrange(keys.of(partition, "feed"), count=1)
    pipe.get(keys.of(partition, "fed"))
    return pipe.execute()


def _after(r: Any, partition: int, mark: Mark) -> Any:
    pipe = r.pipeline(transaction=True)
    pipe.xrange(keys.of(partition, "feed"), f"({mark.id}", "+", count=LINES)
    pipe.get(keys.of(partition, "fed"))
    return pipe.execute()


def _pooled(url: str, timeout: float, connections: int, name: str) -> redis.Redis:
    """A client whose callers wait for a connection; connects to nothing yet."""
    return redislink.connect(
        url,
        timeout=timeout,
        connect_timeout=TIMEOUT,
        connections=connections,
        wait=TIMEOUT,
        client_name=name,
        protocol=2,
    )
