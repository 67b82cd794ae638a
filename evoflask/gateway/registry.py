"""All sockets of a web process: how many there may be, and whether they may go on.

The watch, one thread that starts with the first socket, looks at every key and every join
again, at once where the feed tells of a change and every few seconds anyway, and says
goodbye to all sockets when the process is asked to end.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from evoflask import configuration, db
from evoflask.errors import NotFound, TooMany, Unauthorized, Unavailable
from evoflask.gateway import protocol
from evoflask.gateway.connection import Closed, Connection, Limits
from evoflask.gateway.follower import Follower
from evoflask.gateway.protocol import Fault
from evoflask.gateway.sessions import Session
from evoflask.keyring import Keyring
from evoflask.log import Repeats
from evoflask.outbox.feed import Feed
from evoflask.reading import Reads
from evoflask.routing import Route
from evoflask.settings import Settings

log = logging.getLogger(__name__)

TICK: Final = 0.25
"""Seconds between looks at whether the process ends."""
RECHECK: Final = 10.0
"""Seconds between looks at all keys and joins, told or not."""
RETRY_AFTER: Final = 5
"""Seconds after which a client may ask for a place again."""


NOT_YOURS: Final = "Unauthorized: the key of this socket is not valid for this instance."
"""Also refuses an instance that does not exist: a token must not learn names by asking."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose socket it is. `token_sha256` "": an operator's."""

    token_sha256: str = ""

    @property
    def global_(self) -> bool:
        return not self.token_sha256

    def read_route(self, name: str) -> Route:
        """An instance that it may hear. Raises `Unauthorized`, `NotFound`, `DatabaseDown`."""
        try:
            route = configuration.read_route(name)
        finally:
            db.close()  # a socket lasts for days, its connection to the database need not
        if route is None and self.global_:
            raise NotFound(f'The "{name}" instance does not exist')
        if route is None or not (self.global_ or route.token_sha256 == self.token_sha256):
            raise Unauthorized(NOT_YOURS)
        return route


