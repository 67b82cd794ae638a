"""PostgreSQL as peewee sees it: a pool with bounds, in which nobody waits for somebody else's
connection, and a connection on which every wait has an end.

peewee's own pool opens and checks connections under one lock, so with a server that does not
answer each thread would wait for all before it.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, runtime_checkable

import peewee
import psycopg
from playhouse.pool import MaxConnectionsExceeded, PoolConnection, PooledPostgresqlDatabase
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.types.string import StrDumperUnknown

MARGIN: Final = 5.0
"""Seconds after its own time limit that a server is waited for."""
OLD: Final = 300.0
"""Seconds after which a connection is replaced: what leads to it may have moved."""
NUL: Final = "\x00"
INSTEAD: Final = "\ufffd"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much, and how long. `connections` of a process at most; `wait`: seconds for one of
    them, for the server's answer to a new one, and for a lock; `statement`: seconds that a
    statement may take."""

    connections: int = 20
    wait: float = 5.0
    statement: float = 30.0


@runtime_checkable
class Bounded(Protocol):
    """Settings that say something of it."""

    @property
    def database_connections(self) -> int: ...
    @property
    def database_wait_seconds(self) -> float: ...
    @property
    def database_statement_seconds(self) -> float: ...


def limits_of(settings: object) -> Limits:
    """Of the settings, or the usual ones where they say nothing."""
    if not isinstance(settings, Bounded):
        return Limits()
    return Limits(
        settings.database_connections,
        settings.database_wait_seconds,
        settings.database_statement_seconds,
    )


class Connection(psycopg.Connection[Any]):
    """Gives up on a server that says nothing, though its own time limits are over: one that
    hangs, or a network that swallows packets, would hold a thread for ever."""

    patience: float | None = None

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        try:
            return super().wait(gen, interval, self.patience if timeout is None else timeout)
        except psycopg.errors._WaitTimeout as error:
            if timeout is not None:
                raise
            self.pgconn.finish()  # whatever it answers now is the answer to something else
            raise psycopg.OperationalError("The server does not answer.") from error


class _Text(StrDumperUnknown):
    """PostgreSQL's texts hold no NUL. A caller's may, and a letter must not be lost for it."""

    def dump(self, obj: str) -> Any:
        return super().dump(obj.replace(NUL, INSTEAD))


_ADAPTERS: Final = psycopg.adapt.AdaptersMap(psycopg.adapters)
_ADAPTERS.register_dumper(str, _Text)


class _Adapter(peewee.Psycopg3Adapter):
    def connect(self, db: Any, **params: Any) -> Connection:
        patience = params.pop("patience")
        params["dbname"] = db.database
        made = Connection.connect(context=_ADAPTERS, **params)
        made.patience = patience
        return made


