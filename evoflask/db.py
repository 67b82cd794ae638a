"""The one door to SQL: connections, transactions, migrations, and peewee's errors made ours."""

from __future__ import annotations

import fcntl
import logging
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import peewee
from playhouse import db_url
from playhouse.migrations import Runner
from playhouse.pool import (
    MaxConnectionsExceeded,
    PooledPostgresqlDatabase,
    PooledSqliteDatabase,
)

from evoflask.errors import DatabaseDown, Misconfigured

log = logging.getLogger(__name__)

database: Final = peewee.DatabaseProxy()
"""What every model is bound to; `connect` gives it a real database."""

MIGRATIONS: Final = Path(__file__).resolve().parent.parent / "migrations"

BUSY_SECONDS: Final = 5
"""How long a writer waits for another one, in SQLite."""

POOL_CONNECTIONS: Final = 32
"""PostgreSQL connections a process keeps at most; more callers wait `BUSY_SECONDS`."""

SQLITE_CONNECTIONS: Final = 1_100
"""More than a process has threads."""

_writer: Final = threading.RLock()

_UPGRADE_LOCK: Final = 0x65766F66  # "evof": the advisory lock that one upgrade holds

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
    """What `connect` needs of the settings."""

    @property
    def database_url(self) -> str: ...


def connect(settings: HasDatabaseUrl) -> None:
    """Bind the models to `settings.database_url`. Opens nothing: the first query does,
    one connection per thread. Raises `Misconfigured` for a URL that names no database."""
    url = settings.database_url
    if database.obj is not None:
        database.obj.close_all()
    try:
        database.initialize(_database(url))
    except peewee.ImproperlyConfigured as error:
        raise Misconfigured("DATABASE_URL: PostgreSQL's driver psycopg is missing.") from error


def _database(url: str) -> Any:
    scheme = url.partition(":")[0].lower()
    try:
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
        if scheme in {"postgres", "postgresql"}:
            return PooledPostgresqlDatabase(
                max_connections=POOL_CONNECTIONS,
                stale_timeout=300,
                timeout=BUSY_SECONDS,
                connect_timeout=BUSY_SECONDS,
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
    except OURS:
        raise
    except DOWN as error:
        first = _first(error)
        log.warning("database: %s: %s", type(first).__name__, first)
        if not database.in_transaction():
            close()
        raise DatabaseDown("The database cannot be reached, or refuses.") from error


def _first(error: BaseException) -> BaseException:
    """What went wrong before a rollback failed too: a full disk ends SQLite's transaction, and
    "no transaction is active" would be all that one reads of it."""
    found, context = error, error.__context__
    while isinstance(context, (peewee.PeeweeException, sqlite3.Error)):
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


def insert_rows(table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Many rows by the driver, within a transaction: peewee builds a statement of all of them,
    which takes ten times as long. The names are ours, never a caller's."""
    names = ", ".join(f'"{name}"' for name in columns)
    marks = ", ".join([database.param] * len(columns))
    sql = f'INSERT INTO "{table}" ({names}) VALUES ({marks})'  # noqa: S608
    with peewee.__exception_wrapper__:  # type: ignore[attr-defined]
        database.cursor().executemany(sql, rows)


def for_update(query: Any) -> Any:
    """Lock the rows of a select until the transaction ends. SQLite's writer is alone anyway."""
    return query if is_sqlite() else query.for_update()


def upgrade() -> list[str]:
    """Apply the migrations that are missing, one process at a time. Returns their names."""
    with translate(), _upgrade_lock():
        return list(Runner(database.obj, str(MIGRATIONS)).up())


def pending() -> list[str]:
    """Names of the migrations that `upgrade` would apply."""
    with translate():
        rows = Runner(database.obj, str(MIGRATIONS)).status()
    return [row.name for row in rows if row.path is not None and row.applied is None]


@contextmanager
def _upgrade_lock() -> Iterator[None]:
    if not is_sqlite():
        database.execute_sql("SELECT pg_advisory_lock(%s)", (_UPGRADE_LOCK,))
        try:
            yield
        finally:
            database.execute_sql("SELECT pg_advisory_unlock(%s)", (_UPGRADE_LOCK,))
        return
    path = Path(database.obj.database)
    if not path.parent.is_dir():
        raise Misconfigured(f"DATABASE_URL: the folder {path.parent} does not exist.")
    with path.with_name(f"{path.name}.upgrade").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
