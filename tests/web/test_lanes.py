"""Lanes as their routes show them, and stopping one."""

from __future__ import annotations

import time
from typing import Any

import pytest
import redis
from flask import Flask

from evoflask.outbox import Outbox
from tests.web import steps
from tests.web.conftest import Request

CALL = {"event": "CALL", "data": {"n": 1}}


def lanes(call: Request, query: str = "", **how: Any) -> Any:
    answer = call("GET", f"/lane{query}", **how)
    assert answer.status_code == 200, answer.json
    return answer.json["lanes"]


def lane(call: Request, name: str = "webhook") -> Any:
    return next(each for each in lanes(call, "?instance=a") if each["subscription"] == name)


def emit(call: Request, n: int = 1) -> None:
    answer = call("POST", "/event/emit/a", [CALL] * n)
    assert answer.status_code == 202, answer.json


def test_a_new_lane_is_idle_and_its_books_are_empty(call: Request, instance: str) -> None:
    found = lane(call)

    assert found["state"] == "idle"
    assert (found["backlog"], found["oldestAge"], found["nextAttempt"]) == (0, None, None)
    assert set(found["books"].values()) == {0}


def test_what_waits_is_counted_weighed_and_dated(call: Request, instance: str) -> None:
    emit(call, 3)

    found = lane(call)

    assert (found["state"], found["backlog"], found["books"]["routed"]) == ("active", 3, 3)
    assert found["bytes"] > 0
    assert 0 <= found["oldestAge"] < 30
    assert found["nextAttempt"].endswith("Z")


def test_what_failed_waits_for_its_next_try(call: Request, instance: str, outbox: Outbox) -> None:
    emit(call, 2)
    steps.end_all(outbox, steps.failed)

    found = lane(call)

    assert (found["state"], found["backlog"], found["retrying"]) == ("retrying", 2, 2)
    assert found["nextAttempt"].endswith("Z")


def test_every_ending_is_in_the_books(call: Request, instance: str, outbox: Outbox) -> None:
    emit(call)
    steps.end_all(outbox, steps.delivered)
    emit(call)
    steps.end_all(outbox, steps.rejected)

    before = lane(call)
    steps.bury(outbox)
    after = lane(call)

    assert (before["dying"], before["books"]["dead"]) == (1, 0)
    assert (after["dying"], after["books"]["dead"]) == (0, 1)
    assert (after["books"]["delivered"], after["books"]["routed"]) == (1, 2)
    assert after["lastDeliveredAt"]


def test_a_lane_that_a_drain_has_is_active_and_has_no_next_attempt(
    call: Request, instance: str, outbox: Outbox
) -> None:
    emit(call)
    steps.take(outbox)

    found = lane(call)

    assert (found["state"], found["nextAttempt"]) == ("active", None)


def test_a_paused_lane_says_until_when_and_why(
    call: Request, instance: str, outbox: Outbox, pause: Any
) -> None:
    pause()

    found = lane(call)

    assert found["state"] == "paused"
    assert found["pausedUntil"] == found["nextAttempt"]
    assert found["lastError"] == "unreachable refused"
    assert found["failures"] == 5


@pytest.fixture
def pause(call: Request, outbox: Outbox) -> Any:
    """Gives the breaker's pause to the one lane, with one event that waits for its retry."""

    def run() -> None:
        emit(call)
        (held,) = steps.take(outbox)
        now = round(time.time() * 1000)
        facts: dict[str, Any] = {
            "until": now + 600_000,
            "failures": 5,
            "pauses": 1,
            "error": "unreachable refused",
            "errat": now,
        }
        steps.settle(outbox, held, steps.failed, **facts)

    return run


def test_resume_ends_the_pause_of_a_failing_lane_and_it_is_due_at_once(
    call: Request, instance: str, outbox: Outbox, pause: Any
) -> None:
    pause()
    assert steps.take(outbox) == []

    answer = call("POST", "/lane/a/webhook/resume")

    assert answer.status_code == 200
    assert (answer.json["state"], answer.json["pausedUntil"]) == ("active", None)
    assert len(steps.take(outbox)) == 1


def test_pause_keeps_the_backlog_and_resume_delivers_it(
    call: Request, instance: str, outbox: Outbox
) -> None:
    emit(call)

    stopped = call("POST", "/lane/a/webhook/pause")
    emit(call)

    assert (stopped.status_code, stopped.json["state"]) == (200, "stopped")
    assert steps.take(outbox) == []
    assert lane(call)["backlog"] == 2
    assert call("POST", "/lane/a/webhook/resume").json["state"] == "active"
    assert steps.end_all(outbox, steps.delivered) == 2


