"""What `GET /event/<instance>/<id>` and `flask explain` say became of an event."""

from __future__ import annotations

import time
from typing import Any

import pytest
import redis
from flask import Flask

from evoflask import attempts, ids
from evoflask.models import DeadLetter, Instance, Subscription
from evoflask.outbox import Outbox, verbs
from evoflask.outbox.attempts import Place, pack
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
    lane = Subscription.get(Subscription.name == "webhook").lane
    row = (lane, "1700000000000-0", event_id, "CALL", 2, time.time(), 0.5, "delivered", "200", "",
           "example.com", "ok")  # fmt: skip
    place = Place(Instance.get(Instance.name == "a").id, "a", "webhook", "webhook")
    outbox.run(verbs.log(0, event_id, 1, pack({lane: place}, [row]), 0))
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
