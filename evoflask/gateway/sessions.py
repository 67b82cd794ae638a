"""One socket's life: what it joined, how far it is in each, and what it is sent next.

For each instance that it joined a session has a cursor of its own, and takes what lies
behind it: from the channel's ring where that reaches back so far, else from the outbox. Every
entry that websockets get has a number, so whatever is missing is seen by the session itself,
and told: a `gap` says how many.
"""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from evoflask.errors import EvoflaskError, OutboxDown
from evoflask.gateway import protocol
from evoflask.gateway.connection import Closed, Connection
from evoflask.gateway.follower import Channel, Follower, Item
from evoflask.gateway.protocol import ALL, Cursor, Fault, Join, Leave
from evoflask.outbox.feed import Feed, Position, before
from evoflask.reading import SMALL, Loan
from evoflask.routing import Route

log = logging.getLogger(__name__)

MAX_JOINS: Final = 256
"""Instances that one socket may join; beyond, `*` or a second socket."""
PAGE: Final = 64
"""Entries that a session reads of an outbox at once."""
AGAIN: Final = 1.0
"""Seconds until an outbox that could not be read is read again."""

ROOM_AGAIN: Final = 0.4
"""Longest time in seconds until a socket asks again for the bytes of a large event."""

TRIMMED: Final = "they left retention"
SET_BACK: Final = "the outbox lost its end"
REPLACED: Final = "the instance was deleted and made again"

ReadRoute = Callable[[str], Route]
"""The instance of a name that the socket's key may hear. Raises `NotFound`, `Unauthorized`,
`DatabaseDown`."""
Notice = Callable[["Session"], None]
"""What another thread has to say; the session's own thread runs it."""


@dataclass(slots=True)
class Joined:
    """An instance that the socket joined."""

    channel: Channel
    route: Route
    cursor: Cursor
    """Of the last message that was sent, or of where the events begin."""
    at: Position
    """How far the outbox was looked at; what lies between may be for lanes alone."""
    turn: int
    """The channel's, when the outbox was last read; another one: it must be read."""
    numbered: bool = True
    """False: nobody knows what number comes next."""


