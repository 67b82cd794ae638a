"""The verbs as calls of scripts: pure, so that the web process and the drain share them.

A `Call` is a script, its keys and arguments, and how to read its answer. Who runs it, and
whether it waits or awaits, is the client's (client.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Generic, NamedTuple, TypeVar

from evoflask.outbox import keys
from evoflask.plurals import counted

T = TypeVar("T")
FEED_LINES = 10_000
"""A reader of the feed that is further behind looks at the outboxes instead."""
PACE_MS = 10_000
"""What settle.lua counts a lane's deliveries by."""
BATCHES, BYTES = 20_000, 16 * 1024 * 1024
"""Attempts wait in a partition's stream in so many batches at most. Measured: 24 bytes an attempt,
so at 5,000 a second the clock may be away for two minutes; a house that is less busy makes some
ten small batches a second, and has half an hour."""
SHARE = 0.7
"""Share of maxmemory above which attempts are dropped: a log must not take what events need."""
TOMBSTONE_MS = 7 * 86400 * 1000
"""Longer than any process with an old row could live before it pushes it."""


@dataclass(frozen=True, slots=True)
class Script:
    """Lua of one verb. `sha`: the SHA-1 by which Redis runs it."""

    name: str
    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "sha", sha)


@cache
def script(name: str) -> Script:
    """Return a verb's Lua: the shared part, then its own file."""
    here = files("evoflask.outbox")
    text = (here / "lib.lua").read_text() + "\n" + (here / f"{name}.lua").read_text()
    return Script(name, text)


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One run of one verb."""

    script: Script
    prefix: str
    args: Sequence[str | bytes | int | float]
    read: Callable[[Any], T]


def _call(
    name: str, partition: int, args: Iterable[str | bytes | int | float], read: Callable[[Any], T]
) -> Call[T]:
    return Call(script(name), keys.prefix(partition), tuple(args), read)


# -- append ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NewEntry:
    """An event on its way to the outbox."""

    id: str
    given: bool
    """The id is the caller's, so a repeat is answered instead of kept."""
    event: str
    meta: bytes
    data: bytes
    to: Sequence[tuple[str, str]]
    """(lane, order key as members carry it); empty when no lane wants it."""
    ws: bool = False
    """A websocket subscription wants it: it is kept for sockets though no lane may want it."""
    print: bytes = b""
    """Fingerprint of event name and data, where the id is the caller's."""
    why: bytes = b""
    """Why no subscription gets it, as `unwanted.pack` writes it; empty where one does."""

    @property
    def size(self) -> int:
        """Bytes the entry weighs: body, meta, and what its names take."""
        return len(self.data) + len(self.meta) + len(self.id) + len(self.event)


@dataclass(frozen=True, slots=True)
class Limits:
    """What append and trim keep to. Ages in seconds."""

    inline_bytes: int = 32768
    seen_seconds: float = 3600
    seen_ids: int = 100_000
    retain_entries: int = 1000
    retain_seconds: float = 900
    soft_share: float = 0.8
    hard_share: float = 0.95
    lane_entries: int = 1_000_000
    lane_bytes: int = 256 * 1024 * 1024
    events_per_second: float = 0
    """Of an instance; 0: any number."""
    burst: int = 1
    """Events that may come at once."""
    feed_lines: int = FEED_LINES
    """About so many lines of the feed are kept, per partition."""


@dataclass(frozen=True, slots=True)
class Appended:
    """`status`: ok, unknown (no such instance), stale (another revision), full, limited."""

    status: str
    full: str = ""
    """memory: all are refused; share: these lanes weigh more than their share."""
    duplicates: frozenset[int] = frozenset()
    """Positions in the call whose id was accepted before with the same content.

    An id without a fingerprint counts as one with the same content.
    """
    bells: Sequence[str] = ()
    """Sinks that nobody drains: ring for them."""
    wait: float = 0
    """limited: seconds until the same call would pass."""
    conflicts: frozenset[int] = frozenset()
    """Positions in the call whose id was accepted before with other content."""


def _read_append(answer: Any) -> Appended:
    status = _text(answer[0])
    if status == "full":
        return Appended(status, full=_text(answer[1]))
    if status == "limited":
        return Appended(status, wait=int(answer[1]) / 1000)
    if status != "ok":
        return Appended(status)
    return Appended(
        status,
        duplicates=frozenset(answer[1]),
        bells=[_text(b) for b in answer[2]],
        conflicts=frozenset(answer[3]),
    )


