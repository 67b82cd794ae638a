"""The database of a house: a file of SQLite, or a PostgreSQL of its own."""

from __future__ import annotations

import abc
import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg

from evoflask.dev.postgres_server import USER, PostgresServer, find_programs
from evoflask.errors import Misconfigured
from tests.conftest import missing

NAME = "house"
NAMES = [os.environ["DATABASE"]] if os.environ.get("DATABASE") else ["sqlite", "postgres"]
"""What a test runs on that runs on both."""


class Store(abc.ABC):
    """Looked at from outside, with `?` where a value stands."""

    name: str
    url: str

    def start(self) -> None:  # noqa: B027 - a file needs no start
        """Before the house does."""

    def close(self) -> None:  # noqa: B027 - the same
        """With the house."""

    @abc.abstractmethod
    def connect(self) -> contextlib.AbstractContextManager[Any]:
        """A connection, closed at the end and not committed."""

    def sql(self, text: str) -> str:
        """In its own words."""
        return text

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Rows."""
        with self.connect() as connection:
            return list(connection.execute(self.sql(sql), values).fetchall())

    def write(self, sql: str, *values: object) -> None:
        """One statement, committed."""
        with self.connect() as connection:
            connection.execute(self.sql(sql), values)
            connection.commit()

    def write_many(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        """One statement for each row, committed together."""
        with self.connect() as connection:
            connection.cursor().executemany(self.sql(sql), rows)
            connection.commit()

    @abc.abstractmethod
    def locked(self) -> contextlib.AbstractContextManager[object]:
        """Somebody else has it for himself, as far as writing goes."""

    @abc.abstractmethod
    def backup(self, file: Path) -> None:
        """A copy while it is in use, as the manual says."""

    @abc.abstractmethod
    def restore(self, file: Path) -> None:
        """The copy in its place; nobody uses it meanwhile."""

    @abc.abstractmethod
    def sound(self) -> bool:
        """Whether nothing in it is broken."""


class Sqlite(Store):
    name = "SQLite"

    def __init__(self, file: Path) -> None:
        self.file = file
        self.url = f"sqlite:///{file}"

    def connect(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.closing(sqlite3.connect(self.file, timeout=30))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        with self.connect() as connection:
            connection.execute("BEGIN EXCLUSIVE")
            yield
            connection.rollback()

    def backup(self, file: Path) -> None:
        self.write("VACUUM INTO ?", str(file))

    def restore(self, file: Path) -> None:
        for each in self.file.parent.glob(f"{self.file.name}-*"):
            each.unlink()
        shutil.copy(file, self.file)

    def sound(self) -> bool:
        return self.query("PRAGMA integrity_check") == [("ok",)]


class Postgres(Store):
    """`place`: a folder for the tables alone, on another disk. `settings` as the server's."""

    name = "PostgreSQL"

    def __init__(self, folder: Path, *, place: Path | None = None, **settings: object) -> None:
        try:
            find_programs()
        except Misconfigured as error:
            missing(str(error))
        self.server = PostgresServer(folder, settings=settings)
        self.url = self.server.url(NAME)
        self._place = place

    def start(self) -> None:
        self.server.start()
        if self._place is None:
            self.server.create(NAME)
            return
        os.chown(self._place, *_owner(self.server.cluster))
        self.server.execute(
            f"CREATE TABLESPACE small LOCATION '{self._place}'",
            f"CREATE DATABASE {NAME} TEMPLATE template0 TABLESPACE small",
        )

    def close(self) -> None:
        self.server.kill9()

    def connect(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.closing(psycopg.connect(self.url, connect_timeout=10))

    def sql(self, text: str) -> str:
        return text.replace("%", "%%").replace("?", "%s")

    @contextlib.contextmanager
    def locked(self, mode: str = "EXCLUSIVE") -> Iterator[None]:
        with self.connect() as connection:
            names = connection.execute(
                "SELECT string_agg(quote_ident(tablename), ', ') FROM pg_tables"
                " WHERE schemaname = 'public'"
            ).fetchone()
            connection.execute(f"LOCK TABLE {names[0]} IN {mode} MODE")
            yield
            connection.rollback()

    def backup(self, file: Path) -> None:
        self.server.program("pg_dump", "--format=custom", f"--file={file}", *self._where(), NAME)

    def restore(self, file: Path) -> None:
        self.server.drop(NAME)
        self.server.create(NAME)
        whole = ["--exit-on-error", "--single-transaction", f"--dbname={NAME}"]
        self.server.program("pg_restore", *whole, *self._where(), str(file))

    def _where(self) -> list[str]:
        return ["--host", str(self.server.home), "--username", USER]

    def sound(self) -> bool:
        where = self._where()
        return not self.server.program("pg_amcheck", "--install-missing", *where, NAME)


def _owner(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_uid, found.st_gid


def usual(folder: Path, name: str = "") -> Store:
    """The one that the variable DATABASE names; without it a file."""
    if (name or os.environ.get("DATABASE")) == "postgres":
        return Postgres(folder / "postgres")
    return Sqlite(folder / "house.db")
