"""What the clock tells of failing subscriptions, and when it disables one."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import redis
from flask import Flask

from evoflask import vault
from evoflask.configuration import Configuration
from evoflask.delivery.watch import Watch
from evoflask.errors import OutboxDown
from evoflask.ids import OPERATOR
from evoflask.manager import EventManager
from evoflask.models import AuditLog, Instance, Subscription
from evoflask.outbox import Ended, Outbox, verbs
from evoflask.outbox.entries import read
from evoflask.settings import Settings
from tests.conftest import ENCRYPTION_KEY
from tests.web import steps
from tests.web.conftest import Request

pytestmark = pytest.mark.databases

URL = "https://operator.example/hook"
MakeWatch = Callable[..., Watch]


@pytest.fixture
def make_watch(application: Flask, settings: Callable[..., Settings], outbox: Outbox) -> MakeWatch:
    """The clock's watch, prepared: `make_watch(auto_disable_failures=5)`."""
    found = application.extensions["evoflask"]

    def make(manager: EventManager | None = None, **changes: Any) -> Watch:
        usual: dict[str, Any] = {"operator_webhook_url": URL, "auto_disable_seconds": 0}
        made = Watch(
            settings(**usual | changes), outbox, found.configuration, manager or found.manager
        )
        made.prepare()
        return made

    return make


def test_the_operator_s_own_webhook_outlives_a_lost_key(make_watch: MakeWatch) -> None:
    make_watch()
    vault.configure([vault.new_key()])

    try:
        make_watch(operator_webhook_url=URL + "2")
        mended = lane(OPERATOR).open_settings()["url"]
    finally:
        vault.configure([ENCRYPTION_KEY])

    assert mended == URL + "2"


def emit(call: Request, n: int = 1, instance: str = "a") -> None:
    body = [{"event": "CALL", "data": {"n": each}} for each in range(n)]
    assert call("POST", f"/event/emit/{instance}", body).status_code == 202


def lane(name: str = "a") -> Any:
    return Subscription.select().join(Instance).where(Instance.name == name).get()


def look(watch: Watch, client: redis.Redis) -> None:
    """A look at all lanes that are watched, whenever the next one is."""
    for s, _ in client.zrange("evo:{p0}:failing", 0, -1, withscores=True):
        client.zadd("evo:{p0}:failing", {s: 0})
    watch.look(0)
    watch.letters(0)


def fail(outbox: Outbox, s: str, n: int, how: Any = steps.failed, **facts: Any) -> None:
    """`n` attempts of a lane fail, whatever their dates."""
    done = 0
    while done < n:
        _hurry(outbox, s)
        (held,) = [h for h in steps.take(outbox) if h.lane == s]
        piece = held.ids[: n - done]
        ended = [how(member, tries) for member, tries in piece]
        outbox.run(verbs.settle(0, s, held.token, ended, hold=0, facts=facts))
        done += len(piece)


def _hurry(outbox: Outbox, s: str) -> None:
    key = "evo:{p0}:waiting:" + s
    for member, _ in outbox.redis.zrange(key, 0, -1, withscores=True):
        outbox.redis.zadd(key, {member: 1})
    outbox.redis.hset("evo:{p0}:lane:" + s, "until", 0)
    outbox.redis.zadd("evo:{p0}:due:webhook", {s: 1})


def told(outbox: Outbox) -> list[tuple[str, dict[str, Any]]]:
    """What waits for the operator, in order: (event, data)."""
    row = Instance.get_or_none(Instance.name == OPERATOR)
    if row is None:
        return []
    s = lane(OPERATOR).lane
    members = [m.decode() for m in outbox.redis.zrange(f"evo:{{p0}}:waiting:{s}", 0, -1)]
    found = read(outbox, 0, row.outbox, members)
    return [(each[0][b"event"].decode(), json.loads(each[1] or b"")) for each in found if each]


def names(outbox: Outbox) -> list[str]:
    return [event for event, _ in told(outbox)]


def test_attempts_that_fail_in_a_row_are_told_once(
    instance: str, call: Request, outbox: Outbox, make_watch: MakeWatch, redis_client: redis.Redis
) -> None:
    watch = make_watch()
    emit(call)

    for _ in range(4):
        fail(outbox, lane().lane, 1, error="refused 500 try later")
        look(watch, redis_client)

    ((event, data),) = told(outbox)
    assert event == "subscription.failing"
    assert (data["instance"], data["subscription"], data["sink"]) == ("a", "webhook", "webhook")
    assert (data["failures"], data["lastError"]) == (3, "refused 500 try later")