def append(
    partition: int,
    i: str,
    revision: int,
    epoch: str,
    entries: Sequence[NewEntry],
    limits: Limits,
    *,
    requeue: bool = False,
    name: str = "",
) -> Call[Appended]:
    """Accept events of one instance: all of this call, or none. `name`: the instance's, for
    readers of the feed."""
    args: list[str | bytes | int | float] = [
        i,
        revision,
        epoch,
        "requeued" if requeue else "routed",
        sum(e.size for e in entries),
        limits.inline_bytes,
        _ms(limits.seen_seconds),
        limits.seen_ids,
        limits.retain_entries,
        _ms(limits.retain_seconds),
        limits.soft_share,
        limits.hard_share,
        limits.lane_entries,
        limits.lane_bytes,
        name,
        limits.feed_lines,
        limits.events_per_second,
        limits.burst,
    ]
    for e in entries:
        to = " ".join(f"{lane}:{key}" for lane, key in e.to)
        args += (e.id, "1" if e.given else "0", e.event, e.meta, e.data, e.size, to, int(e.ws))
        args += (e.print, e.why)
    return _call("append", partition, args, _read_append)


# -- take, settle, renew --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Held:
    """A lane with the right to it, and the first ids of what is to be done."""

    partition: int
    lane: str
    token: str
    outbox: str
    revision: tuple[str, str]
    """(revision, epoch) of the instance's configuration."""
    probe: bool
    """The lane was paused: this one entry is to find out whether it goes on."""
    proven: bool
    """The last attempts on this lane succeeded."""
    breaker: dict[str, str]
    ids: Sequence[tuple[str, int]]
    """(member, tries so far)"""
    early: Mapping[str, str] = field(default_factory=dict)
    """The ids that come before their date, with the cause: `probe`, `change` or `recovery`."""
    broke: float = 0.0
    """The end of the pause that a probe by hand interrupted, in Unix seconds; 0: none did."""


@dataclass(frozen=True, slots=True)
class Taken:
    now: float
    """Redis' clock, seconds."""
    lanes: Sequence[Held]


def take(
    partition: int, sink: str, token: str, *, hold: float, lanes: int, ids: int, alone: bool = False
) -> Call[Taken]:
    """Lanes that are due, longest due first; `hold` in seconds, `token` never used before."""

    def read(answer: Any) -> Taken:
        held = [
            Held(
                partition,
                _text(row[0]),
                _text(row[1]),
                _text(row[2]),
                (_text(row[3]), _text(row[4])),
                row[5] == 1,
                row[6] == 1,
                {
                    "failures": str(row[7]),
                    "until": str(row[8] / 1000),
                    "pauses": str(row[9]),
                    "last_entry": _text(row[10]),
                },
                _ids(row[11]),
                _pairs(row[12]),
                row[13] / 1000,
            )
            for row in answer[1:]
        ]
        return Taken(answer[0] / 1000, held)

    return _call("take", partition, (sink, token, _ms(hold), lanes, ids, int(alone)), read)


@dataclass(frozen=True, slots=True)
class Ended:
    """An attempt's end, as a lane's books see it. `attempt`: 1 for the first try."""

    kind: str
    """d delivered, r retry, x dead, e failed before its date: tries and date stay"""
    member: str
    attempt: int
    delay: float = 0.0
    """Seconds until the next try, for `r`."""
    why: str = ""
    """JSON with reason, code and detail, for `x`."""
    tried: bool = True
    """False if nothing was sent, the settings were outdated, or an operator asked for the try.

    Such an outcome is not counted among the lane's failures. An `r` leaves the entry as it is.
    """


@dataclass(frozen=True, slots=True)
class Want:
    """What the holder of a lane asks for while it settles."""

    ids: int = 0
    cursor: str = ""
    """The last new member that was handed out."""
    new: int = 0
    """New members in hand, those of this settle not counted."""
    old: int = 0
    """Retries in hand, the same."""
    mark: str = ""
    """The entry that is about to start, on a lane in quarantine."""


@dataclass(frozen=True, slots=True)
class Settled:
    held: bool
    """False: the hold was lost, nothing was changed."""
    now: float = 0.0
    due: bool = False
    """Given up, and due again at once: something is left."""
    applied: int = 0
    ids: Sequence[tuple[str, int]] = ()
    active: bool = True
    revision: tuple[str, str] = ("", "")
    early: Mapping[str, str] = field(default_factory=dict)
    """See `Held`."""


