"""The migration of `orderBy`: rows of an older release keep their order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playhouse.migrations import Runner

from evoflask import db
from evoflask.models import Subscription
from tests.conftest import Url

pytestmark = pytest.mark.databases

BEFORE = "0014_tombstone_index"
ROWS = {"default": "data.key.remoteJid", "none": None, "own": "data.room"}
MEANING = {"default": ("conversation", 8), "none": (None, 1), "own": (["data.room"], 8)}
COLUMNS = (
    "instance_id, name, sink, lane, enabled, stopped, events, format, concurrency, order_by,"
    " on_failure, timeout, settings, version, created_at, updated_at"
)


@pytest.fixture
def old(empty_url: str) -> Iterator[None]:
    """Make a database of an older release, with a subscription of each kind."""
    db.connect(Url(empty_url))
    Runner(db.database.obj, str(db.MIGRATIONS)).up(BEFORE)
    db.database.execute_sql(
        "INSERT INTO instance (id, name, outbox, partition, token_sha256, integration, revision,"
        " pushed, created_at, updated_at) VALUES (1, 'a', 'o', 0, 't', 'E', 1, 0, 0, 0)"
    )
    for name, path in ROWS.items():
        insert(name, path)
    yield
    db.close()


def insert(name: str, path: str | None) -> None:
    """Write a row as an older release does."""
    mark = db.database.param
    sql = (
        f"INSERT INTO subscription ({COLUMNS}) VALUES (1, {mark}, 'webhook', {mark}, {mark},"
        f" {mark}, '[]', 'standard', 8, {mark}, 'pass', 30, '{{}}', 1, 0, 0)"
    )
    db.database.execute_sql(sql, (name, f"lane-{name}", True, False, path))


def meanings() -> dict[str, object]:
    return {row.name: row.order for row in Subscription.select()}


def test_the_default_becomes_the_conversation_and_null_one_event_at_a_time(old: None) -> None:
    assert "0015_order_keys" in db.upgrade()

    assert meanings() == MEANING
    stored = "SELECT name, order_by, concurrency FROM subscription ORDER BY id"
    assert [tuple(row) for row in db.database.execute_sql(stored).fetchall()] == [
        ("default", "data.key.remoteJid", 8),
        ("none", None, 1),
        ("own", "data.room", 8),
    ]


def test_the_release_before_goes_on_to_write_its_rows(old: None) -> None:
    db.upgrade()

    insert("later", None)
    insert("last", "data.key.remoteJid")

    assert meanings() == {**MEANING, "later": (None, 1), "last": ("conversation", 8)}


def test_the_way_back_leaves_the_release_before_its_paths(old: None) -> None:
    db.upgrade()
    Subscription.update(order_by="data.a", order_rule='["data.a","data.b"]').where(
        Subscription.name == "own"
    ).execute()

    db.downgrade("0015_order_keys")

    found = db.database.execute_sql("SELECT order_by FROM subscription ORDER BY id").fetchall()
    assert [row[0] for row in found] == ["data.key.remoteJid", None, "data.a"]
    db.upgrade()
    assert meanings() == {**MEANING, "own": (["data.a"], 8)}