def test_a_lane_that_pauses_and_works_again_is_told_of(
    instance: str, call: Request, outbox: Outbox, make_watch: MakeWatch, redis_client: redis.Redis
) -> None:
    watch = make_watch()
    emit(call, 5)
    fail(outbox, lane().lane, 5, until=9_999_999_999_999, error="refused 500")
    look(watch, redis_client)

    fail(outbox, lane().lane, 1, steps.delivered)
    look(watch, redis_client)

    assert names(outbox) == [
        "subscription.failing", "subscription.paused", "subscription.recovered",
    ]  # fmt: skip
    assert told(outbox)[1][1]["lastError"] == "refused 500"
    assert told(outbox)[2][1]["lastError"] is None
    assert redis_client.zcard("evo:{p0}:failing") == 0
    assert outbox.run(verbs.look(0, [lane().lane]))[0].facts.get("told") is None


def test_a_success_between_failures_begins_anew(
    instance: str, call: Request, outbox: Outbox, make_watch: MakeWatch, redis_client: redis.Redis
) -> None:
    watch = make_watch(auto_disable_failures=3)
    emit(call, 2)

    for how in (steps.failed, steps.failed, steps.delivered, steps.failed, steps.failed):
        fail(outbox, lane().lane, 1, how)
        look(watch, redis_client)

    assert told(outbox) == []
    assert lane().enabled


def test_a_subscription_that_fails_for_too_long_is_disabled_and_its_backlog_kept(
    instance: str, call: Request, outbox: Outbox, make_watch: MakeWatch, redis_client: redis.Redis
) -> None:
    watch = make_watch(auto_disable_failures=4)
    emit(call, 2)
    fail(outbox, lane().lane, 4)

    look(watch, redis_client)
    look(watch, redis_client)

    assert not lane().enabled
    view = outbox.run(verbs.look(0, [lane().lane]))[0]
    assert (view.facts["on"], view.waiting, view.off) == ("0", 2, 0)
    assert names(outbox) == ["subscription.failing", "subscription.disabled"]
    (noted,) = AuditLog.select().where(AuditLog.action == "subscription.disable")
    assert (noted.by, noted.instance_name, noted.subscription_name) == ("clock", "a", "webhook")


def test_failures_that_are_not_old_enough_disable_nothing(
    instance: str, call: Request, outbox: Outbox, make_watch: MakeWatch, redis_client: redis.Redis
) -> None:
    watch = make_watch(auto_disable_failures=1, auto_disable_seconds=60)
    emit(call)
    fail(outbox, lane().lane, 9)

    look(watch, redis_client)

    assert lane().enabled


def test_nothing_is_disabled_unless_it_is_asked_for(
    instance: str, call: Request, outbox: Outbox, make_watch: MakeWatch, redis_client: redis.Redis
) -> None:
    watch = make_watch()
    emit(call)
    fail(outbox, lane().lane, 50)

    look(watch, redis_client)

    assert lane().enabled