def _read_settle(answer: Any) -> Settled:
    if _text(answer[0]) == "lost":
        return Settled(False)
    return Settled(
        True,
        answer[1] / 1000,
        answer[2] == 1,
        answer[3],
        _ids(answer[4]),
        answer[5] == 1,
        (_text(answer[6]), _text(answer[7])),
        _pairs(answer[8]),
    )


def settle(
    partition: int,
    lane: str,
    token: str,
    ended: Sequence[Ended],
    *,
    hold: float,
    want: Want = Want(),
    facts: dict[str, str | int] | None = None,
    totals: dict[str, int] | None = None,
) -> Call[Settled]:
    """End attempts; `hold` seconds keeps the lane, 0 gives it up. `facts` are fields of the
    lane (breaker, last error), `totals` are added to the partition's counters when at least
    one outcome counted."""
    args: list[str | bytes | int | float] = [lane, token, _ms(hold), want.ids, want.cursor]
    args += (want.new, want.old, want.mark)
    for pairs in (facts or {}, totals or {}):
        args.append(len(pairs))
        for name, value in pairs.items():
            args += (name, value)
    for e in ended:
        kind = e.kind if e.tried else e.kind.upper()
        args += (kind, e.member, e.attempt, e.why if e.kind == "x" else _ms(e.delay))
    return _call("settle", partition, args, _read_settle)


def renew(partition: int, holds: Sequence[tuple[str, str]], *, hold: float) -> Call[list[str]]:
    """Keep holds (lane, token); answers the lanes that were lost."""
    flat = [part for pair in holds for part in pair]
    args: tuple[str | int, ...] = (_ms(hold), *flat)
    return _call("renew", partition, args, _texts)


def ring(partition: int, sinks: Sequence[str]) -> Call[list[str]]:
    """The sinks that need a bell, at most one a second each."""
    return _call("ring", partition, sinks, _texts)


def awake(partition: int, sinks: Sequence[str], seconds: float) -> Call[int]:
    """Tell that these sinks are drained here, for so long; 0 seconds takes it back."""
    return _call("awake", partition, (_ms(seconds), *sinks), int)


def share(partition: int, sink: str, drain: str, lanes: int, seconds: float) -> Call[list[int]]:
    """Tell how many lanes with a backlog a drain has, for so long; 0 seconds: none, it sleeps.
    Answers the same of each other one that told."""
    return _call("share", partition, (sink, drain, _ms(seconds), lanes), list)


def log(
    partition: int,
    name: str,
    n: int,
    packed: bytes,
    dropped: int,
    *,
    batches: int = BATCHES,
    size: int = BYTES,
    share: float = SHARE,
) -> Call[bool]:
    """Keep a batch of `n` attempts for the delivery log; False: it was dropped, and counted, for
    want of room. `dropped`: attempts that the drain had no room for before. A batch that is
    added again, because an answer was lost, keeps its `name`."""
    return _call("log", partition, (name, n, packed, dropped, batches, size, share), bool)


def unlog(partition: int, batches: Sequence[str]) -> Call[int]:
    """The rows of batches, by their ids in the stream, are written: take them off."""
    return _call("unlog", partition, batches, int)


# -- the clock's ----------------------------------------------------------------------------


def bury(partition: int, lane: str, members: Sequence[str]) -> Call[int]:
    """Letters of these are written: count them dead. Answers how many were still dying."""
    return _call("bury", partition, (lane, *members), int)


def trim(partition: int, i: str, *, entries: int, seconds: float, n: int) -> Call[tuple[int, bool]]:
    """Move the edge of retention over at most `n` entries; (moved, more)."""
    args = (i, entries, _ms(seconds), n)
    return _call("trim", partition, args, lambda a: (a[0], a[1] == 1))


@dataclass(frozen=True, slots=True)
class Backlog:
    """A lane's limits, and what a letter says when one is passed."""

    seconds: float
    entries: int
    bytes: int
    bytes_detail: str = ""


def expire(partition: int, lane: str, limit: Backlog, *, n: int) -> Call[tuple[int, bool]]:
    """Give up what is beyond a lane's limits, oldest first, at most `n`; (given up, more)."""
    args = (
        lane,
        _ms(limit.seconds),
        limit.entries,
        limit.bytes,
        n,
        f"waited longer than {counted(limit.seconds, 'second')}",
        f"more than {counted(limit.entries, 'event was', 'events were')} waiting",
        limit.bytes_detail or f"more than {counted(limit.bytes, 'byte was', 'bytes were')} waiting",
    )
    return _call("expire", partition, args, lambda a: (a[0], a[1] == 1))


