"""Secrets in the database: sealed, sealed anew, and closed to whoever lacks the key."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask

import app as composition
from evoflask import db, rotation, vault
from evoflask.errors import Undecipherable
from evoflask.models import Instance, Subscription
from evoflask.rotation import Sealing
from evoflask.settings import Settings
from evoflask.vault import new_key
from tests.conftest import API_KEY, ENCRYPTION_KEY
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


def test_the_sample_looks_at_both_ends_and_at_no_more(call: Request, instance: str) -> None:
    for n in range(3 * rotation.LOOKED):
        body = {"name": f"s{n}", "sink": "webhook", "enabled": True, "url": "https://e.example"}
        call("POST", "/subscription/a", body)
    lost = vault.Sealed(vault.Vault([new_key()]).seal("{}"))
    ids = [row.id for row in Subscription.select().order_by(Subscription.id)]
    found = []
    for at in (0, len(ids) // 2, -1):
        Subscription.update(settings=lost).where(Subscription.id == ids[at]).execute()
        found.append(rotation.sample())

    assert [each.closed for each in found] == [1, 1, 2]
    assert sum((found[-1].closed, found[-1].current)) == 2 * rotation.LOOKED
    assert rotation.count().closed == 3


def test_what_does_not_open_is_counted_and_kept(call: Request, instance: str) -> None:
    vault.configure([NEW])

    after = rotation.rotate()

    assert after == Sealing(closed=1)
    vault.configure([ENCRYPTION_KEY])
    assert Subscription.get().open_settings()["url"] == "https://example.com/hook"


def test_what_the_version_before_wrote_is_used_and_sealed_with_the_rest(
    call: Request, instance: str
) -> None:
    plain = '{"url": "https://example.com/plain"}'
    Subscription.update(settings=vault.Sealed(plain)).execute()

    shown = call("GET", "/webhook/find/a")
    found, after = rotation.count(), rotation.rotate()

    assert shown.json["url"] == "https://example.com/plain"
    assert (found, after) == (Sealing(plain=1), Sealing(current=1))
    assert Subscription.get().open_settings()["url"] == "https://example.com/plain"
    assert Subscription.get().settings.text.startswith(vault.PREFIX)


def test_a_settings_column_that_is_no_sealed_text_of_ours_stays_closed() -> None:
    with pytest.raises(Undecipherable):
        vault.Sealed(vault.PREFIX + "nonsense").open()


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


PUSHER = {"appId": "1", "key": "k", "secret": "s", "cluster": "eu"}


@pytest.fixture
def closed_pusher(call: Request, instance: str) -> None:
    """The instance's second subscription, sealed by a key that nobody has any more."""
    call("POST", "/pusher/set/a", {"pusher": {"enabled": True, **PUSHER}})
    lost = vault.Sealed(vault.Vault([new_key()]).seal("{}"))
    Subscription.update(settings=lost).where(Subscription.name == "pusher").execute()


def test_lists_show_a_row_that_does_not_open_and_the_others_as_ever(
    call: Request, closed_pusher: None
) -> None:
    call("POST", "/instance/create", {"instanceName": "b", "webhook": {"url": "https://b.example"}})

    instances = call("GET", "/instance/fetchInstances")
    sinks = call("GET", "/event/find/a")
    named = call("GET", "/subscription/a")

    assert [each.status_code for each in (instances, sinks, named)] == [200, 200, 200]
    a, b = instances.json
    assert b["Webhook"]["url"] == "https://b.example"
    for row in (a["Pusher"], sinks.json["pusher"], named.json[1]):
        assert (row["error"], row["enabled"], row["secret"]) == (vault.CLOSED, True, None)
    for row in (a["Webhook"], sinks.json["webhook"], named.json[0]):
        assert (row["url"], "error" in row) == ("https://example.com/hook", False)


def test_a_signed_webhook_that_does_not_open_is_listed_too(call: Request, instance: str) -> None:
    lost = vault.Sealed(vault.Vault([new_key()]).seal("{}"))
    Subscription.update(settings=lost, secret=lost).execute()

    (named,) = call("GET", "/subscription/a").json

    assert (named["error"], named["secretSet"], named["url"]) == (vault.CLOSED, True, None)


def test_a_change_of_other_sinks_is_made_and_answered(call: Request, closed_pusher: None) -> None:
    body = {"webhook": {"enabled": True, "url": "https://example.com/newer"}}

    changed = call("POST", "/event/set/a", body)
    refused = call("POST", "/event/set/a", body | {"pusher": {"enabled": False}})

    assert changed.status_code == 201
    assert changed.json["webhook"]["url"] == "https://example.com/newer"
    assert (refused.status_code, refused.json["response"]["message"]) == (503, [vault.CLOSED])


def test_a_row_that_does_not_open_is_paused_deleted_and_made_again(
    call: Request, closed_pusher: None
) -> None:
    paused = call("POST", "/lane/a/pusher/pause")
    deleted = call("DELETE", "/subscription/a/pusher")
    made = call("POST", "/pusher/set/a", {"pusher": {"enabled": True, **PUSHER}})

    assert [each.status_code for each in (paused, deleted, made)] == [200, 200, 201]


def test_a_token_that_does_not_open_is_not_shown_and_stands_in_nobody_s_way(
    settings: Callable[..., Settings],
) -> None:
    app = composition.create_app(settings(expose_tokens=True))
    db.upgrade()
    client, key = app.test_client(), {"apikey": API_KEY}
    for name in ("a", "b"):
        client.post("/instance/create", json={"instanceName": name}, headers=key)
    lost = vault.Sealed(vault.Vault([new_key()]).seal("x"))
    Instance.update(token=lost).where(Instance.name == "a").execute()

    a, b = client.get("/instance/fetchInstances", headers=key).json
    db.close()

    assert a["token"] is None
    assert b["token"] is not None


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
