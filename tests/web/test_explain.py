"""What `GET /event/<instance>/<id>` and `flask explain` say became of an event."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
import redis
from flask import Flask

from evoflask import attempts, ids
from evoflask.models import DeadLetter, Instance, Subscription
from evoflask.outbox import Outbox, verbs
from evoflask.outbox.attempts import Place, pack
from evoflask.outbox.members import entry_of
from tests.web import steps
from tests.web.conftest import Request
from tests.web.test_event import trim

pytestmark = pytest.mark.databases

EMIT = "/event/emit/a"


def emit(call: Request, **fields: Any) -> str:
    answer = call("POST", EMIT, {"event": "CALL", "data": {"n": 1}} | fields)
    assert answer.status_code in (200, 202), answer.json
    return str(answer.json["id"])  # type: ignore[index]


def add(call: Request, name: str, sink: str = "webhook", **fields: Any) -> None:
    body = {"name": name, "sink": sink, "enabled": True, "events": [], **fields}
    if sink == "webhook":
        body |= {"url": "https://example.com/other"}
    answer = call("POST", "/subscription/a", body)
    assert answer.status_code == 201, answer.json


def told(call: Request, event_id: str, name: str | None = "webhook") -> Any:
    answer = call("GET", f"/event/a/{event_id}")
    assert answer.status_code == 200, answer.json
    rows = answer.json["subscriptions"]  # type: ignore[index]
    return next(each for each in rows if each["subscription"] == name)


def log_delivered(outbox: Outbox, event_id: str) -> None:
    """As a drain and the clock would, for the subscription `webhook`."""
    log_try(outbox, event_id, "1700000000000-0", 2, "delivered")


def log_try(outbox: Outbox, event_id: str, entry: str, number: int, outcome: str) -> None:
    """As a drain and the clock would, for the subscription `webhook`."""
    lane = Subscription.get(Subscription.name == "webhook").lane
    row = (lane, entry, event_id, "CALL", number, time.time(), 0.5, outcome, "200", "",
           "example.com", "ok")  # fmt: skip
    place = Place(Instance.get(Instance.name == "a").id, "a", "webhook", "webhook")
    outbox.run(verbs.log(0, ids.random_id(), 1, pack({lane: place}, [row]), 0))
    attempts.move(outbox, 0, time.monotonic() + 5)


def test_what_waits_is_told_with_what_stands_before_it(call: Request, instance: str) -> None:
    emit(call)
    emit(call)
    event_id = emit(call)

    found = told(call, event_id)

    assert (found["state"], found["waitingBehind"], found["tries"]) == ("waiting", 2, 0)
    assert found["nextTry"] is None
    assert found["lane"] == "active"


def test_what_failed_is_told_with_its_next_try(
    call: Request, instance: str, outbox: Outbox
) -> None:
    event_id = emit(call)
    steps.end_all(outbox, steps.failed)

    found = told(call, event_id)

    assert (found["state"], found["tries"]) == ("retrying", 1)
    assert found["nextTry"].endswith("Z")


def test_a_lane_that_rests_says_why(call: Request, instance: str) -> None:
    event_id = emit(call)
    call("POST", "/lane/a/webhook/pause")

    found = told(call, event_id)

    assert (found["state"], found["lane"]) == ("waiting", "stopped")
    assert "operator" in found["why"]


def test_what_is_dying_and_what_is_dead_is_told_with_its_reason(
    call: Request, instance: str, outbox: Outbox
) -> None:
    event_id = emit(call)
    steps.end_all(outbox, steps.rejected)
    dying = told(call, event_id)

    steps.bury(outbox)
    dead = told(call, event_id)

    assert (dying["state"], dying["reason"], dying["letter"]) == ("dying", "rejected", None)
    assert (dead["state"], dead["reason"], dead["code"]) == ("dead", "rejected", "410")
    assert dead["letter"] == DeadLetter.get().id


def test_a_letter_that_was_discarded_and_one_that_was_requeued(
    call: Request, instance: str, outbox: Outbox
) -> None:
    one, two = emit(call), emit(call)
    steps.kill(outbox)
    letters = {row.event_id: row.id for row in DeadLetter.select()}

    call("DELETE", f"/deadletter/{letters[one]}")
    call("POST", f"/deadletter/{letters[two]}/requeue")

    assert told(call, one)["state"] == "discarded"
    assert told(call, two)["state"] == "waiting"


def test_what_was_delivered_is_told_by_the_delivery_log(
    call: Request, instance: str, outbox: Outbox
) -> None:
    event_id = emit(call)
    steps.end_all(outbox, steps.delivered)
    without = told(call, event_id)

    log_delivered(outbox, event_id)
    found = told(call, event_id)

    assert without["state"] == "settled"
    assert (found["state"], found["tries"]) == ("delivered", 2)
    assert found["deliveredAt"].endswith("Z")
    assert [each["answer"] for each in found["attempts"]] == ["ok"]


@pytest.mark.parametrize(
    ("fields", "change", "words"),
    [
        ({"enabled": False}, {}, "disabled"),
        ({"events": ["QRCODE_UPDATED"]}, {}, "does not list CALL"),
        ({}, {"integration": ["rabbitmq"]}, "`integration` does not name webhook"),
        ({}, {"local": False}, "`local: false`"),
    ],
)
def test_a_subscription_that_did_not_get_it_says_why(
    call: Request, instance: str, fields: dict[str, Any], change: dict[str, Any], words: str
) -> None:
    add(call, "other", **fields)
    call("POST", "/websocket/set/a", {"websocket": {"enabled": True, "events": []}})
    if "integration" in change:
        change = {"integration": ["websocket", "rabbitmq"]}
    event_id = emit(call, **change)

    found = told(call, event_id, "other")

    assert found["state"] == "skipped"
    assert words in found["why"]
    expected = "waiting" if fields else "skipped"
    assert told(call, event_id)["state"] == expected


def test_a_websocket_is_told_as_live(call: Request, instance: str) -> None:
    call("POST", "/websocket/set/a", {"websocket": {"enabled": True, "events": []}})

    event_id = emit(call)

    assert told(call, event_id, "websocket")["state"] == "live"


def test_a_subscription_that_came_later_and_one_that_was_changed_say_so(
    call: Request, instance: str
) -> None:
    add(call, "changed", enabled=False)
    event_id = emit(call)
    add(call, "later")
    assert call("PUT", "/subscription/a/changed", {"enabled": True}).status_code == 200

    later, changed = (told(call, event_id, name) for name in ("later", "changed"))

    assert (later["state"], changed["state"]) == ("skipped", "skipped")
    assert "made after" in later["why"]
    assert "changed since" in changed["why"]


def test_a_deleted_subscription_is_named_where_a_letter_knows_it(
    call: Request, instance: str, outbox: Outbox
) -> None:
    add(call, "keeps", enabled=True)
    add(call, "goes")
    event_id = emit(call)
    call("POST", "/lane/a/keeps/pause")
    steps.kill(outbox)
    assert call("DELETE", "/subscription/a/goes").status_code == 200

    found = told(call, event_id, "goes")

    assert found["state"] == "dead"
    assert found["why"] == "The subscription was deleted."


@pytest.mark.parametrize("given", [None, "an-id-of-my-own"])
def test_an_event_that_waits_beyond_retention_is_found(
    call: Request,
    instance: str,
    outbox: Outbox,
    redis_client: redis.Redis,
    given: str | None,
) -> None:
    event_id = emit(call, **({"id": given} if given else {}))
    trim(outbox, redis_client)

    answer = call("GET", f"/event/a/{event_id}").json

    assert answer["data"] == {"n": 1}  # type: ignore[index]
    assert answer["retained"] is True  # type: ignore[index]
    assert told(call, event_id)["state"] == "waiting"


def test_an_event_that_only_its_letter_knows_has_no_data(
    call: Request, instance: str, outbox: Outbox, redis_client: redis.Redis
) -> None:
    event_id = emit(call)
    steps.kill(outbox)
    trim(outbox, redis_client)

    answer = call("GET", f"/event/a/{event_id}").json

    assert answer["data"] is None  # type: ignore[index]
    assert (answer["retained"], answer["event"]) == (False, "CALL")  # type: ignore[index]
    assert told(call, event_id)["state"] == "dead"


def test_an_event_of_which_nothing_is_known_says_since_when_that_may_be(
    call: Request, instance: str, outbox: Outbox, redis_client: redis.Redis
) -> None:
    log_delivered(outbox, emit(call))
    steps.end_all(outbox, steps.delivered)
    trim(outbox, redis_client)

    answer = call("GET", f"/event/a/{ids.event_id()}")

    assert answer.status_code == 404
    _, may, dates = answer.json["response"]["message"]  # type: ignore[index]
    assert "never accepted" in may
    assert dates.startswith("Events accepted until 20")
    assert "the delivery log begins at 20" in dates


def test_the_command_explains_to_a_person(
    application: Flask, call: Request, instance: str, outbox: Outbox
) -> None:
    event_id = emit(call)
    log_delivered(outbox, event_id)
    runner = application.test_cli_runner()

    done = runner.invoke(args=["explain", "a", event_id])
    unknown = runner.invoke(args=["explain", "a", "nothing"])

    assert done.exit_code == 0, done.output
    assert "waiting" in done.output
    assert "try 2" in done.output
    assert unknown.exit_code == 2


# -- copies: a requeue or a replay is another entry -----------------------------------------


def only_a_copy(
    call: Request, outbox: Outbox, redis_client: redis.Redis, how: str, event_id: str
) -> None:
    """Append the event for `webhook` once more, and let retention take its first entry."""
    if how == "requeued":
        steps.kill(outbox)
        call("POST", f"/deadletter/{DeadLetter.get().id}/requeue")
    else:
        steps.end_all(outbox, steps.delivered)
        call("POST", "/replay", {"instance": "a", "onto": "webhook", "ids": [event_id]})
    trim(outbox, redis_client)


@pytest.mark.parametrize("how", ["requeued", "replayed"])
@pytest.mark.parametrize("fields", [{"enabled": False}, {"events": ["QRCODE_UPDATED"]}, {}])
def test_an_event_of_which_only_a_copy_is_kept_is_not_said_to_be_off_the_outbox(
    call: Request,
    instance: str,
    outbox: Outbox,
    redis_client: redis.Redis,
    how: str,
    fields: dict[str, Any],
) -> None:
    event_id = emit(call)
    add(call, "other", **fields)
    call("POST", "/websocket/set/a", {"websocket": {"enabled": True, "events": []}})
    only_a_copy(call, outbox, redis_client, how, event_id)

    answer = call("GET", f"/event/a/{event_id}").json

    assert (answer["retained"], answer["data"]) == (True, {"n": 1})  # type: ignore[index]
    assert told(call, event_id)["state"] == "waiting"
    for name in ("other", "websocket"):
        found = told(call, event_id, name)
        assert found["state"] == "unknown"
        assert "not on the outbox" not in found["why"]
        assert "only a copy" in found["why"]


def test_an_event_that_is_off_the_outbox_is_said_to_be_so_and_not_retained(
    call: Request, instance: str, outbox: Outbox, redis_client: redis.Redis
) -> None:
    event_id = emit(call)
    add(call, "other")
    steps.kill(outbox)
    trim(outbox, redis_client)

    answer = call("GET", f"/event/a/{event_id}").json
    found = told(call, event_id, "other")

    assert answer["retained"] is False  # type: ignore[index]
    assert (found["state"], found["why"]) == ("unknown", "The event is not on the outbox any more.")


def test_a_body_that_is_lost_is_not_retained_and_what_waits_still_waits(
    call: Request, instance: str, redis_client: redis.Redis
) -> None:
    event_id = emit(call, data="x" * 40_000)
    (body,) = redis_client.keys("evo:*:body:*")
    redis_client.delete(body)

    answer = call("GET", f"/event/a/{event_id}").json

    assert (answer["retained"], answer["data"]) == (False, None)  # type: ignore[index]
    assert told(call, event_id)["state"] == "waiting"


def test_a_letter_that_was_requeued_onto_another_subscription_says_so(
    call: Request, instance: str, outbox: Outbox
) -> None:
    event_id = emit(call)
    steps.kill(outbox)
    add(call, "other")

    call("POST", f"/deadletter/{DeadLetter.get().id}/requeue", {"onto": "other"})

    assert told(call, event_id, "other")["state"] == "waiting"
    found = told(call, event_id)
    assert (found["state"], found["tries"]) == ("settled", 1)
    assert found["why"] == "Its letter was requeued onto another subscription."


def test_a_deleted_subscription_says_that_the_end_is_not_known(
    call: Request, instance: str, outbox: Outbox
) -> None:
    event_id = emit(call)
    steps.end_all(outbox, steps.delivered)
    assert call("DELETE", "/subscription/a/webhook").status_code == 200

    found = told(call, event_id, None)

    assert found["state"] == "settled"
    assert "delivered before, or discarded" in found["why"]


# -- tries ----------------------------------------------------------------------------------


def entry_on_the_lane(redis_client: redis.Redis) -> str:
    lane = Subscription.get(Subscription.name == "webhook").lane
    ((member, _),) = redis_client.zscan_iter(f"evo:{{p0}}:waiting:{lane}")
    return entry_of(member.decode())


def test_tries_count_from_the_requeue_and_each_attempt_says_to_which_it_belongs(
    call: Request, instance: str, outbox: Outbox, redis_client: redis.Redis
) -> None:
    event_id = emit(call)
    first = entry_on_the_lane(redis_client)
    for number in (1, 2, 3):
        log_try(outbox, event_id, first, number, "refused")
    steps.end_all(outbox, lambda member, tries: replace(steps.exhausted(member, 2), attempt=1))
    steps.bury(outbox)
    DeadLetter.update(tries=3).execute()
    dead = told(call, event_id)

    call("POST", f"/deadletter/{dead['letter']}/requeue")
    waiting = told(call, event_id)
    second = entry_on_the_lane(redis_client)
    steps.end_all(outbox, steps.failed)
    log_try(outbox, event_id, second, 1, "refused")
    retrying = told(call, event_id)
    make_due(outbox)
    steps.end_all(outbox, steps.delivered)
    settled = told(call, event_id)
    log_try(outbox, event_id, second, 2, "delivered")
    delivered = told(call, event_id)

    assert (dead["state"], dead["tries"]) == ("dead", 3)
    assert (waiting["state"], waiting["tries"]) == ("waiting", 0)
    assert waiting["why"].startswith("It was requeued at 20")
    assert (retrying["state"], retrying["tries"]) == ("retrying", 1)
    assert (settled["state"], settled["tries"]) == ("settled", 1)
    assert (delivered["state"], delivered["tries"]) == ("delivered", 2)
    assert [each["try"] for each in delivered["attempts"]] == [1, 2, 3, 1, 2]
    rounds = [each["queuedAt"] for each in delivered["attempts"]]
    assert rounds[0] == rounds[1] == rounds[2] < rounds[3] == rounds[4]


def make_due(outbox: Outbox) -> None:
    lane = Subscription.get(Subscription.name == "webhook").lane
    for member, _ in outbox.redis.zscan_iter(f"evo:{{p0}}:waiting:{lane}"):
        outbox.redis.zadd(f"evo:{{p0}}:waiting:{lane}", {member: 1})
    outbox.redis.zadd("evo:{p0}:due:webhook", {lane: 1})
