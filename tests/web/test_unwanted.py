"""`GET /event/<instance>/<id>` and `flask explain` for events that no subscription got."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis
from flask import Flask

from tests.web.conftest import Request

pytestmark = pytest.mark.databases

EMIT = "/event/emit/a"


def emit(call: Request, event: str = "QRCODE_UPDATED", **fields: Any) -> str:
    """Emit an event that no subscription gets."""
    answer = call("POST", EMIT, {"event": event, "data": {"n": 1}} | fields)
    assert (answer.status_code, answer.get_json()["subscriptions"]) == (202, [])
    return str(answer.get_json()["id"])


def explained(call: Request, event_id: str) -> dict[str, Any]:
    answer = call("GET", f"/event/a/{event_id}")
    assert answer.status_code == 200, answer.get_json()
    found: dict[str, Any] = answer.get_json()
    return found


def whys(found: dict[str, Any]) -> dict[str | None, str]:
    assert {each["state"] for each in found["subscriptions"]} <= {"skipped"}
    return {each["subscription"]: each["why"] for each in found["subscriptions"]}


def webhook(call: Request, **fields: Any) -> None:
    body = {"enabled": True, "url": "https://example.com/", "events": ["CALL"], **fields}
    assert call("POST", "/webhook/set/a", {"webhook": body}).status_code == 201


def test_an_event_that_no_subscription_lists_is_explained_without_its_data(
    call: Request, instance: str
) -> None:
    webhook(call)

    found = explained(call, event_id := emit(call))

    assert (found["id"], found["event"], found["instance"]) == (event_id, "QRCODE_UPDATED", "a")
    assert (found["data"], found["retained"]) == (None, False)
    assert found["timestamp"].endswith("Z")
    assert found["why"] == "No subscription wanted the event."
    assert whys(found) == {"webhook": "The subscription does not list QRCODE_UPDATED."}


@pytest.mark.parametrize(
    ("configured", "fields", "why"),
    [
        ({"enabled": False}, {}, "The subscription is disabled."),
        ({}, {"integration": ["sqs"]}, "The emit's `integration` does not name webhook."),
        ({}, {"local": False}, "The emit said `local: false`."),
    ],
)
def test_each_reason_is_said(
    call: Request, instance: str, configured: Any, fields: Any, why: str
) -> None:
    webhook(call, **configured)

    assert whys(explained(call, emit(call, "CALL", **fields))) == {"webhook": why}


def test_websockets_say_why_they_did_not_get_it(call: Request, instance: str) -> None:
    webhook(call)
    call("POST", "/websocket/set/a", {"websocket": {"enabled": False, "events": []}})

    found = whys(explained(call, emit(call)))

    assert found["websocket"] == "The subscription is disabled."


def test_the_reason_is_that_of_the_emit_though_the_subscription_was_changed_since(
    call: Request, instance: str
) -> None:
    webhook(call, enabled=False)
    event_id = emit(call)
    webhook(call, events=[])

    assert whys(explained(call, event_id)) == {
        "webhook": "The subscription is disabled, as it was configured then; it was changed since."
    }


def test_a_subscription_that_was_deleted_since_still_has_its_reason(
    call: Request, instance: str
) -> None:
    webhook(call)
    body = {"name": "crm", "sink": "webhook", "enabled": True, "url": "https://example.com/crm"}
    assert call("POST", "/subscription/a", body | {"events": ["CALL"]}).status_code == 201
    event_id = emit(call)
    assert call("DELETE", "/subscription/a/crm").status_code == 200
    assert call("POST", "/subscription/a", body | {"name": "new"}).status_code == 201

    assert whys(explained(call, event_id)) == {
        "webhook": "The subscription does not list QRCODE_UPDATED.",
        "crm": "The subscription does not list QRCODE_UPDATED; it was deleted since.",
        "new": "The subscription was made after the event.",
    }


def test_an_instance_without_subscriptions_says_so(call: Request) -> None:
    assert call("POST", "/instance/create", {"instanceName": "a"}).status_code == 201

    found = explained(call, emit(call))

    assert found["why"] == "The instance had no subscription when the event was accepted."
    assert found["subscriptions"] == []


def test_each_of_a_batch_and_the_last_of_one_id_are_explained(call: Request, instance: str) -> None:
    webhook(call)
    events = [{"event": "QRCODE_UPDATED", "data": n, "id": f"mine-{n}"} for n in range(5)]
    assert call("POST", EMIT, events).get_json()["accepted"] == 5
    emit(call, "LOGOUT_INSTANCE", id="mine-3")

    assert explained(call, "mine-0")["event"] == "QRCODE_UPDATED"
    assert explained(call, "mine-3")["event"] == "LOGOUT_INSTANCE"


def test_a_later_event_under_the_same_id_is_the_one_that_is_explained(
    call: Request, instance: str
) -> None:
    webhook(call)
    emit(call, id="mine")
    assert call("POST", EMIT, {"event": "CALL", "data": 2, "id": "mine"}).status_code == 202

    found = explained(call, "mine")

    assert (found["event"], found["data"], found["why"]) == ("CALL", 2, None)


def test_another_instances_token_sees_nothing_of_it(call: Request, instance: str) -> None:
    webhook(call)
    event_id = emit(call)
    body = {"instanceName": "b", "token": "token-b"}
    assert call("POST", "/instance/create", body).status_code == 201

    assert call("GET", f"/event/a/{event_id}", key="token-b").status_code == 401
    assert call("GET", f"/event/b/{event_id}").status_code == 404
    assert call("GET", f"/event/a/{event_id}", key="token-a").status_code == 200


def test_it_goes_with_its_instance(call: Request, instance: str, redis_client: redis.Redis) -> None:
    webhook(call)
    emit(call)
    assert redis_client.keys("evo:*:unwanted:*")

    assert call("DELETE", "/instance/delete/a").status_code == 200

    assert redis_client.keys("evo:*:unwanted:*") == []


def test_the_command_line_says_it_too(call: Request, application: Flask, instance: str) -> None:
    webhook(call)
    event_id = emit(call)

    runner = application.test_cli_runner()
    text = runner.invoke(args=["explain", "a", event_id])
    rows = runner.invoke(args=["explain", "a", event_id, "--json"])

    assert text.exit_code == 0, text.output
    assert "No subscription wanted the event." in text.output
    assert "does not list QRCODE_UPDATED" in text.output
    assert json.loads(rows.output)[0]["state"] == "skipped"


def test_reasons_have_a_bound_and_those_beyond_it_are_said_not_to_be_kept(
    call: Request, instance: str, redis_client: redis.Redis
) -> None:
    webhook(call)
    body = {"sink": "webhook", "enabled": True, "url": "https://example.com/", "events": ["CALL"]}
    for n in range(12):
        name = f"{n:02}-{'x' * 60}"
        assert call("POST", "/subscription/a", body | {"name": name}).status_code == 201

    found = whys(explained(call, emit(call)))

    assert len(found) == 13
    assert set(found.values()) == {
        "The subscription does not list QRCODE_UPDATED.",
        "Its reason is not kept.",
    }
    (key,) = redis_client.keys("evo:*:unwanted:*")
    ((_, fields),) = redis_client.xrange(key)
    assert len(fields[b"why"]) <= 1024
