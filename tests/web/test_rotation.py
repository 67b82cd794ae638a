"""Secrets in the database: sealed, sealed anew, and closed to whoever lacks the key."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask

from evoflask import db, rotation, vault
from evoflask.models import Subscription
from evoflask.rotation import Sealing
from evoflask.vault import new_key
from tests.conftest import ENCRYPTION_KEY
from tests.web.conftest import Request

pytestmark = pytest.mark.databases

NEW = new_key()


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    yield
    vault.configure([ENCRYPTION_KEY])


def test_sealing_anew_leaves_nothing_for_the_old_key(call: Request, instance: str) -> None:
    before = Subscription.get()
    vault.configure([NEW, ENCRYPTION_KEY])
    found = rotation.count()

    after = rotation.rotate()

    assert found == Sealing(stale=1)
    assert after == Sealing(current=1)
    vault.configure([NEW])
    now = Subscription.get()
    assert now.open_settings()["url"] == "https://example.com/hook"
    assert (now.version, now.updated_at) == (before.version, before.updated_at)


def test_what_somebody_changed_meanwhile_is_left_alone(call: Request, instance: str) -> None:
    vault.configure([NEW, ENCRYPTION_KEY])
    (piece,) = rotation._pieces(Subscription, Subscription.settings)
    call("POST", "/webhook/set/a", {"url": "https://example.com/newer"})

    assert rotation._reseal(Subscription, Subscription.settings, piece) == 0
    assert Subscription.get().open_settings()["url"] == "https://example.com/newer"


def test_what_does_not_open_is_counted_and_kept(call: Request, instance: str) -> None:
    vault.configure([NEW])

    after = rotation.rotate()

    assert after == Sealing(closed=1)
    vault.configure([ENCRYPTION_KEY])
    assert Subscription.get().open_settings()["url"] == "https://example.com/hook"


def test_without_the_key_events_are_accepted_and_lanes_listed_and_the_row_is_503(
    call: Request, instance: str
) -> None:
    vault.configure([NEW])

    emitted = call("POST", "/event/emit/a", {"event": "CALL", "data": {}})
    listed = call("GET", "/lane?instance=a")
    shown = call("GET", "/webhook/find/a")

    assert emitted.status_code == 202
    assert emitted.json["subscriptions"] == ["webhook"]
    assert listed.json["lanes"][0]["backlog"] == 1
    assert shown.status_code == 503
    assert shown.json["response"]["message"] == [vault.CLOSED]


def test_the_commands_say_how_it_stands(application: Flask, call: Request, instance: str) -> None:
    runner = application.test_cli_runner()
    vault.configure([NEW, ENCRYPTION_KEY])

    before = runner.invoke(args=["secrets", "check"])
    rotated = runner.invoke(args=["secrets", "rotate"])
    after = runner.invoke(args=["secrets", "check"])

    assert (before.exit_code, rotated.exit_code, after.exit_code) == (1, 0, 0)
    assert "0 under the newest key, 1 under an older one." in before.stdout
    assert "1 under the newest key, 0 under an older one." in after.stdout


def test_the_file_holds_nothing_in_the_clear(
    application: Flask, call: Request, instance: str
) -> None:
    body = {"url": "https://example.com/PLANTED", "headers": {"X": "PLANTED"}}
    call(
        "POST",
        "/webhook/set/a",
        {**body, "secret": "whsec_" + base64.b64encode(b"PLANTED" * 4).decode()},
    )
    rows = db.database.execute_sql("SELECT secret, settings FROM subscription").fetchall()
    held = str(rows).encode()
    if db.is_sqlite():
        path = Path(db.database.obj.database)
        held = b"".join(each.read_bytes() for each in path.parent.glob(f"{path.name}*"))

    assert b"PLANTED" not in held
    assert base64.b64encode(b"PLANTED" * 3) not in held
    assert all(text.startswith(vault.PREFIX) for row in rows for text in row)
