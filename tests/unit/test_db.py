"""The database: its migrations, its settings, its door."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import peewee
import pytest
from playhouse import pool
from playhouse.schema_diff import diff_models

from evoflask import db, formats, models, schemas
from evoflask.errors import DatabaseDown, Misconfigured
from tests.conftest import Url

pytestmark = pytest.mark.databases


@pytest.fixture
def empty(empty_url: str) -> Iterator[str]:
    """A database that is connected to and has no table yet."""
    db.connect(Url(empty_url))
    yield empty_url
    db.close()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    """The same, a file in any case."""
    path = tmp_path / "evoflask.db"
    db.connect(Url(f"sqlite:///{path}"))
    yield path
    db.close()


def test_the_migrations_make_what_the_models_say(empty: str) -> None:
    db.upgrade()

    assert str(diff_models(db.database.obj, models.TABLES)) == ""


def test_upgrading_twice_does_nothing_the_second_time(empty: str) -> None:
    assert db.pending() == db.upgrade()
    assert db.upgrade() == db.pending() == []


def test_upgrading_at_once_runs_each_migration_once(empty: str) -> None:
    def upgrade(_: int) -> list[str]:
        try:
            return db.upgrade()
        finally:
            db.close()

    with ThreadPoolExecutor(4) as threads:
        done = list(threads.map(upgrade, range(4)))

    assert sorted(len(names) for names in done)[:3] == [0, 0, 0]
    assert db.pending() == []
    assert models.Meta.select().count() == 1


def test_who_connects_later_closes_nothing_that_others_read_with(empty: str) -> None:
    # The drains of a worker start one after another, in threads of their own.
    db.upgrade()
    asked, go = threading.Event(), threading.Event()

    def read() -> list[str]:
        try:
            with db.translate():
                rows = iter(models.Meta.select().iterator())
                first = next(rows)
                asked.set()
                assert go.wait(10)
                return [first.key, *(row.key for row in rows)]
        finally:
            db.close()

    models.Meta.insert_many({"key": f"k{n}", "value": ""} for n in range(500)).execute()
    with ThreadPoolExecutor(1) as thread:
        found = thread.submit(read)
        assert asked.wait(10)
        db.connect(Url(empty))
        go.set()
        assert len(found.result()) == 501


def test_every_new_database_has_an_epoch_of_its_own(tmp_path: Path) -> None:
    epochs = set()
    for name in "ab":
        db.connect(Url(f"sqlite:///{tmp_path / name}.db"))
        db.upgrade()
        epochs.add(models.epoch())
        db.close()

    assert len(epochs) == 2


def test_sqlite_keeps_a_commit_through_a_power_cut_and_waits_for_other_writers(
    file: Path,
) -> None:
    settings = [
        db.database.execute_sql(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
    ]

    assert settings == ["wal", 2, 1, 5000]


@pytest.mark.parametrize(
    "url",
    [
        "mysql://h/d",
        "sqlite://nothing",
        "",
        "postgresql://h",
        "postgresql://h/d?no_such_option=1",
        "x",
    ],
)
def test_a_url_that_names_no_database_is_misconfigured(url: str) -> None:
    with pytest.raises(Misconfigured, match="DATABASE_URL"):
        db.connect(Url(url))


def test_a_database_that_cannot_be_opened_is_down(tmp_path: Path) -> None:
    db.connect(Url(f"sqlite:///{tmp_path / 'no' / 'such' / 'folder.db'}"))

    with pytest.raises(DatabaseDown), db.translate():
        models.Instance.select().count()


def test_every_error_of_peewee_is_translated_or_left_on_purpose() -> None:
    raised = {
        kind
        for module in (peewee, pool)
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, Exception)
        and kind.__module__ in {"peewee", "playhouse.pool"}
        and kind is not peewee.PeeweeException
        and not issubclass(kind, peewee.DoesNotExist)
    }

    assert raised == {*db.DOWN, *db.OURS}


@pytest.mark.parametrize("kind", db.DOWN)
def test_an_error_of_the_database_becomes_ours(file: Path, kind: type[Exception]) -> None:
    with pytest.raises(DatabaseDown), db.translate():
        raise kind("host=secret")


@pytest.mark.parametrize("kind", db.OURS)
def test_an_error_of_a_statement_stays_what_it_is(kind: type[Exception]) -> None:
    with pytest.raises(kind), db.translate():
        raise kind("x")


def test_what_goes_up_comes_down_again_one_by_one(empty: str) -> None:
    names = db.upgrade()
    newest = _schema()

    for name in reversed(names):
        assert db.downgrade(name) == [name]
    left = [table for table in db.database.get_tables() if table != "schema_migration"]
    again = [each for name in names for each in db.upgrade(name)]

    assert left == []
    assert again == names
    assert _schema() == newest


def _schema() -> object:
    """Every table with its columns and indexes."""
    tables = sorted(db.database.get_tables())
    indexes = {t: sorted(map(str, db.database.get_indexes(t))) for t in tables}
    return {t: sorted(map(str, db.database.get_columns(t))) for t in tables}, indexes


def test_a_transaction_that_fails_leaves_nothing(empty: str) -> None:
    db.upgrade()

    def fail() -> None:
        with db.writing():
            models.Instance.create(name="a", token_sha256="", integration="EVOLUTION")
            raise ValueError

    with pytest.raises(ValueError):
        fail()

    assert models.Instance.select().count() == 0


def test_the_schemas_take_the_formats_that_there_are() -> None:
    assert set(schemas.FORMATS) == set(formats.FORMATS)