@dataclass(frozen=True, slots=True)
class Failing:
    """A lane whose attempts fail, or work again. Dates are Unix seconds."""

    lane: str
    outbox: str
    works: bool
    """Enabled, and not stopped by an operator."""
    fails: int
    """Attempts that failed since the last success."""
    since: float
    """When the first of them did."""
    until: float
    """When its pause ends; 0: it has none."""
    told: str
    """What the operator was told last; "": nothing since it last worked, `changed`: nothing
    since somebody changed the subscription."""
    well: float
    """When it worked again after the operator was told; 0: it did not."""
    error: str
    """The last one, in words."""


def failing(partition: int, *, n: int, again: float) -> Call[tuple[float, list[Failing]]]:
    """(Redis' clock, lanes that fail or recovered), at most `n`, each looked at again after so
    many seconds."""

    def read(answer: Any) -> tuple[float, list[Failing]]:
        found = [
            Failing(
                lane=_text(row[0]),
                outbox=_text(row[1]),
                works=row[2] == 1,
                fails=row[3],
                since=row[4] / 1000,
                until=row[5] / 1000,
                told=_text(row[6]),
                well=row[7] / 1000,
                error=_text(row[8]),
            )
            for row in answer[1:]
        ]
        return answer[0] / 1000, found

    return _call("failing", partition, (n, _ms(again)), read)


def tell(partition: int, lane: str, what: str) -> Call[bool]:
    """Note what the operator was told of a lane; "": that it works again."""
    return _call("tell", partition, (lane, what), lambda answer: answer == 1)


def reported(partition: int, lane: str, letters: int) -> Call[int]:
    """The operator was told of so many letters of the lane; how many came meanwhile."""
    return _call("reported", partition, (lane, letters), int)


def sweep(partition: int, *, n: int = 500) -> Call[int]:
    """Clear away a piece of what was set aside; 0: nothing is left."""
    return _call("sweep", partition, (n,), int)


def recount(partition: int, i: str, *, n: int) -> Call[tuple[bool, int, int]]:
    """Bring the stored bytes of an instance in line with its outbox, `n` entries a call.

    Returns (done, bytes as they were kept, bytes found); call it again until it is done."""
    return _call("recount", partition, (i, n), lambda a: (a[0] == 1, int(a[1]), int(a[2])))


def resum(partition: int, *, most: int) -> Call[tuple[int, int]]:
    """Bring the stored bytes of all instances in line with those of each, if they are at most
    `most` instances. Returns the sum before and after."""
    return _call("resum", partition, (most,), lambda a: (int(a[0]), int(a[1])))


def rewind(
    partition: int, lane: str, *, back: float, since: float, hold: float, n: int
) -> Call[float]:
    """Redis' clock went back by `back` seconds: bring a lane's dates from `since` on (Unix
    seconds) nearer by as much, `n` retries at most; from where to go on, 0: it is done."""
    args = (lane, _ms(back), _ms(since), _ms(hold), n)
    return _call("rewind", partition, args, lambda a: float(a) / 1000)


# -- an operator's --------------------------------------------------------------------------


def probe(partition: int, lane: str) -> Call[str]:
    """Have the lane looked at now: `unknown`, `off`, `stopped`, `empty` (nothing waits) or `ok`."""
    return _call("probe", partition, (lane,), _text)


@dataclass(frozen=True, slots=True)
class Skipped:
    """`status`: ok, unknown, empty, other (the head has another event id, this one)."""

    status: str
    event_id: str = ""
    event: str = ""
    tries: int = 0
    member: str = ""


def skip(partition: int, lane: str, *, event_id: str = "", why: str) -> Call[Skipped]:
    """Give the head of a lane up. `event_id`: only where it is that one's; `why`: JSON with
    reason, code and detail."""

    def read(answer: Any) -> Skipped:
        words = [_text(part) for part in answer]
        if words[0] != "ok":
            return Skipped(words[0], (*words, "")[1])
        return Skipped(words[0], words[1], words[2], int(words[3]), words[4])

    return _call("skip", partition, (lane, event_id, why), read)


