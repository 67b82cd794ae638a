"""The one door to SQL: connections, transactions, migrations, and peewee's errors made ours."""

from __future__ import annotations

import fcntl
import logging
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import peewee
import psycopg
from playhouse import db_url
from playhouse.migrations import Runner
from playhouse.pool import MaxConnectionsExceeded, PooledSqliteDatabase

from evoflask import postgres
from evoflask.errors import DatabaseDown, Misconfigured

log = logging.getLogger(__name__)

database: Final = peewee.DatabaseProxy()
"""What every model is bound to; `connect` gives it a real database."""

MIGRATIONS: Final = Path(__file__).resolve().parent.parent / "migrations"

BUSY_SECONDS: Final = 5
"""How long a writer waits for another one, in SQLite."""

SQLITE_CONNECTIONS: Final = 1_100
"""More than a process has threads."""

_writer: Final = threading.RLock()
_binding: Final = threading.Lock()
_bound: tuple[int, str, postgres.Limits] | None = None
"""For which process `database` is bound to what."""

_UPGRADE_LOCK: Final = 0x65766F66  # "evof": the advisory lock that one upgrade holds
_UPGRADE_SECONDS: Final = 600.0
"""How long an upgrade waits for another one, and for the tables that others use."""
_TABLE_SECONDS: Final = 1.0
"""How long a migration asks for a table at a time: whoever comes after it waits behind it."""

_SQLITE_PRAGMAS: Final = {
    "journal_mode": "wal",
    "synchronous": "full",  # a commit that was answered survives a power cut
    "foreign_keys": 1,
    "busy_timeout": BUSY_SECONDS * 1000,
}

DOWN: Final = (
    peewee.OperationalError,
    peewee.InterfaceError,
    peewee.InternalError,
    peewee.DatabaseError,
    MaxConnectionsExceeded,
)
"""Errors that say something about the database's state, not about our statements."""

OURS: Final = (
    peewee.IntegrityError,
    peewee.DataError,
    peewee.ProgrammingError,
    peewee.NotSupportedError,
    peewee.ImproperlyConfigured,
)
"""Errors that are a defect or a rule of ours: they pass the door as they are."""


class HasDatabaseUrl(Protocol):
    """What `connect` needs of the settings; bounds of PostgreSQL it takes from them too."""

    @property
    def database_url(self) -> str: ...


def connect(settings: HasDatabaseUrl) -> None:
    """Bind the models to `settings.database_url`. Opens nothing: the first query does,
    one connection per thread. Raises `Misconfigured` for a URL that names no database.

    Every part of a process may call it, a second drain while the first one reads: where the models
    are bound to that database already, nothing is closed under anybody. Else all connections
    are, and nobody may be using one.
    """
    global _bound
    limits = postgres.limits_of(settings)
    wanted = os.getpid(), settings.database_url, limits  # a fork's connections are its parent's
    with _binding:
        if _bound == wanted:
            return
        made = _database(settings.database_url, limits)
        if database.obj is not None:
            database.obj.close_all()
        database.initialize(made)
        _bound = wanted


def _database(url: str, limits: postgres.Limits) -> Any:
    scheme = url.partition(":")[0].lower()
    try:
        if scheme in {"postgres", "postgresql"}:
            return postgres.Pool(url, limits)
        arguments = db_url.parse(url, unquote_password=True, unquote_user=True)
        if arguments["database"] in {"", ":memory:"}:  # each thread would have its own
            raise ValueError(url)
        if scheme == "sqlite":
            # Pooled, because whoever closes the last connection pays for a checkpoint.
            return PooledSqliteDatabase(
                max_connections=SQLITE_CONNECTIONS,
                pragmas=_SQLITE_PRAGMAS,
                timeout=BUSY_SECONDS,
                check_same_thread=False,  # one thread at a time, but not always the same
                **arguments,
            )
    except (ValueError, RuntimeError) as error:
        raise Misconfigured("DATABASE_URL: names no database.") from error
    raise Misconfigured("DATABASE_URL: must begin with sqlite:/// or postgresql://.")


def is_sqlite() -> bool:
    """Whether the models are bound to SQLite."""
    return isinstance(database.obj, peewee.SqliteDatabase)


def close() -> None:
    """Give this thread's connection back, if it opened one."""
    try:
        if not database.is_closed():
            database.close()
    except peewee.PeeweeException:
        log.debug("database: closing a broken connection failed", exc_info=True)


@contextmanager
def translate() -> Iterator[None]:
    """The one door where peewee's errors become `DatabaseDown`.

    A connection that failed outside a transaction is closed, so that the next query
    opens a new one.
    """
    try:
        yield
    except OURS as error:
        if not postgres.is_mismatch(error):
            raise
        raise _down(error) from error
    except DOWN as error:
        raise _down(error) from error


def _down(error: BaseException) -> DatabaseDown:
    first = _first(error)
    # The first line alone: PostgreSQL's further ones may quote a row.
    log.warning("database: %s: %s", type(first).__name__, str(first).partition("\n")[0])
    if not database.in_transaction():
        close()
    return DatabaseDown("The database cannot be reached, or refuses.")