def test_pausing_does_not_end_the_pause_of_a_failing_lane(
    call: Request, instance: str, pause: Any
) -> None:
    pause()

    call("POST", "/lane/a/webhook/pause")

    assert lane(call)["state"] == "stopped"
    assert lane(call)["pausedUntil"]


def test_pause_and_resume_are_idempotent(call: Request, instance: str) -> None:
    for verb in ("pause", "pause", "resume", "resume"):
        assert call("POST", f"/lane/a/webhook/{verb}").status_code == 200

    assert lane(call)["state"] == "idle"


def test_a_disabled_subscription_shows_as_that_even_when_it_is_stopped(
    call: Request, instance: str
) -> None:
    call("POST", "/lane/a/webhook/pause")
    call("POST", "/webhook/set/a", {"enabled": False})

    assert lane(call)["state"] == "disabled"


def test_three_lost_holds_in_a_row_are_quarantine(
    call: Request, instance: str, redis_client: redis.Redis
) -> None:
    emit(call)
    redis_client.hset(f"evo:{{p0}}:lane:{lane(call)['id']}", "lost", 3)

    assert (lane(call)["state"], lane(call)["lostHolds"]) == ("quarantined", 3)


def test_a_lane_that_redis_does_not_know_is_unknown(
    call: Request, instance: str, redis_client: redis.Redis
) -> None:
    redis_client.flushall()

    assert lane(call)["state"] == "unknown"


def test_a_websocket_has_no_lane(call: Request, instance: str) -> None:
    call("POST", "/websocket/set/a", {"enabled": False})

    assert [each["subscription"] for each in lanes(call)] == ["webhook"]
    for verb in ("pause", "resume"):
        answer = call("POST", f"/lane/a/websocket/{verb}")
        assert answer.status_code == 409
        assert answer.json["response"]["message"] == ["A websocket subscription has no lane."]


def test_lanes_come_in_pages(call: Request, instance: str) -> None:
    for n in range(4):
        body = {"name": f"s{n}", "sink": "webhook", "enabled": True, "url": "https://e.com"}
        assert call("POST", "/subscription/a", body).status_code == 201

    names, after = [], ""
    while after is not None:
        page = call("GET", f"/lane?limit=2{f'&after={after}' if after else ''}").json
        assert len(page["lanes"]) <= 2
        names += [each["subscription"] for each in page["lanes"]]
        after = page["next"]

    assert names == ["webhook", "s0", "s1", "s2", "s3"]


def test_a_token_sees_and_stops_its_own_lanes_only(call: Request, instance: str) -> None:
    other = {"instanceName": "b", "token": "token-b", "webhook": {"url": "https://e.com"}}
    call("POST", "/instance/create", other)

    assert {each["instance"] for each in lanes(call)} == {"a", "b"}
    assert {each["instance"] for each in lanes(call, key="token-b")} == {"b"}
    assert {each["instance"] for each in lanes(call, "?instance=b", key="token-b")} == {"b"}
    assert call("POST", "/lane/b/webhook/pause", key="token-b").status_code == 200
    for method, path in (
        ("GET", "/lane?instance=a"),
        ("GET", "/lane?instance=nope"),
        ("POST", "/lane/a/webhook/pause"),
        ("POST", "/lane/nope/webhook/resume"),
    ):
        assert call(method, path, key="token-b").status_code == 401
    assert call("GET", "/lane", key="wrong").status_code == 401


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/lane?instance=nope", 404),
        ("GET", "/lane?limit=0", 400),
        ("GET", "/lane?limit=501", 400),
        ("GET", "/lane?after=x", 400),
        ("GET", "/lane?instnace=a", 400),
        ("GET", "/lane?instance=..%00", 400),
        ("POST", "/lane/nope/webhook/pause", 404),
        ("POST", "/lane/a/nope/pause", 404),
        ("POST", "/lane/a/webhook/explode", 404),
        ("GET", "/lane/a/webhook/pause", 405),
    ],
)
def test_what_is_not_there_or_makes_no_sense_is_said(
    call: Request, instance: str, method: str, path: str, status: int
) -> None:
    answer = call(method, path)

    assert answer.status_code == status
    assert answer.json["status"] == status


def test_no_key_is_401(application: Flask, instance: str) -> None:
    client = application.test_client()

    assert client.get("/lane").status_code == 401
    assert client.post("/lane/a/webhook/pause").status_code == 401