class Pool(PooledPostgresqlDatabase):  # type: ignore[misc]
    """One connection a thread, `limits.connections` in all. A thread that ended without giving
    its own back does not count."""

    psycopg3_adapter = _Adapter

    def __init__(self, url: str, limits: Limits) -> None:
        """Raises `ValueError` for a URL that names no database."""
        super().__init__(
            prefer_psycopg3=True,
            max_connections=limits.connections,
            stale_timeout=OLD,
            timeout=limits.wait,
            **parameters(url, limits),
        )

    def connect(self, reuse_if_open: bool = False) -> bool:
        """As peewee's, without its lock: what it guards is of this thread alone."""
        if not self._state.closed:
            if reuse_if_open:
                return False
            raise peewee.OperationalError("Connection already opened.")
        self._state.reset()
        with peewee.__exception_wrapper__:  # type: ignore[attr-defined]
            connection = self._take(time.monotonic() + self._wait_timeout)
        self._state.set_connection(connection)
        if self.server_version is None:
            self._set_server_version(connection)
        return True

    def is_closed(self) -> bool:
        """Also where the server ended it: whoever comes next on this thread gets another one,
        even if nobody has noticed so far."""
        broken = not self._state.closed and self._state.conn.closed
        if broken and not self.in_transaction():
            self.close()
        return bool(self._state.closed)

    def _take(self, until: float) -> Any:
        while True:
            kept, place = self._kept_or_place(until)
            if place is not None:
                return self._open(place)
            if _answers(kept, self._wait_timeout):
                return kept
            self._drop(kept)
            if time.monotonic() > until:
                raise psycopg.OperationalError("The server does not answer.")

    def _kept_or_place(self, until: float) -> tuple[Any, int | None]:
        """A connection that was kept, or a place for a new one."""
        with self._pool_available:
            while True:
                while self._connections:
                    since, _, kept = heapq.heappop(self._connections)
                    if self._is_stale(since):
                        self._close_raw(kept)
                        continue
                    self._in_use[id(kept)] = _Use(since, kept, time.time())
                    return kept, None
                self._forget_the_dead()
                if len(self._in_use) < self._max_connections:
                    use = _Use(time.time(), None, time.time())
                    self._in_use[id(use)] = use
                    return None, id(use)
                left = until - time.monotonic()
                if left <= 0:
                    raise MaxConnectionsExceeded("All connections of the pool are in use.")
                self._pool_available.wait(min(left, 1.0))

    def _open(self, place: int) -> Any:
        made = None
        try:
            made = peewee.PostgresqlDatabase._connect(self)  # type: ignore[attr-defined]
        finally:
            with self._pool_available:
                self._in_use.pop(place, None)
                if made is not None:
                    self._in_use[id(made)] = _Use(time.time(), made, time.time())
                self._pool_available.notify()
        return made

    def _drop(self, connection: Any) -> None:
        with self._pool_available:
            self._in_use.pop(id(connection), None)
            self._pool_available.notify()
        self._close_raw(connection)

    def _forget_the_dead(self) -> None:
        """Connections of threads that ended."""
        for key, use in list(self._in_use.items()):
            if not use.thread.is_alive():
                del self._in_use[key]
                self._close_raw(use.connection)

    def _can_reuse(self, conn: Any) -> bool:
        """Without a word to the server: this is asked under the pool's lock."""
        return bool(conn.pgconn.transaction_status == TransactionStatus.IDLE)

    def _close_raw(self, conn: Any) -> None:
        if conn is not None:  # a place for one
            super()._close_raw(conn)


def _answers(kept: Connection, seconds: float) -> bool:
    """Whether it still leads to a server, which has so many seconds to say so."""
    usual, kept.patience = kept.patience, seconds
    try:
        kept.execute("SELECT 1")
    except psycopg.Error:
        return False
    finally:
        kept.patience = usual
    return True


class _Use(PoolConnection):  # type: ignore[misc]
    """A connection that somebody has, and who that is."""

    def __init__(self, *_: Any) -> None:
        self.thread = threading.current_thread()


def parameters(url: str, limits: Limits) -> dict[str, Any]:
    """What psycopg is told. What the URL says itself counts more. Raises `ValueError`."""
    try:
        said: Mapping[str, Any] = conninfo_to_dict(url)
    except psycopg.Error as error:
        raise ValueError("no URL of PostgreSQL") from error
    name = said.get("dbname")
    if not name:
        raise ValueError("no name of a database")
    wait, statement = round(limits.wait * 1000), round(limits.statement * 1000)
    bounds = {
        "statement_timeout": statement,
        "lock_timeout": wait,
        # A process that stands still must not keep its locks.
        "idle_in_transaction_session_timeout": statement,
    }
    options = " ".join(f"-c {name}={value}" for name, value in bounds.items())
    usual: dict[str, Any] = {
        "connect_timeout": max(2, round(limits.wait)),  # libpq knows no less
        "application_name": "evoflask",
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": wait + 10_000,
    }
    return {
        **usual,
        **{key: value for key, value in said.items() if key != "dbname"},
        "database": name,
        "options": f"{options} {said.get('options', '')}".strip(),
        "patience": limits.statement + MARGIN,
        # Values stand in the text of a statement: the planner sees which partial index answers
        # it, nothing is prepared that a pooler in between would lose, and a value that stands
        # twice in a statement is the same one.
        "cursor_factory": psycopg.ClientCursor,
    }


def is_mismatch(error: BaseException) -> bool:
    """Whether the schema is another version's: a table or a column is not there."""
    kinds = (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn)
    return isinstance(error.__context__ or error.__cause__, kinds)


def is_locked(error: BaseException) -> bool:
    """Whether somebody else had what was asked for, and kept it for too long."""
    kinds = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)
    return isinstance(error.__context__ or error.__cause__, kinds)
