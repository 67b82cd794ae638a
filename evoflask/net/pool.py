"""The connections that wait for their next request: those of one owner to one origin.

An owner is a subscription. Its kept connections and its TLS sessions serve nobody else, so a
server that answers when it was not asked deceives its own subscription at most. The pool is
bounded in all and for each owner; the connection that was idle longest is closed first.
"""

from __future__ import annotations

import asyncio
import resource
import ssl
from collections import OrderedDict, deque
from typing import Final

from yarl import URL

from evoflask.net.http import KEEPALIVE_SECONDS, Door
from evoflask.net.wire import Wire

MOST: Final = 4_096
"""Connections in all, above which idle ones are closed. Fewer where the process may open fewer
files: half of that."""
EACH: Final = 64
"""Idle connections of an owner: as many as a lane may have deliveries under way."""
SESSIONS: Final = 20_000
"""TLS sessions kept, some 6 kB each."""
SESSION_SECONDS: Final = 3_600.0
"""How long a TLS session is resumed after its full handshake. A certificate is verified in full
handshakes only: one that was withdrawn is accepted for as long."""


class Wires:
    """The connections of a door. All methods are for its loop."""

    def __init__(self, door: Door, *, most: int = MOST, each: int = EACH) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = most if soft == resource.RLIM_INFINITY else min(most, soft // 2)
        self._each = each
        self._door = door
        self._loop = asyncio.get_running_loop()
        self._busy = 0
        self._idle: dict[Wire, None] = {}
        """All that are free, the one that was idle longest first."""
        self._free: dict[str, deque[Wire]] = {}
        """The same by owner."""
        self._sessions = Sessions()
        self._sweep: asyncio.TimerHandle | None = None

    async def wire(self, owner: str, origin: URL) -> Wire:
        """Return a free connection, the last that was used first; else a new one. `give_back` must
        follow. Raises what aiohttp raises."""
        while (found := self._take(owner, origin)) is not None:
            fresh = self._loop.time() - found.idle_since < KEEPALIVE_SECONDS
            if found.free and fresh and found.quiet:
                self._busy += 1
                return found
            found.close()
        self._busy += 1
        self._make_room()
        try:
            known = self._sessions.get(owner, origin) if origin.scheme == "https" else None
            connection, authorization = await self._door.connect(origin, known)
            return Wire(connection, owner, origin, authorization)
        except BaseException:
            self._busy -= 1
            raise

    def give_back(self, wire: Wire) -> None:
        """Keep a connection for its owner's next request; close one that cannot be used again."""
        self._busy -= 1
        if wire.requests == 1 and wire.secured is not None:
            self._sessions.put(wire.owner, wire.origin, wire.secured)
        if not wire.free:
            wire.close()
            return
        of_owner = self._free.setdefault(wire.owner, deque())
        if len(of_owner) >= self._each:
            self._let_go(of_owner[0])
        self._free.setdefault(wire.owner, of_owner).append(wire)
        self._idle[wire] = None
        self._make_room()
        if self._sweep is None:
            self._sweep = self._loop.call_later(KEEPALIVE_SECONDS, self._let_go_of_old)

    def close(self) -> None:
        """Close all that are free; those under way belong to their requests."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for each in self._idle:
            each.close()
        self._idle.clear()
        self._free.clear()

    @property
    def idle(self) -> int:
        """How many connections are free."""
        return len(self._idle)

    def _take(self, owner: str, origin: URL) -> Wire | None:
        of_owner = self._free.get(owner)
        if of_owner is None:
            return None
        for each in reversed(of_owner):
            if each.origin == origin:
                self._forget(each)
                return each
        return None

    def _make_room(self) -> None:
        while self._idle and self._busy + len(self._idle) > self._most:
            self._let_go(next(iter(self._idle)))

    def _let_go(self, wire: Wire) -> None:
        self._forget(wire)
        wire.close()

    def _forget(self, wire: Wire) -> None:
        del self._idle[wire]
        of_owner = self._free[wire.owner]
        of_owner.remove(wire)
        if not of_owner:
            del self._free[wire.owner]

    def _let_go_of_old(self) -> None:
        self._sweep = None
        limit = self._loop.time() - KEEPALIVE_SECONDS
        while self._idle and (oldest := next(iter(self._idle))).idle_since <= limit:
            self._let_go(oldest)
        if self._idle:
            self._sweep = self._loop.call_later(KEEPALIVE_SECONDS / 4, self._let_go_of_old)


class Sessions:
    """TLS sessions by owner and origin, the last that were used."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, URL], tuple[ssl.SSLSession, float]] = OrderedDict()

    def get(self, owner: str, origin: URL) -> ssl.SSLSession | None:
        """Return the session to resume."""
        found = self._known.get((owner, origin))
        if found is None:
            return None
        session, since = found
        if asyncio.get_running_loop().time() - since > min(SESSION_SECONDS, session.timeout):
            del self._known[owner, origin]
            return None
        self._known.move_to_end((owner, origin))
        return session

    def put(self, owner: str, origin: URL, secured: ssl.SSLObject) -> None:
        """Keep the session of a connection whose first answer was read: TLS 1.3 servers send it
        after the handshake. One that was resumed is kept as it is, for a copy costs some 300 us."""
        if secured.session_reused and (owner, origin) in self._known:
            return
        session = secured.session
        if session is None or not (session.has_ticket or session.id):
            return
        self._known[owner, origin] = (session, asyncio.get_running_loop().time())
        self._known.move_to_end((owner, origin))
        if len(self._known) > SESSIONS:
            self._known.popitem(last=False)
