"""Keep connections for the next request of the same owner to the same origin.

An owner is a subscription. Its kept connections and TLS sessions serve no other one. So a server
that answers unasked deceives at most its own subscription. The pool is bounded in all and for each
owner. The connection that was idle longest is closed first.
"""

from __future__ import annotations

import asyncio
import resource
import ssl
from collections import OrderedDict, deque
from typing import Final

import aiohttp
from yarl import URL

from evoflask.net.http import KEEPALIVE_SECONDS, Door
from evoflask.net.wire import Wire

MOST: Final = 4_096
"""Connections in all, above which idle ones are closed. At most half of the files that the process
may open."""
EACH: Final = 64
"""Idle connections of an owner: as many as a lane may have deliveries under way."""
SESSIONS: Final = 20_000
"""TLS sessions kept, some 6 kB each."""
SESSION_SECONDS: Final = 3_600.0
"""Time after its full handshake in which a TLS session is resumed. Only a full handshake verifies
the certificate, so a withdrawn one is accepted for this time."""


class Wires:
    """The connections of a door. Call all methods in its loop."""

    def __init__(self, door: Door, *, most: int = MOST, each: int = EACH) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = most if soft == resource.RLIM_INFINITY else min(most, soft // 2)
        self._each = each
        self._door = door
        self._loop = asyncio.get_running_loop()
        self._busy = 0
        self._idle: dict[Wire, None] = {}
        """All free connections, the one that was idle longest first."""
        self._free: dict[str, deque[Wire]] = {}
        """The free connections by owner, the last used one last."""
        self._sessions = Sessions()
        self._sweep: asyncio.TimerHandle | None = None

    async def wire(self, owner: str, origin: URL) -> Wire:
        """Return the last used free connection, or a new one. Raises what aiohttp raises.

        Each connection needs one call of `give_back`.
        """
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

    async def speaks_tls(self, origin: URL, seconds: float) -> bool:
        """Return True if the server of a plain origin shakes hands with TLS, on a connection made
        for that. A certificate that is refused proves TLS, too."""
        asked = URL.build(scheme="https", host=origin.raw_host or "", port=origin.port)
        try:
            async with asyncio.timeout(seconds):
                made, _ = await self._door.connect(asked)
        except aiohttp.ClientConnectorCertificateError:
            return True
        except aiohttp.ClientConnectorSSLError as error:
            return "ALERT" in (getattr(error.os_error, "reason", None) or "")
        except (TimeoutError, aiohttp.ClientError, OSError):
            return False
        made.close()
        return True

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
        """Close all free connections. The others belong to their requests."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for each in self._idle:
            each.close()
        self._idle.clear()
        self._free.clear()

    @property
    def idle(self) -> int:
        """Number of free connections."""
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
    """The last used TLS sessions, by owner and origin."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, URL], tuple[ssl.SSLSession, float]] = OrderedDict()

    def get(self, owner: str, origin: URL) -> ssl.SSLSession | None:
        """Return the session to resume, or None."""
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
        """Keep the session of a connection after its first answer.

        TLS 1.3 servers send the session after the handshake. A resumed session stays as it is,
        because a copy costs some 300 us.
        """
        if secured.session_reused and (owner, origin) in self._known:
            return
        session = secured.session
        if session is None or not (session.has_ticket or session.id):
            return
        self._known[owner, origin] = (session, asyncio.get_running_loop().time())
        self._known.move_to_end((owner, origin))
        if len(self._known) > SESSIONS:
            self._known.popitem(last=False)
