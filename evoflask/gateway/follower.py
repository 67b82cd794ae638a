"""The one reader of a web process: it waits for the feeds and reads each new entry once.

What it reads goes into rings, one an instance that somebody joined and one for the sockets
that joined all; then it wakes those sockets. They take what they need by their own cursors,
in threads of their own: it never waits for a socket, and a socket that is behind its ring
reads the outbox itself. So there is no hand-over from catching up to live, no queue a socket,
and no memory that grows with a client that does not read.
"""

from __future__ import annotations

import logging
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, islice
from typing import NamedTuple, Protocol

from evoflask.gateway import protocol
from evoflask.gateway.protocol import Writer
from evoflask.log import Repeats
from evoflask.outbox.feed import START, Entry, Feed, Line, Mark, Position, before, position

log = logging.getLogger(__name__)

BLOCK = 2.0
"""Seconds of one blocking read."""
CHECK = 5.0
"""Seconds between looks at whether the feeds are what they were."""
PIECE = 64
"""Lines that are read in one round trip, and messages that a ring gives at once."""
PIECE_BYTES = 4 * 1024 * 1024
RING = 256
RING_BYTES = 512 * 1024
"""Bounds of an instance's ring."""
RINGS_BYTES = 64 * 1024 * 1024
"""Bound of all of them; above it they are emptied, and sockets that are behind read for
themselves."""
ALL_RING = 10_000
ALL_BYTES = 32 * 1024 * 1024
"""Bounds of the ring of all instances, which has no outbox behind it."""


class Socket(Protocol):
    """Whom the follower wakes."""

    def wake(self) -> None: ...


class Item(NamedTuple):
    """A message and its place."""

    id: Position
    number: int
    frame: bytes


