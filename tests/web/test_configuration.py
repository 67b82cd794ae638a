"""Changes and what Redis is told of them, when things fail or happen at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

import app as composition
from evoflask import configuration as reads
from evoflask import db, schemas
from evoflask.configuration import Configuration
from evoflask.dev.redis_server import RedisServer
from evoflask.errors import BadInput, NotFound
from evoflask.models import DeadLetter, Instance, Meta, Subscription
from evoflask.outbox import Outbox
from evoflask.settings import Settings
from tests.web.conftest import GLOBAL, Request

pytestmark = pytest.mark.databases

HOOK = {"url": "https://example.com"}
THREADS = 8


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that may be killed."""
    with RedisServer(tmp_path / "redis", socket=tmp_path / "s", appendonly=True) as server:
        yield server


@pytest.fixture
def own(
    own_redis: RedisServer, settings: Callable[..., Settings], make_tables: Callable[[], None]
) -> Iterator[Flask]:
    """The application on that server."""
    made = composition.create_app(settings(redis_url=own_redis.url))
    make_tables()
    yield made
    db.close()


def create(app: Flask, name: str, **sinks: Any) -> Any:
    return app.test_client().post(
        "/instance/create", headers=GLOBAL, json={"instanceName": name, **sinks}
    )


def box(app: Flask) -> Outbox:
    found: Outbox = app.extensions["evoflask"].outbox
    return found


# --- at once ---------------------------------------------------------------------------------


def test_changes_at_once_are_one_after_another_and_none_is_lost(
    application: Flask, call: Request, instance: str, config_in_redis: Any
) -> None:
    def change(n: int) -> int:
        client = application.test_client()
        body = {"name": f"s{n}", "sink": "webhook", "enabled": True, **HOOK}
        return client.post("/subscription/a", headers=GLOBAL, json=body).status_code

    with ThreadPoolExecutor(THREADS) as pool:
        statuses = list(pool.map(change, range(40)))

    assert statuses == [201] * 40
    row = Instance.get()
    assert row.revision == row.pushed == 41
    assert int(config_in_redis("a")[b"revision"]) == 41
    assert Subscription.select().count() == 41


def test_of_many_that_take_one_name_at_once_one_gets_it(application: Flask) -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(lambda _: create(application, "a", webhook=HOOK), range(THREADS)))

    assert sorted(answer.status_code for answer in answers) == [201] + [403] * (THREADS - 1)
    assert Instance.select().count() == 1


def test_delete_and_set_at_once_end_in_a_state_that_both_would_accept(
    application: Flask, redis_client: Any
) -> None:
    def one(n: int) -> int:
        client = application.test_client()
        if n % 2:
            return client.delete("/instance/delete/a", headers=GLOBAL).status_code
        return client.post(
            "/webhook/set/a", headers=GLOBAL, json={"enabled": True, **HOOK}
        ).status_code

    for _ in range(10):
        create(application, "a", webhook=HOOK)
        with ThreadPoolExecutor(2) as pool:
            statuses = list(pool.map(one, range(2)))
        assert statuses[1] == 200
        assert statuses[0] in {201, 404}
        assert Subscription.select().count() == 0
        assert reads.find("a") is None
    for row in Instance.select():
        assert redis_client.hget(f"evo:{{p0}}:config:{row.outbox}", "gone") is not None


@pytest.mark.parametrize("path", ["/instance/delete/a", "/subscription/a/webhook"])
@pytest.mark.parametrize("body", ["/webhook/set/a", "/event/set/a"])
def test_what_is_deleted_before_its_set_is_answered_is_not_found(
    application: Flask, monkeypatch: pytest.MonkeyPatch, path: str, body: str
) -> None:
    create(application, "a", webhook=HOOK)
    tell = Configuration._tell

    def deleted_first(self: Configuration, row: Instance) -> Any:
        monkeypatch.undo()
        gone = application.test_client().delete(path, headers=GLOBAL)
        assert gone.status_code in {200, 204}
        return tell(self, row)

    monkeypatch.setattr(Configuration, "_tell", deleted_first)
    own = {"enabled": True, **HOOK}
    sent = own if body.startswith("/webhook") else {"webhook": own}
    answer = application.test_client().post(body, headers=GLOBAL, json=sent)

    assert answer.status_code == 404, answer.text


# --- Redis is down ---------------------------------------------------------------------------


def test_a_change_while_redis_is_down_is_503_stored_and_pushed_later(
    own: Flask, own_redis: RedisServer
) -> None:
    create(own, "a", webhook=HOOK)
    own_redis.kill9()

    answer = own.test_client().post("/webhook/set/a", headers=GLOBAL, json={"byEvents": True})

    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "1"
    assert answer.json is not None
    assert answer.json["response"]["message"] == [reads.STORED]
    assert Subscription.get().open_settings()["byEvents"] is True
    assert Instance.get().pushed < Instance.get().revision
    own_redis.restart()
    assert reads.push_stale(box(own), idle=0) == 1
    row = Instance.get()
    assert row.pushed == row.revision == 2
    with own_redis.client() as client:
        assert client.hget(f"evo:{{p0}}:config:{row.outbox}", "revision") == b"2"
    assert reads.push_stale(box(own), idle=0) == 0