def _first(error: BaseException) -> BaseException:
    """What went wrong before a rollback failed too: a full disk ends SQLite's transaction, and
    "no transaction is active" would be all that one reads of it."""
    found, context = error, error.__context__
    while isinstance(context, (peewee.PeeweeException, sqlite3.Error, psycopg.Error)):
        found, context = context, context.__context__
    return found


@contextmanager
def writing() -> Iterator[None]:
    """A transaction that will write. SQLite takes its write lock at once (BEGIN IMMEDIATE):
    a transaction that read first and then asks to write can only fail, not wait."""
    if not is_sqlite():
        with translate(), database.atomic():
            yield
        return
    # Threads queue here: SQLite's own waiting is polling, where the unlucky one starves.
    with _writer, translate(), database.atomic("IMMEDIATE"):
        yield


def alone(name: str) -> None:
    """Within a transaction: whoever asks for the same name waits for its end. For what reads
    rows that may not be there yet and writes by what it read; SQLite's writer is alone anyway."""
    if not is_sqlite():
        database.execute_sql("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (name,))


def insert_rows(table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Many rows by the driver, within a transaction: peewee builds a statement of all of them,
    which takes ten times as long. The names are ours, never a caller's."""
    names = ", ".join(f'"{name}"' for name in columns)
    if not is_sqlite():
        _copy(f'COPY "{table}" ({names}) FROM STDIN', rows)
        return
    marks = ", ".join([database.param] * len(columns))
    sql = f'INSERT INTO "{table}" ({names}) VALUES ({marks})'  # noqa: S608
    with peewee.__exception_wrapper__:  # type: ignore[attr-defined]
        database.cursor().executemany(sql, rows)


def _copy(sql: str, rows: Sequence[Sequence[Any]]) -> None:
    with peewee.__exception_wrapper__, database.cursor().copy(sql) as copy:  # type: ignore[attr-defined]
        for row in rows:
            copy.write_row(row)


def for_update(query: Any, of: Any = None) -> Any:
    """Lock the rows of a select (`of`: those of one of its tables) until the transaction ends.
    SQLite's writer is alone anyway."""
    return query if is_sqlite() else query.for_update(of=of)


def upgrade(target: str | None = None) -> list[str]:
    """Apply the migrations that are missing, up to `target`, one process at a time. Returns
    their names."""
    done: list[str] = []
    with translate(), _migrating():
        for name in _missing(target):
            _step(lambda name=name: _runner().up(name))  # type: ignore[misc]
            done.append(name)
    return done


def downgrade(target: str) -> list[str]:
    """Take migrations back, the last one first, as far as `target`, which goes too. Returns
    their names. Raises `Misconfigured` for one that is not there."""
    done: list[str] = []
    with translate(), _migrating():
        applied = [row.name for row in _runner().status() if row.applied]
        if target not in applied:
            raise Misconfigured(f'There is no migration "{target}" to take back.')
        for name in reversed(applied[applied.index(target) :]):
            _step(lambda name=name: _runner().down(name))  # type: ignore[misc]
            done.append(name)
    return done


def pending() -> list[str]:
    """Names of the migrations that `upgrade` would apply."""
    with translate():
        return _missing(None)


def _missing(target: str | None) -> list[str]:
    names = [r.name for r in _runner().status() if r.path is not None and r.applied is None]
    if target is None:
        return names
    return names[: names.index(target) + 1] if target in names else []


def _runner() -> Runner:
    return Runner(database.obj, str(MIGRATIONS))


def _step(apply: Callable[[], object]) -> None:
    """One migration. A table that others use is asked for again and again, and not for long:
    everybody who wants it meanwhile waits behind the migration."""
    end = time.monotonic() + _UPGRADE_SECONDS
    while True:
        try:
            apply()
        except peewee.OperationalError as error:
            if not postgres.is_locked(error) or time.monotonic() > end:
                raise
            log.info("a migration waits for a table that others use")
            time.sleep(random.uniform(0.1, 1))
        else:
            return


@contextmanager
def _migrating() -> Iterator[None]:
    if not is_sqlite():
        with _alone_in_postgres():
            yield
        return
    path = Path(database.obj.database)
    if not path.parent.is_dir():
        raise Misconfigured(f"DATABASE_URL: the folder {path.parent} does not exist.")
    with path.with_name(f"{path.name}.upgrade").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _alone_in_postgres() -> Iterator[None]:
    """One upgrade at a time, on a connection that may take its time and is not kept: the lock
    goes with it, as it does with a process that is killed."""
    end = time.monotonic() + _UPGRADE_SECONDS
    connection = database.connection()
    connection.patience = None
    try:
        database.execute_sql("SET statement_timeout = 0")
        database.execute_sql(f"SET lock_timeout = '{_TABLE_SECONDS}s'")
        while not _take_upgrade_lock():
            if time.monotonic() > end:
                raise peewee.OperationalError("another upgrade does not end")
            time.sleep(random.uniform(0.1, 0.3))
        yield
    finally:
        connection.close()
        close()


def _take_upgrade_lock() -> bool:
    row = database.execute_sql("SELECT pg_try_advisory_lock(%s)", (_UPGRADE_LOCK,)).fetchone()
    return bool(row[0])