class Registry:
    """Connects to nothing, and starts no thread, before the first socket: gunicorn forks."""

    def __init__(self, settings: Settings, keys: Keyring, reads: Reads) -> None:
        self._keys = keys
        self._reads = reads
        self._limits = Limits(
            queue=settings.websocket_queue,
            queue_bytes=settings.websocket_queue_bytes,
            ping=settings.websocket_ping_seconds,
            idle=settings.websocket_idle_seconds,
            stall=settings.websocket_stall_seconds,
        )
        self._feed = Feed.at(settings.redis_url)
        self._follower = Follower(self._feed, settings.outbox_partitions, self._note_change)
        self._lock = threading.Lock()
        self._places = settings.websocket_max_clients
        self._most_of_token = settings.websocket_max_per_token
        self._tokens: Counter[str] = Counter()
        self._sessions: dict[Session, Caller] = {}
        self._watching: threading.Thread | None = None
        self._wake = threading.Event()
        self._changed: set[str] = set()
        self._ending = False
        self._failures = Repeats(log)
        self.alive: Callable[[], bool] = lambda: True
        """Whether the process goes on; gunicorn.conf.py says how to know."""

    def is_operator(self, sha256: str) -> bool:
        """Return True if an operator's key has this digest."""
        return self._keys.find(sha256) is not None

    def caller(self, sha256: str) -> Caller:
        """Whose key has this digest. Raises `Unauthorized`, `DatabaseDown`."""
        if self.is_operator(sha256):
            return Caller()
        if not configuration.list_instances(token_sha256=sha256):
            raise Unauthorized
        return Caller(sha256)

    def limit_places(self, most: int) -> None:
        """Lower the number of places, before the first is taken."""
        with self._lock:
            self._places = min(self._places, most)

    def take_place(self, caller: Caller) -> None:
        """Raises `Unavailable` where all are taken, `TooMany` where the token has its share. Each
        goes back by `give_place`."""
        token = caller.token_sha256
        with self._lock:
            if token and self._tokens[token] >= self._most_of_token:
                full = TooMany("Too many websockets are open here with this token.")
                full.retry_after = RETRY_AFTER
                raise full
            if self._places <= 0 or not self.alive():
                error = Unavailable("No more websockets here now.")
                error.retry_after = RETRY_AFTER
                raise error
            self._places -= 1
            if token:
                self._tokens[token] += 1

    def give_place(self, caller: Caller) -> None:
        token = caller.token_sha256
        with self._lock:
            self._places += 1
            if token:
                self._tokens[token] -= 1
                if not self._tokens[token]:
                    del self._tokens[token]

    def serve(self, caller: Caller, connect: Callable[[Limits], Connection]) -> None:
        """A socket from its first frame to its last."""
        connection = connect(self._limits)
        session = Session(
            connection,
            self._feed,
            self._follower,
            caller.read_route,
            self._reads.loan(caller.token_sha256),
            global_=caller.global_,
        )
        began = time.monotonic()
        end = Closed(1011, "something went wrong here")
        with self._registered(session, caller):
            try:
                end = session.run()
            finally:
                connection.close(end.code, end.reason)
                connection.dispose()
        seconds = round(time.monotonic() - began, 1)
        log.info("socket ended", extra={"why": end.reason, "code": end.code, "seconds": seconds})

    @contextlib.contextmanager
    def _registered(self, session: Session, caller: Caller) -> Iterator[None]:
        with self._lock:
            self._sessions[session] = caller
            if self._watching is None:
                self._watching = threading.Thread(target=self._watch, name="watch", daemon=True)
                self._watching.start()
            ending = self._ending
        if ending:  # it came in just before the end, and nobody will tell it any more
            session.post(lambda each: each.end(protocol.RESTART, "the server restarts"))
        try:
            yield
        finally:
            with self._lock:
                del self._sessions[session]

    # -- the watch ---------------------------------------------------------------------------

    def _note_change(self, outbox: str) -> None:
        with self._lock:
            self._changed.add(outbox)
        self._wake.set()

    def _watch(self) -> None:
        checked = time.monotonic()
        while not self._ending:
            self._wake.wait(TICK)
            if not self.alive():
                self._end_all()
                return
            all_ = time.monotonic() > checked + RECHECK
            if not (all_ or self._wake.is_set()):
                continue
            if all_:
                checked = time.monotonic()
            self._check_quietly(all_)

    def _end_all(self) -> None:
        self._ending = True
        self._follower.stop()
        with self._lock:
            sessions = list(self._sessions)
        for session in sessions:
            session.post(lambda each: each.end(protocol.RESTART, "the server restarts"))

    def _check_quietly(self, all_: bool) -> None:
        self._wake.clear()
        with self._lock:
            changed, self._changed = self._changed, set()
        try:
            self._check(None if all_ or "" in changed else changed)
            self._failures.over("websockets are looked after again")
        except Exception as error:
            self._failures.tell("the keys of websockets could not be looked at", error)
            with self._lock:
                self._changed |= changed
        finally:
            db.close()

    def _check(self, outboxes: set[str] | None) -> None:
        """Every join of these outboxes, and the key of every socket that has one. None: all."""
        with self._lock:
            sessions = list(self._sessions.items())
        routes: dict[str, Route | None] = {}
        keys: dict[str, bool] = {}
        for session, caller in sessions:
            joined = [j for j in session.names() if outboxes is None or j[1] in outboxes]
            for name, outbox in joined:
                if name not in routes:
                    routes[name] = configuration.read_route(name)
                self._check_join(session, caller, (name, outbox), routes[name])
            token = caller.token_sha256
            if token and (joined or outboxes is None):
                if token not in keys:
                    keys[token] = bool(configuration.list_instances(token_sha256=token))
                if not keys[token]:
                    session.post(lambda each: each.end(protocol.KEY_REVOKED, "the key is no more"))

    def _check_join(
        self, session: Session, caller: Caller, joined: tuple[str, str], route: Route | None
    ) -> None:
        name, outbox = joined
        there = route is not None and route.outbox == outbox
        if route is not None and there and caller.token_sha256 in ("", route.token_sha256):
            return
        fault = Fault(401, NOT_YOURS, name)
        if caller.global_:
            fault = Fault(404, f'The "{name}" instance does not exist', name)
        session.post(lambda each: each.revoke(name, outbox, fault))