@dataclass(frozen=True, slots=True)
class Purged:
    """`status`: ok, unknown, other (the backlog is another one, of `count`)."""

    status: str
    count: int = 0
    """Deliveries that were discarded."""
    bytes: int = 0


def purge(partition: int, lane: str, backlog: int) -> Call[Purged]:
    """Discard all that waits on a lane, where that is as many as the caller says."""
    return _call(
        "purge", partition, (lane, backlog), lambda a: Purged(_text(a[0]), *(int(n) for n in a[1:]))
    )


# -- configuration and views ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LaneConfig:
    """What Redis must know of a subscription."""

    s: str
    sink: str
    enabled: bool
    concurrency: int = 8
    """Not kept in Redis: the drain reads it with the other settings."""
    wait: bool = False
    stopped: bool = False
    """Paused by an operator."""
    version: int = 0
    """Another one than before ends the pause of a failing lane."""


@dataclass(frozen=True, slots=True)
class Configured:
    discarded: dict[str, int] = field(default_factory=dict)
    """Deliveries that went with each destroyed lane."""
    newer: bool = False
    """Redis had a newer revision: nothing was changed."""


def _read_configure(answer: Any) -> Configured:
    if _text(answer[0]) == "newer":
        return Configured(newer=True)
    flat = answer[1:]
    return Configured({_text(flat[n]): int(flat[n + 1]) for n in range(0, len(flat), 2)})


def configure(
    partition: int,
    i: str,
    revision: int,
    epoch: str,
    lanes: Sequence[LaneConfig],
    *,
    deleted: bool = False,
) -> Call[Configured]:
    """Bring an instance in Redis in line with its row; idempotent, only raises the revision."""
    rows = [
        [c.s, c.sink, int(c.enabled), int(c.stopped), int(c.wait), c.version]
        for c in ([] if deleted else lanes)
    ]
    args = (i, revision, epoch, int(deleted), TOMBSTONE_MS, json.dumps(rows), FEED_LINES)
    return _call("configure", partition, args, _read_configure)