class Session:
    """Belongs to one thread, but for `post` and `wake`."""

    def __init__(
        self,
        connection: Connection,
        feed: Feed,
        follower: Follower,
        read_route: ReadRoute,
        loan: Loan,
        *,
        global_: bool,
    ) -> None:
        self._connection = connection
        self._feed = feed
        self._follower = follower
        self._read_route = read_route
        self._loan = loan
        self._global = global_
        self._joined: dict[str, Joined] = {}
        self._all: int | None = None
        self._notices: deque[Notice] = deque()
        self._not_before = 0.0

    def run(self) -> Closed:
        """Until the connection ends, or must; how it did."""
        try:
            while True:
                more = self._pull()
                until = self._not_before if self._not_before > time.monotonic() else None
                for words in self._connection.step(wait=not more, until=until):
                    self._obey(protocol.parse(words))
                while self._notices:
                    self._notices.popleft()(self)
                if self._loan.held and self._connection.drained:
                    self._loan.give()
                    self._not_before = 0.0
        except Closed as end:
            return end
        finally:
            self._loan.give()
            for joined in self._joined.values():
                self._follower.leave(self, joined.channel)
            self._follower.leave_all(self)

    # -- from other threads ------------------------------------------------------------------

    def wake(self) -> None:
        self._connection.wake()

    def post(self, notice: Notice) -> None:
        self._notices.append(notice)
        self._connection.wake()

    def names(self) -> list[tuple[str, str]]:
        """What it joined, as (name, outbox)."""
        return [(name, joined.channel.outbox) for name, joined in list(self._joined.items())]

    # -- notices -----------------------------------------------------------------------------

    def end(self, code: int, reason: str) -> None:
        """Closes it."""
        raise Closed(code, reason)

    def revoke(self, name: str, outbox: str, fault: Fault) -> None:
        """The socket may not hear this instance any more, or it is gone."""
        joined = self._joined.get(name)
        if joined is not None and joined.channel.outbox == outbox:
            self._leave(name)
            self._connection.send(protocol.fault(fault))

    # -- what the client says ----------------------------------------------------------------

    def _obey(self, said: Join | Leave | Fault) -> None:
        if isinstance(said, Join):
            self._connection.send(self._join_all() if said.instance == ALL else self._join(said))
        elif isinstance(said, Leave):
            cursor = self._leave(said.instance)
            self._connection.send(protocol.left(said.instance, cursor))
        else:
            self._connection.send(protocol.fault(said))

    def _join_all(self) -> bytes:
        if not self._global:
            return protocol.fault(Fault(401, "Only the global key may join all instances.", ALL))
        try:
            self._follower.start()
        except OutboxDown as error:
            return protocol.fault(Fault(error.status, error.messages[0], ALL))
        if self._all is None:
            self._all = self._follower.join_all(self)
        return protocol.joined(ALL, None)

    def _join(self, join: Join) -> bytes:
        if join.instance not in self._joined and len(self._joined) >= MAX_JOINS:
            many = f"A socket may join {MAX_JOINS} instances."
            return protocol.fault(Fault(400, many, join.instance))
        try:
            self._follower.start()
            route = self._read_route(join.instance)
            self._leave(join.instance)
            joined = self._begin(route, join.after)
        except EvoflaskError as error:
            return protocol.fault(Fault(error.status, error.messages[0], join.instance))
        self._joined[join.instance] = joined[0]
        return protocol.joined(join.instance, join.after or joined[0].cursor) + joined[1]

    def _begin(self, route: Route, after: Cursor | None) -> tuple[Joined, bytes]:
        """The place where the socket's events begin, and a gap where one is known already.

        First the channel, then the outbox' end: what is appended after that is told to it.
        """
        channel = self._follower.join(self, route.partition, route.outbox, route.name)
        try:
            turn, _ = channel.state()
            tail = self._feed.tail(route.partition, route.outbox)
        except OutboxDown:
            self._follower.leave(self, channel)
            raise
        channel.ground(tail.last)
        end = Cursor(route.outbox, tail.last, tail.number)
        if after is None:
            return Joined(channel, route, end, end.id, turn), b""
        if after.outbox != route.outbox:
            begin = Cursor(route.outbox, tail.edge, 0)
            told = protocol.gap(route.name, after, None, REPLACED, begin)
            return Joined(channel, route, begin, begin.id, -1, numbered=False), told
        if after.id > tail.last or after.number > tail.number:
            return Joined(channel, route, end, end.id, turn), _set_back(route, after, end)
        # What is at or before the edge is kept for lanes, if at all, and some of it is gone.
        return Joined(channel, route, after, max(after.id, tail.edge), -1), b""

    def _leave(self, name: str) -> Cursor | None:
        if name == ALL:
            self._follower.leave_all(self)
            self._all = None
            return None
        joined = self._joined.pop(name, None)
        if joined is None:
            return None
        self._follower.leave(self, joined.channel)
        return joined.cursor

    # -- what it is sent ---------------------------------------------------------------------

    def _pull(self) -> bool:
        """Some of what lies behind the cursors, as far as there is room; whether there may be
        more."""
        more = self._pull_all()
        for joined in list(self._joined.values()):
            if not self._connection.room:
                return True
            more = self._pull_one(joined) or more
        return more

    def _pull_all(self) -> bool:
        if self._all is None:
            return False
        if not self._connection.room:
            return True
        if time.monotonic() < self._not_before:
            return False
        frames, end, lost = self._follower.all.after(self._all)
        if not self._loan.borrow(sum(len(frame) for frame in frames if len(frame) > SMALL)):
            self._wait()
            return False
        self._all = end
        if lost:
            reason = "you read too slowly for all of it"
            self._connection.send(protocol.gap(ALL, None, lost, reason, None))
        for frame in frames:
            self._connection.send(frame)
        return self._all < self._follower.all.end

    def _pull_one(self, joined: Joined) -> bool:
        turn, last = joined.channel.state()
        if joined.turn == turn and joined.at >= last:
            return False
        items = joined.channel.after(joined.at) if joined.turn == turn else None
        if items is not None:
            self._send(joined, items)
            return joined.at < last and bool(items)
        if time.monotonic() < self._not_before:
            return False
        try:
            return self._read(joined, turn, last)
        except OutboxDown:
            self._not_before = time.monotonic() + AGAIN
            return False

    def _read(self, joined: Joined, turn: int, last: Position) -> bool:
        """A page of the outbox; whether there is more."""
        cursor = joined.cursor
        route = joined.route
        page = self._feed.page(route.partition, route.outbox, joined.at, PAGE, self._loan.borrow)
        if joined.numbered and cursor.number > page.number:
            tail = self._feed.tail(joined.route.partition, joined.route.outbox)
            joined.cursor = Cursor(cursor.outbox, tail.last, tail.number)
            joined.at, joined.turn = tail.last, turn
            self._connection.send(_set_back(joined.route, cursor, joined.cursor))
            return False
        writer = joined.channel.writer
        self._send(joined, [Item(e.id, e.number, writer.event(e)) for e in page.entries])
        if page.last is not None:
            joined.at = page.last
        if page.short:
            self._wait()
            return False
        if page.end:
            # All that the feed had told of when it was read is sent, or gone.
            joined.at, joined.turn = max(joined.at, last), turn
            if joined.cursor.number < page.number:
                end = Cursor(cursor.outbox, joined.at, page.number)
                if joined.numbered:
                    self._tell_gap(joined, end)
                joined.cursor, joined.numbered = end, True
        return not page.end

    def _wait(self) -> None:
        """Wait a moment: other reads or this socket hold the bytes that the next message needs."""
        self._not_before = time.monotonic() + random.uniform(0.5, 1.0) * ROOM_AGAIN

    def _send(self, joined: Joined, items: Sequence[Item]) -> None:
        for item in items:
            cursor = joined.cursor
            if joined.numbered and item.number != cursor.number + 1:
                self._tell_gap(joined, Cursor(cursor.outbox, before(item.id), item.number - 1))
            joined.cursor = Cursor(cursor.outbox, item.id, item.number)
            joined.at, joined.numbered = item.id, True
            self._connection.send(item.frame)

    def _tell_gap(self, joined: Joined, until: Cursor) -> None:
        missed = until.number - joined.cursor.number
        known, reason = (missed, TRIMMED) if missed > 0 else (None, SET_BACK)
        frame = protocol.gap(joined.route.name, joined.cursor, known, reason, until)
        self._connection.send(frame)


def _set_back(route: Route, after: Cursor, end: Cursor) -> bytes:
    return protocol.gap(route.name, after, None, SET_BACK, end)