def test_a_create_while_redis_is_down_keeps_nothing_so_it_can_be_repeated(
    own: Flask, own_redis: RedisServer
) -> None:
    own_redis.kill9()

    refused = create(own, "a", webhook=HOOK)

    assert refused.status_code == 503
    assert refused.json["response"]["message"] == [reads.NOT_KEPT]
    assert reads.find("a") is None
    assert Subscription.select().count() == 0
    own_redis.restart()
    assert create(own, "a", webhook=HOOK).status_code == 201
    assert reads.push_stale(box(own), idle=0) == 1  # the tombstone
    assert all(row.pushed == row.revision for row in Instance.select())


def test_reading_needs_no_redis(own: Flask, own_redis: RedisServer) -> None:
    create(own, "a", webhook=HOOK)
    own_redis.kill9()

    answer = own.test_client().get("/webhook/find/a", headers=GLOBAL)

    assert answer.status_code == 200


def test_an_emptied_redis_is_brought_back_in_line(own: Flask, own_redis: RedisServer) -> None:
    for n in range(3):
        create(own, f"i{n}", webhook=HOOK)
    own.test_client().delete("/instance/delete/i0", headers=GLOBAL)
    with own_redis.client() as client:
        client.flushall()

        assert reads.push_all(box(own)) == 3

        revisions = {
            row.name: client.hget(f"evo:{{p0}}:config:{row.outbox}", "revision")
            for row in Instance.select()
        }
    assert revisions == {"i0": b"2", "i1": b"1", "i2": b"1"}


# --- pushing ---------------------------------------------------------------------------------


def test_a_row_is_left_for_a_moment_to_the_process_that_changed_it(
    instance: str, outbox: Outbox
) -> None:
    with db.writing():
        Instance.update(revision=2, updated_at=time.time()).execute()

    assert reads.push_stale(outbox) == 0
    assert reads.push_stale(outbox, idle=0) == 1


def test_an_older_state_never_overwrites_a_newer_one(
    call: Request, instance: str, outbox: Outbox, config_in_redis: Any
) -> None:
    old = reads.get("a")
    call("POST", "/webhook/set/a", {"byEvents": True})

    configured = reads._push(outbox, old)

    assert configured.newer
    assert int(config_in_redis("a")[b"revision"]) == 2
    assert Instance.get().pushed == 2


def test_pushing_again_changes_nothing(instance: str, outbox: Outbox, dump: Any) -> None:
    before = dump()

    reads.push(outbox, Instance.get().outbox)
    reads.push_row(outbox, Instance.get())

    assert dump() == before


def test_an_adopted_database_has_a_new_epoch_and_wins_over_a_higher_revision(
    call: Request, instance: str, outbox: Outbox, config_in_redis: Any
) -> None:
    call("POST", "/webhook/set/a", {"byEvents": True})
    with db.writing():  # what a restored backup looks like
        Instance.update(revision=1, pushed=1).execute()

    epoch = reads.adopt()

    assert Meta.get_by_id("epoch").value == epoch
    assert reads.push_stale(outbox, idle=0) == 1
    assert config_in_redis("a")[b"revision"] == b"1"
    assert config_in_redis("a")[b"epoch"] == epoch.encode()


def test_stopping_a_lane_is_a_flag_apart_from_enabled(
    call: Request, instance: str, configuration: Configuration, redis_client: Any
) -> None:
    lane = f"evo:{{p0}}:lane:{Subscription.get().lane}"
    fresh = redis_client.hgetall(lane)

    configuration.stop("a", "webhook", True)
    stopped = redis_client.hgetall(lane)
    call("POST", "/webhook/set/a", {"enabled": False})
    call("POST", "/webhook/set/a", {"enabled": True})

    assert Subscription.get().stopped is True
    assert stopped != fresh
    configuration.stop("a", "webhook", False)
    assert Subscription.get().stopped is False


# --- tombstones ------------------------------------------------------------------------------


def test_a_tombstone_is_forgotten_with_letters_that_came_late(call: Request, instance: str) -> None:
    row = Instance.get()
    call("DELETE", "/instance/delete/a")
    DeadLetter.create(
        instance_id=row.id, instance_name="a", subscription_id=1, subscription_name="webhook",
        lane="l", sink="webhook", entry="1", event_id="1", event="CALL", at=0.0, size=2,
        reason="rejected", code="410", detail="", tries=1,
    )  # fmt: skip

    assert reads.tombstones(time.time() - 60) == []
    [found] = reads.tombstones(time.time() + 1)
    reads.forget(found)

    assert (Instance.select().count(), DeadLetter.select().count()) == (0, 0)


def test_forget_spares_what_lives(instance: str) -> None:
    reads.forget(Instance.get())

    assert reads.find("a") is not None


# --- the seed's verb -------------------------------------------------------------------------


def test_set_instance_takes_a_missing_enabled_for_true(
    call: Request, configuration: Configuration
) -> None:
    call("POST", "/instance/create", {"instanceName": "a"})

    state = configuration.set_instance("a", {"webhook": HOOK, "sqs": {"enabled": False}})

    assert [(each.name, each.enabled) for each in state.subscriptions] == [
        ("webhook", True),
        ("sqs", False),
    ]
    with pytest.raises(NotFound):
        configuration.set_instance("nope", {"webhook": HOOK})
    with pytest.raises(BadInput):
        configuration.set_instance("a", {})


def test_what_a_patch_leaves_out_is_not_in_it() -> None:
    given = schemas.set_body("webhook", {"webhook": {"byEvents": True}})

    assert dict(given.patches["webhook"].given) == {"byEvents": True}