@dataclass(frozen=True, slots=True)
class LaneView:
    """A lane at one moment. `facts`: the lane's hash."""

    lane: str
    facts: dict[str, str]
    waiting: int
    dying: int
    weight: int
    due: float | None
    """When it is looked at next, Unix seconds."""
    oldest: float | None
    """When its oldest entry was accepted, Unix seconds; of those that failed only the one
    that is tried next is looked at."""
    retrying: int
    """Of those that wait, the ones that failed before."""
    head: str
    """What holds the lane up, as a member; "" where nothing waits: its oldest entry, or what
    failed where the lane waits for that."""
    head_tries: int
    """How often the head failed."""
    now: float
    """The moment, Unix seconds of Redis' clock."""

    def count(self, book: str) -> int:
        return int(self.facts.get(book, 0))

    @property
    def last_minute(self) -> int:
        """Deliveries in the last minute, to ten seconds."""
        slot, *counts = (int(word) for word in self.facts.get("pace", "0").split())
        now = int(self.now * 1000)
        ahead = max(0, now // PACE_MS - slot)
        # The slots are of ten seconds, so the oldest of the last minute counts with its share.
        shares = [1.0] * 6 + [1 - now % PACE_MS / PACE_MS]
        return round(sum(n * share for n, share in zip(counts, shares[ahead:], strict=False)))

    @property
    def off(self) -> int:
        """What the books and the lane differ by; 0 when they balance."""
        came = self.count("routed") + self.count("requeued")
        ended = self.count("delivered") + self.count("dead") + self.count("discarded")
        return came - ended - self.waiting - self.dying


def look(partition: int, lanes: Sequence[str]) -> Call[list[LaneView]]:
    """What is known of these lanes."""

    def read(answer: Any) -> list[LaneView]:
        now = answer[0] / 1000
        return [_view(lane, row, now) for lane, row in zip(lanes, answer[1:], strict=True)]

    return _call("look", partition, lanes, read)


@dataclass(frozen=True, slots=True)
class Found:
    """A page of a search: the entry, or where to go on; both "": there is no more."""

    entry: str
    more: str


def find(
    partition: int,
    i: str,
    event_id: str,
    *,
    start: str = "+",
    floor: str = "0-0",
    n: int = 200,
    deep: bool = False,
) -> Call[Found]:
    """Look for a retained entry by its event's id, newest first, at about `n` entries.

    `start`: `+`, an entry, or `more` of the last page. `floor`: an entry at which to end,
    where that is not the edge of retention. `deep`: beyond the edge too, where only what a lane
    still has is left.
    """

    def read(answer: Any) -> Found:
        return Found(_text(answer[0]), _text(answer[1]))

    return _call("find", partition, (i, event_id, start, floor, n, int(deep)), read)


@dataclass(frozen=True, slots=True)
class Fate:
    """Where a delivery is: waiting, dying, or neither, then it is settled."""

    next_try: float | None
    """Unix seconds; 0: it was not tried yet; None: it does not wait."""
    before: int
    """How many stand before it on the lane."""
    tries: int
    """Attempts that failed."""
    dying: str
    """Why it was given up, JSON; "": it was not, or its letter is written."""


def fate(partition: int, deliveries: Sequence[tuple[str, str]]) -> Call[list[Fate]]:
    """Where deliveries (lane, member) are."""

    def read(answer: Any) -> list[Fate]:
        return [
            Fate(
                float(row[0]) / 1000 if row[0] else None,
                row[1],
                row[2],
                _text(row[3]).partition(" ")[2],
            )
            for row in answer
        ]

    return _call("fate", partition, [part for pair in deliveries for part in pair], read)


# -- replay ---------------------------------------------------------------------------------


class Row(NamedTuple):
    """An entry without its body."""

    entry: str
    size: int
    event_id: str


@dataclass(frozen=True, slots=True)
class Scanned:
    """A page of entries in their order. `more`: behind which entry the next one begins; "":
    there is none."""

    rows: Sequence[Row]
    more: str


def scan(
    partition: int,
    i: str,
    *,
    after: str,
    last: str,
    events: Sequence[str] = (),
    ids: Sequence[str] = (),
    n: int = 100,
) -> Call[Scanned]:
    """Entries behind one and up to another, at most `n` and about a megabyte: of these events
    (none: of any), and of these ids; without ids, those as which events were accepted."""

    def read(answer: Any) -> Scanned:
        flat = answer[1:]
        rows = [
            Row(_text(flat[k]), int(flat[k + 1]), _text(flat[k + 2]))
            for k in range(0, len(flat), 3)
        ]
        return Scanned(rows, _text(answer[0]))

    args = (i, after, last, n, json.dumps(list(events)), json.dumps(list(ids)))
    return _call("scan", partition, args, read)


# -- tests of subscriptions -----------------------------------------------------------------

TRIAL = "?"
"""What is told beside a sink's name where a test of a subscription is asked for."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many tests may be open at a time, and for how long. Seconds."""

    instance: int = 4
    sink: int = 256
    open_seconds: float = 90
    """As long a test counts as open that nobody answers."""
    kept_seconds: float = 600


def ask(
    partition: int,
    i: str,
    lane: str,
    sink: str,
    trial: str,
    event: str,
    request: bytes,
    bounds: Bounds,
) -> Call[str]:
    """Ask whoever drains the sink for a test of the lane's subscription: `ok`, or why not:
    `instance`, `sink` (too many of it are open)."""
    args = (
        i,
        lane,
        sink,
        trial,
        event,
        request,
        bounds.instance,
        bounds.sink,
        _ms(bounds.open_seconds),
        _ms(bounds.kept_seconds),
    )
    return _call("ask", partition, args, _text)


def answer(partition: int, sink: str, trial: str, story: bytes, bounds: Bounds) -> Call[bool]:
    """Say what came of a test; False: nobody remembers that it was asked for."""
    args = (sink, trial, story, _ms(bounds.kept_seconds))
    return _call("answer", partition, args, bool)


def _view(lane: str, row: Any, now: float) -> LaneView:
    flat = [_text(x) for x in row[0]]
    due, first = _text(row[4]), _text(row[5])
    return LaneView(
        lane,
        dict(zip(flat[::2], flat[1::2], strict=True)),
        row[1],
        row[2],
        int(float(_text(row[3]))),
        float(due) / 1000 if due else None,
        int(first[:13]) / 1000 if first else None,
        row[6],
        _text(row[7]),
        int(row[8]),
        now,
    )


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _texts(values: Any) -> list[str]:
    return [_text(value) for value in values]


def _pairs(flat: Sequence[Any]) -> dict[str, str]:
    texts = [_text(each) for each in flat]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _ids(flat: Sequence[Any]) -> list[tuple[str, int]]:
    return [(_text(flat[n]), int(flat[n + 1])) for n in range(0, len(flat), 2)]


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
