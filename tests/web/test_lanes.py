"""Lanes as their routes show them, and stopping one."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import Any

import pytest
import redis
from flask import Flask

from evoflask import models
from evoflask.audit import audit
from evoflask.outbox import LaneView, Outbox, verbs
from tests.web import steps
from tests.web.conftest import Request

pytestmark = pytest.mark.databases

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


def test_a_lane_that_recovered_shows_no_error(
    call: Request, instance: str, outbox: Outbox, pause: Any, application: Flask
) -> None:
    never = lane(call)
    pause()
    call("POST", "/lane/a/webhook/resume")
    emit(call)
    before = application.test_cli_runner().invoke(args=["lanes"]).output

    (held,) = steps.take(outbox)
    new = [(member, tries) for member, tries in held.ids if not tries]
    steps.settle(outbox, replace(held, ids=new), steps.delivered)
    partly = lane(call)
    call("POST", "/lane/a/webhook/resume")
    steps.end_all(outbox, steps.delivered)
    after = lane(call)
    shown = application.test_cli_runner().invoke(args=["lanes"]).output

    assert (never["lastError"], never["lastErrorAt"]) == (None, None)
    assert re.search(r"20\S+Z unreachable refused", before)
    # The new event is delivered, and the one that failed waits for its retry.
    assert (partly["backlog"], partly["lastError"]) == (1, "unreachable refused")
    assert after["lastDeliveredAt"]
    assert (after["backlog"], after["lastError"], after["lastErrorAt"]) == (0, None, None)
    assert "unreachable" not in shown


def test_a_failure_after_a_delivery_is_the_lane_s_error_until_the_next_delivery(
    call: Request, instance: str, outbox: Outbox
) -> None:
    emit(call)
    steps.end_all(outbox, steps.delivered)
    emit(call)
    (held,) = steps.take(outbox)
    now: Any = {"error": "rejected 410", "errat": 1}  # a clock that was wrong changes nothing
    steps.settle(outbox, held, steps.rejected, **now)
    rejected = lane(call)

    emit(call)
    steps.end_all(outbox, steps.delivered)

    assert rejected["lastError"] == "rejected 410"
    assert lane(call)["lastError"] is None


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


def test_a_probe_tries_one_event_of_a_paused_lane_now_and_its_failure_pauses_again(
    call: Request, instance: str, outbox: Outbox, pause: Any
) -> None:
    pause()
    emit(call, 3)

    answer = call("POST", "/lane/a/webhook/probe")

    assert (answer.status_code, answer.json["state"]) == (200, "active")
    (held,) = steps.take(outbox)
    assert held.probe
    assert len(held.ids) == 1
    assert held.breaker["pauses"] == "1"  # a pause that ended: its schedule goes on


def test_a_probe_tries_a_retry_now_that_has_a_later_date(
    call: Request, instance: str, outbox: Outbox
) -> None:
    emit(call)
    steps.end_all(outbox, steps.failed)
    assert steps.take(outbox) == []

    assert call("POST", "/lane/a/webhook/probe").json["headTries"] == 1

    (held,) = steps.take(outbox)
    assert [tries for _, tries in held.ids] == [1]


@pytest.mark.parametrize(
    ("before", "says"),
    [
        ([], "Nothing waits on the lane."),
        (["pause"], "An operator paused the lane: resume it."),
        (["disable"], "The subscription is disabled: enable it."),
    ],
)
def test_a_probe_that_could_not_try_anything_is_refused(
    call: Request, instance: str, before: list[str], says: str
) -> None:
    if before:
        emit(call)
    if before == ["pause"]:
        call("POST", "/lane/a/webhook/pause")
    elif before:
        call("POST", "/webhook/set/a", {"enabled": False})

    answer = call("POST", "/lane/a/webhook/probe")

    assert (answer.status_code, answer.json["response"]["message"]) == (409, [says])


def test_skip_makes_the_head_a_letter_and_lets_the_next_one_go_on(
    call: Request, instance: str, outbox: Outbox
) -> None:
    ids = [call("POST", "/event/emit/a", CALL).json["id"] for _ in range(2)]
    steps.end_some(outbox, steps.failed, 1)

    answer = call("POST", "/lane/a/webhook/skip")
    steps.bury(outbox)

    done = {"skipped": 1, "eventId": ids[0], "event": "CALL", "tries": 1}
    assert (answer.status_code, answer.json) == (200, done)
    (letter,) = call("GET", "/deadletter").json["letters"]
    assert (letter["eventId"], letter["reason"], letter["tries"]) == (ids[0], "skipped", 1)
    assert letter["detail"] == "an operator skipped it (global)"
    assert (lane(call)["backlog"], lane(call)["books"]["dead"]) == (1, 1)
    assert call("POST", f"/deadletter/{letter['id']}/requeue").status_code == 200
    assert steps.end_all(outbox, steps.delivered) == 2


def test_skip_skips_only_what_was_meant(call: Request, instance: str) -> None:
    ids = [call("POST", "/event/emit/a", CALL).json["id"] for _ in range(2)]

    other = call("POST", "/lane/a/webhook/skip", {"eventId": ids[1]})
    meant = call("POST", "/lane/a/webhook/skip", {"eventId": ids[0]})

    assert other.status_code == 409
    assert ids[0] in other.json["response"]["message"][0]
    assert (meant.status_code, meant.json["eventId"]) == (200, ids[0])
    assert lane(call)["backlog"] == 1


def test_purge_discards_what_was_counted_and_the_lane_goes_on(
    call: Request, instance: str, outbox: Outbox
) -> None:
    emit(call, 5)
    call("POST", "/lane/a/webhook/pause")

    wrong = call("POST", "/lane/a/webhook/purge", {"confirm": 4})
    right = call("POST", "/lane/a/webhook/purge", {"confirm": 5})

    assert wrong.status_code == 409
    assert wrong.json["response"]["message"] == [
        "5 events wait on the lane, not 4; nothing was discarded."
    ]
    assert (right.status_code, right.json["discarded"]) == (200, 5)
    assert right.json["bytes"] > 0
    after = lane(call)
    assert (after["backlog"], after["bytes"], after["books"]["discarded"]) == (0, 0, 5)
    call("POST", "/lane/a/webhook/resume")
    emit(call, 2)
    assert steps.end_all(outbox, steps.delivered) == 2


def test_a_lane_that_is_purged_again_before_it_was_swept_leaks_nothing(
    call: Request, instance: str, outbox: Outbox, redis_client: redis.Redis
) -> None:
    for _ in range(3):
        emit(call, 4)
        assert call("POST", "/lane/a/webhook/purge", {"confirm": 4}).status_code == 200
    row = models.Instance.get()
    outbox.run(verbs.trim(0, row.outbox, entries=0, seconds=0, n=5))

    assert audit(outbox, deep=True).found == 0  # what is not swept yet is no leak
    call("DELETE", "/subscription/a/webhook")
    assert audit(outbox, deep=True).found == 0
    while outbox.run(verbs.sweep(0, n=3)):
        pass
    assert redis_client.xlen(f"evo:{{p0}}:outbox:{row.outbox}") == 7  # within retention
    outbox.run(verbs.trim(0, row.outbox, entries=0, seconds=0, n=100))

    assert redis_client.xlen(f"evo:{{p0}}:outbox:{row.outbox}") == 0
    assert list(redis_client.scan_iter("evo:{p0}:gone:*")) == []


def test_the_last_minute_is_counted_to_ten_seconds() -> None:
    def minute(pace: str, now: float) -> int:
        view = LaneView("s", {"pace": pace}, 0, 0, 0, None, None, 0, "", 0, now)
        return view.last_minute

    assert minute("100 7", 1005) == 7
    assert minute("100 7 1 1 1 1 1 60", 1005) == 7 + 5 + 30
    assert minute("100 7 8 1 1 1 1 60", 1055) == 7 + 4
    assert minute("100 7 1 1 1 1 1 60", 1065) == 4
    assert minute("100 7", 1075) == 0
    assert minute("100 7", 995) == 7  # a clock that went back


def test_what_was_delivered_in_the_last_minute_is_shown(
    call: Request, instance: str, outbox: Outbox
) -> None:
    assert lane(call)["lastMinute"] == 0
    for _ in range(2):
        emit(call, 3)
        steps.end_all(outbox, steps.delivered)

    assert lane(call)["lastMinute"] == 6


def test_everything_done_to_a_lane_is_in_the_audit_log(
    call: Request, instance: str, outbox: Outbox
) -> None:
    emit(call, 3)
    call("POST", "/lane/a/webhook/probe", key="token-a")
    skipped = call("POST", "/lane/a/webhook/skip").json["eventId"]
    call("POST", "/lane/a/webhook/pause")
    call("POST", "/lane/a/webhook/purge", {"confirm": 99})
    call("POST", "/lane/a/webhook/purge", {"confirm": 2})
    call("POST", "/lane/a/webhook/resume")

    entries = call("GET", "/audit-log?action=lane").json["entries"]

    told = [(each["action"], each["by"]) for each in reversed(entries)]
    assert told == [
        ("lane.probe", "instance:a"),
        ("lane.skip", "global"),
        ("lane.pause", "global"),
        ("lane.purge", "global"),
        ("lane.resume", "global"),
    ]
    assert {(each["instance"], each["subscription"]) for each in entries} == {("a", "webhook")}
    assert entries[3]["facts"] == {"event_id": skipped, "event": "CALL", "tries": 0}
    assert entries[1]["facts"]["discarded"] == 2


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
    for verb in ("pause", "resume", "probe", "skip", "purge"):
        body = {"confirm": 0} if verb == "purge" else None
        answer = call("POST", f"/lane/a/websocket/{verb}", body)
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
        ("POST", "/lane/a/webhook/probe"),
        ("POST", "/lane/a/webhook/skip"),
        ("POST", "/lane/a/webhook/purge"),
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
        ("POST", "/lane/a/nope/probe", 404),
        ("POST", "/lane/nope/webhook/skip", 404),
        ("POST", "/lane/a/webhook/skip", 409),
        ("POST", "/lane/a/webhook/purge", 400),
        ("GET", "/lane/a/webhook/purge", 405),
        ("GET", "/lane/a/webhook/pause", 405),
    ],
)
def test_what_is_not_there_or_makes_no_sense_is_said(
    call: Request, instance: str, method: str, path: str, status: int
) -> None:
    answer = call(method, path)

    assert answer.status_code == status
    assert answer.json["status"] == status


@pytest.mark.parametrize(
    ("verb", "body", "says"),
    [
        ("purge", {}, "confirm: Missing data for required field."),
        ("purge", {"confirm": "5"}, "confirm: Not a valid integer."),
        ("purge", {"confirm": True}, "confirm: Not a valid integer."),
        ("purge", {"confirm": -1}, "confirm: Must be greater than or equal to 0"),
        ("purge", {"confirm": 1, "force": True}, "force: Unknown field."),
        ("skip", {"eventId": 5}, "eventId: Not a valid string."),
        ("skip", {"eventId": ""}, "eventId: Length must be between 1 and 128."),
        ("skip", {"id": "x"}, "id: Unknown field."),
    ],
)
def test_a_body_that_makes_no_sense_changes_nothing(
    call: Request, instance: str, dump: Any, verb: str, body: Any, says: str
) -> None:
    before = dump()

    answer = call("POST", f"/lane/a/webhook/{verb}", body)

    assert answer.status_code == 400
    assert answer.json["response"]["message"][0].startswith(says)
    assert dump() == before


def test_no_key_is_401(application: Flask, instance: str) -> None:
    client = application.test_client()

    assert client.get("/lane").status_code == 401
    assert client.post("/lane/a/webhook/pause").status_code == 401