class Channel:
    """The newest messages of one instance, for the sockets that joined it.

    The ring has every message after `_base`; whoever is further behind reads the outbox.
    `turn` grows when lines of the feed were missed: then nobody knows what came, and each
    socket reads the outbox from its own cursor on.
    """

    def __init__(self, partition: int, outbox: str, name: str) -> None:
        self.partition = partition
        self.outbox = outbox
        self.name = name
        self.writer = Writer(name, outbox)
        self.sockets: set[Socket] = set()
        self.turn = 0
        self.last = START
        """The newest entry that the feed told of."""
        self.size = 0
        self._base: Position | None = None
        self._items: list[Item] = []
        self._lock = threading.Lock()

    def state(self) -> tuple[int, Position]:
        """`turn` and `last`, of one moment."""
        with self._lock:
            return self.turn, self.last

    def ground(self, at: Position) -> None:
        """The outbox ended here after the channel was joined: the ring begins at it, unless it
        has begun by a line of the feed."""
        with self._lock:
            if self._base is None:
                self._base = at

    def after(self, at: Position) -> list[Item] | None:
        """The next messages after a place; None: only the outbox knows."""
        with self._lock:
            if self._base is None or at < self._base:
                return None
            n = bisect_right(self._items, at, key=lambda item: item.id)
            return self._items[n : n + PIECE]

    def add(self, first: Position, last: Position, entries: Sequence[Entry], expected: int) -> None:
        """What a line of the feed told of. Fewer than `expected`: some are gone already."""
        items = [Item(e.id, e.number, self.writer.event(e)) for e in entries]
        with self._lock:
            if self._base is None:
                self._base = before(first)
            top = self._items[-1].id if self._items else self._base
            new = [item for item in items if item.id > top]
            self._items += new
            self.size += sum(len(item.frame) for item in new)
            self.last = max(self.last, last)
            if len(entries) < expected:
                self.turn += 1
            while len(self._items) > RING or (self.size > RING_BYTES and self._items):
                self._drop(len(self._items) // 2 or 1)

    def miss(self) -> None:
        """Lines of the feed were missed."""
        with self._lock:
            self._items, self._base, self.size = [], None, 0
            self.turn += 1

    def empty(self) -> None:
        """Give up the messages, to save memory; nothing was missed."""
        with self._lock:
            self._drop(len(self._items))

    def _drop(self, n: int) -> None:
        if n:
            self._base = self._items[n - 1].id
            self.size -= sum(len(item.frame) for item in self._items[:n])
            del self._items[:n]


class AllRing:
    """What sockets that joined all take from."""

    def __init__(self) -> None:
        self.sockets: set[Socket] = set()
        self.end = 0
        """How many messages there ever were: where a socket that joins begins."""
        self._frames: list[bytes] = []
        self._size = 0
        self._lock = threading.Lock()

    def add(self, frames: Sequence[bytes]) -> None:
        with self._lock:
            self._frames += frames
            self.end += len(frames)
            self._size += sum(map(len, frames))
            while len(self._frames) > ALL_RING or (self._size > ALL_BYTES and self._frames):
                n = len(self._frames) // 2 or 1
                self._size -= sum(map(len, self._frames[:n]))
                del self._frames[:n]

    def after(self, at: int) -> tuple[list[bytes], int, int]:
        """(messages, the place after them, how many before them are lost)."""
        with self._lock:
            begin = self.end - len(self._frames)
            start = max(at, begin)
            frames = self._frames[start - begin : start - begin + PIECE]
            sizes = accumulate(map(len, frames))
            frames = frames[: 1 + sum(size <= RING_BYTES for size in islice(sizes, 1, None))]
            return frames, start + len(frames), start - at


class Follower:
    """Starts with the first socket and lasts as long as the process.

    `changed` is called with the `<i>` of an instance that somebody joined, whose
    configuration changed, and with "" when nobody knows which ones did.
    """

    def __init__(self, feed: Feed, partitions: int, changed: Callable[[str], None]) -> None:
        self._feed = feed
        self._at_least = partitions
        self._changed = changed
        self._channels: dict[str, Channel] = {}
        self.all = AllRing()
        self._marks: dict[int, Mark] = {}
        self._numbers: dict[int, int] = {}
        self._lock = threading.Lock()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._failures = Repeats(log)

    def start(self) -> None:
        """Idempotent: after it, everything that is appended will be noticed. Raises
        `OutboxDown`: then it is not started."""
        with self._starting:
            if self._thread is None:
                self._find_partitions()
                self._thread = threading.Thread(target=self._run, name="follower", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Ends the thread after its read."""
        self._stop.set()

    # -- sockets -----------------------------------------------------------------------------

    def join(self, socket: Socket, partition: int, outbox: str, name: str) -> Channel:
        """From now on the socket is woken for this instance. Raises `OutboxDown`."""
        if partition not in self._marks:
            with self._starting:
                self._find_partitions()
        with self._lock:
            channel = self._channels.get(outbox)
            if channel is None:
                channel = self._channels[outbox] = Channel(partition, outbox, name)
            channel.sockets.add(socket)
        return channel

    def leave(self, socket: Socket, channel: Channel) -> None:
        with self._lock:
            channel.sockets.discard(socket)
            if not channel.sockets and self._channels.get(channel.outbox) is channel:
                del self._channels[channel.outbox]

    def join_all(self, socket: Socket) -> int:
        """The same for all instances; where the socket's messages begin."""
        with self._lock:
            self.all.sockets.add(socket)
            return self.all.end

    def leave_all(self, socket: Socket) -> None:
        with self._lock:
            self.all.sockets.discard(socket)

    # -- the thread --------------------------------------------------------------------------

    def _run(self) -> None:
        whole = True
        checked = 0
        while not self._stop.is_set():
            try:
                if not whole or checked * BLOCK >= CHECK:
                    self._check()
                    whole, checked = True, 0
                lines = self._feed.wait(self._marks, BLOCK)
                checked = 0 if lines else checked + 1
            except Exception as error:
                self._failed(error)
                whole = False
                continue
            try:
                self._take(lines)
                self._failures.over("the feed is read again")
            except Exception as error:
                # The marks are past these lines: what they told of is not known any more.
                self._failed(error)
                self._miss(None)

    def _failed(self, error: Exception) -> None:
        self._failures.tell("the feed could not be read", error)
        self._stop.wait(0.3)

    def _find_partitions(self) -> None:
        new = [p for p in self._feed.partitions(self._at_least) if p not in self._marks]
        for partition, mark in self._feed.ends(new).items():
            self._numbers[partition] = mark.number
            # Another dict: the thread may be walking over the old one.
            self._marks = {**self._marks, partition: mark}

    def _check(self) -> None:
        """Whether the feeds go on where they were left: Redis may have been emptied, or have
        lost its end, or its clock may have been set back."""
        self._find_partitions()
        for partition, mark in self._marks.items():
            lines, number = self._feed.after(partition, mark)
            follows = lines[0].number == mark.number + 1 if lines else number == mark.number
            if not follows:
                found = self._feed.ends([partition])[partition]
                self._marks[partition] = found
                self._numbers[partition] = found.number
                self._miss(partition)

    def _miss(self, partition: int | None) -> None:
        """Lines were missed: all sockets of the partition look at their outboxes."""
        log.warning("lines of the feed were missed; sockets look at their outboxes")
        with self._lock:
            channels = [c for c in self._channels.values() if partition in (None, c.partition)]
            sockets = {s for c in channels for s in c.sockets} | self.all.sockets
        for channel in channels:
            channel.miss()
        reason = "lines of the feed were missed"
        self.all.add([protocol.gap(protocol.ALL, None, None, reason, None)])
        self._changed("")
        for socket in sockets:
            socket.wake()

    def _take(self, lines: Sequence[Line]) -> None:
        wanted = []
        for line in lines:
            if line.number != self._numbers[line.partition] + 1:
                self._miss(line.partition)
            self._numbers[line.partition] = line.number
            if not line.count:
                if line.outbox in self._channels:
                    self._changed(line.outbox)
            elif self.all.sockets or line.outbox in self._channels:
                wanted.append(line)
        for piece in _pieces(wanted):
            self._read(piece)

    def _read(self, lines: Sequence[Line]) -> None:
        merged: dict[str, list[Line]] = {}
        for line in lines:
            merged.setdefault(line.outbox, []).append(line)
        ranges = [(of[0].partition, i, of[0].first, of[-1].last) for i, of in merged.items()]
        woken: set[Socket] = set()
        for of, entries in zip(merged.values(), self._feed.ranges(ranges), strict=True):
            woken |= self._spread(of, entries)
        if sum(channel.size for channel in list(self._channels.values())) > RINGS_BYTES:
            for channel in list(self._channels.values()):
                channel.empty()
        for socket in woken:
            socket.wake()

    def _spread(self, lines: Sequence[Line], entries: Sequence[Entry]) -> set[Socket]:
        """Into the rings; the sockets to wake."""
        line, expected = lines[0], sum(each.count for each in lines)
        with self._lock:
            channel = self._channels.get(line.outbox)
            woken = set(channel.sockets) if channel else set()
            everybody = set(self.all.sockets)
        if channel is not None:
            first, last = position(line.first), position(lines[-1].last)
            channel.add(first, last, entries, expected)
        if everybody:
            writer = channel.writer if channel else Writer(line.name, line.outbox)
            frames = [writer.event(entry, "global-event") for entry in entries]
            if len(entries) < expected:
                lost = expected - len(entries)
                frames.append(protocol.gap(line.name, None, lost, "they left retention", None))
            self.all.add(frames)
        return woken | everybody


def _pieces(lines: Sequence[Line]) -> Iterator[list[Line]]:
    """Bounded in lines and bytes, one line at least."""
    piece: list[Line] = []
    size = 0
    for line in lines:
        if piece and (len(piece) >= PIECE or size + line.size > PIECE_BYTES):
            yield piece
            piece, size = [], 0
        piece.append(line)
        size += line.size
    if piece:
        yield piece