def test_a_success_on_the_last_try_disables_nothing(
    instance: str,
    call: Request,
    outbox: Outbox,
    configuration: Configuration,
    make_watch: MakeWatch,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch = make_watch(auto_disable_failures=2)
    emit(call, 2)
    fail(outbox, lane().lane, 2)
    disable = configuration.disable_failing

    def late(s: str, still: Callable[[], bool]) -> Subscription | None:
        fail(outbox, s, 1, steps.delivered)
        return disable(s, still)

    monkeypatch.setattr(configuration, "disable_failing", late)
    monkeypatch.setattr(Configuration, "disable_failing", lambda _, *a: late(*a))
    look(watch, redis_client)
    look(watch, redis_client)

    assert lane().enabled
    assert "subscription.disabled" not in names(outbox)


def test_a_success_while_it_is_being_disabled_enables_it_again(
    instance: str, call: Request, outbox: Outbox, configuration: Configuration
) -> None:
    answers = iter([True, False])

    row = configuration.disable_failing(lane().lane, lambda: next(answers))

    assert row is None
    assert lane().enabled
    assert outbox.run(verbs.look(0, [lane().lane]))[0].facts["on"] == "1"


def test_a_clock_that_was_killed_between_disabling_and_telling_tells_it(
    instance: str, call: Request, outbox: Outbox, make_watch: MakeWatch, redis_client: redis.Redis
) -> None:
    class Down(EventManager):
        def tell_operator(self, events: Any) -> None:
            if events[0].name == "subscription.disabled":
                raise OutboxDown("killed here")
            super().tell_operator(events)

    emit(call)
    fail(outbox, lane().lane, 3)
    found = make_watch()
    broken = make_watch(Down(outbox, found._settings, outbox.redis), auto_disable_failures=3)
    with pytest.raises(OutboxDown):
        look(broken, redis_client)
    assert not lane().enabled

    look(make_watch(auto_disable_failures=3), redis_client)

    assert names(outbox) == ["subscription.failing", "subscription.disabled"]


def test_a_subscription_that_was_enabled_again_is_watched_anew(
    instance: str, call: Request, outbox: Outbox, make_watch: MakeWatch, redis_client: redis.Redis
) -> None:
    watch = make_watch(auto_disable_failures=3)
    emit(call, 2)
    fail(outbox, lane().lane, 3)
    look(watch, redis_client)

    call("PUT", "/subscription/a/webhook", {"enabled": True})
    look(watch, redis_client)
    fail(outbox, lane().lane, 2)
    look(watch, redis_client)
    enabled = lane().enabled
    fail(outbox, lane().lane, 1)
    look(watch, redis_client)

    assert enabled
    assert not lane().enabled
    assert names(outbox) == ["subscription.failing", "subscription.disabled"] * 2


def test_what_was_never_tried_is_no_failure(
    instance: str, call: Request, outbox: Outbox, redis_client: redis.Redis
) -> None:
    def expired(member: str, tries: int) -> Ended:
        return Ended("x", member, tries + 1, why=steps.rejected(member, tries).why, tried=False)

    emit(call, 2)
    fail(outbox, lane().lane, 2, expired)

    view = outbox.run(verbs.look(0, [lane().lane]))[0]
    assert (view.dying, view.facts.get("fails")) == (2, None)
    assert redis_client.zcard("evo:{p0}:failing") == 0


def test_a_flood_of_letters_is_one_event(
    instance: str, call: Request, outbox: Outbox, make_watch: MakeWatch, redis_client: redis.Redis
) -> None:
    watch = make_watch()
    emit(call, 300)
    assert steps.kill(outbox) == 300

    look(watch, redis_client)
    (_, (event, data)) = told(outbox)
    emit(call, 20)
    fail(outbox, lane().lane, 20, steps.rejected)
    steps.bury(outbox)
    look(watch, redis_client)

    assert (event, data["letters"]) == ("deadletter.created", 300)
    assert (data["instance"], data["last"]["reason"]) == ("a", "rejected")
    assert "data" not in data["last"]
    assert names(outbox) == ["subscription.failing", "deadletter.created"]
    assert redis_client.hgetall("evo:{p0}:buried") == {lane().lane.encode(): b"20"}


def test_the_operators_own_failures_are_never_told(
    instance: str, call: Request, outbox: Outbox, make_watch: MakeWatch, redis_client: redis.Redis
) -> None:
    watch = make_watch(auto_disable_failures=1)
    emit(call)
    fail(outbox, lane().lane, 3)
    look(watch, redis_client)
    before = len(told(outbox))
    assert before

    fail(outbox, lane(OPERATOR).lane, 5, error="refused 500")
    look(watch, redis_client)
    fail(outbox, lane(OPERATOR).lane, 1, steps.rejected)
    steps.bury(outbox)
    look(watch, redis_client)

    assert len(told(outbox)) == before - 1
    assert lane(OPERATOR).enabled


def test_without_an_operator_there_is_no_hidden_instance_and_nothing_piles_up(
    instance: str, call: Request, outbox: Outbox, make_watch: MakeWatch, redis_client: redis.Redis
) -> None:
    watch = make_watch(operator_webhook_url="")
    emit(call, 3)
    fail(outbox, lane().lane, 3)
    steps.kill(outbox, steps.rejected)

    look(watch, redis_client)

    assert Instance.get_or_none(Instance.name == OPERATOR) is None
    assert redis_client.exists("evo:{p0}:buried") == 0


def test_the_hidden_instance_follows_the_settings(
    instance: str, outbox: Outbox, make_watch: MakeWatch
) -> None:
    make_watch()
    first = lane(OPERATOR).version
    make_watch()
    same = lane(OPERATOR).version
    make_watch(operator_webhook_url="https://other.example/")
    moved = lane(OPERATOR).open_settings()["url"]

    make_watch(operator_webhook_url="")

    assert first == same
    assert moved == "https://other.example/"
    assert not lane(OPERATOR).enabled
    assert outbox.run(verbs.look(0, [lane(OPERATOR).lane]))[0].facts["on"] == "0"


@pytest.fixture
def hidden(make_watch: MakeWatch) -> str:
    make_watch()
    return OPERATOR


@pytest.mark.parametrize("key", ["test-key-of-the-suite", "token-a"])
def test_nobody_can_name_the_hidden_instance(
    instance: str, hidden: str, call: Request, key: str
) -> None:
    asked = [
        call("POST", f"/event/emit/{hidden}", {"event": "CALL", "data": {}}, key=key),
        call("GET", f"/webhook/find/{hidden}", key=key),
        call("GET", f"/subscription/{hidden}", key=key),
        call("POST", f"/lane/{hidden}/operator/pause", key=key),
        call("DELETE", f"/instance/delete/{hidden}", key=key),
        call("GET", f"/lane?instance={hidden}", key=key),
    ]
    created = call("POST", "/instance/create", {"instanceName": hidden})
    listed = call("GET", "/instance/fetchInstances").json

    assert {answer.status_code for answer in asked} <= {400, 401, 404}
    assert created.status_code == 400
    assert hidden not in json.dumps(listed)


def test_only_the_global_key_sees_the_operators_lane(
    instance: str, hidden: str, call: Request
) -> None:
    seen = [
        [row["instance"] for row in call("GET", "/lane", key=key).json["lanes"]]
        for key in ("test-key-of-the-suite", "token-a")
    ]

    assert seen == [["a", hidden], ["a"]]
