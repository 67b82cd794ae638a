"""Replay: events that are still on the outbox, once more onto one subscription."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from evoflask import operations
from evoflask.delivery import operator as operator_module
from evoflask.delivery.operator import Operator
from evoflask.models import AuditLog, Operation, Subscription
from evoflask.outbox import Outbox, verbs
from tests.web import steps
from tests.web.conftest import Dump, Request

pytestmark = pytest.mark.databases

Emit = Callable[..., list[str]]
CRM = {"name": "crm", "sink": "webhook", "enabled": True, "url": "https://crm.example.com/in"}


@pytest.fixture
def emit(call: Request, instance: str, outbox: Outbox) -> Emit:
    """`emit(5)`: so many events of `a`, all delivered; their ids. There is a `crm` beside, which
    gets none of them by itself."""
    crm = {**CRM, "events": ["QRCODE_UPDATED"]}
    assert call("POST", f"/subscription/{instance}", crm).status_code == 201

    def run(n: int, *, event: str = "CALL", **body: Any) -> list[str]:
        ids = []
        for at in range(0, n, 100):
            some = range(at, min(n, at + 100))
            events = [{"event": event, "data": {"n": each}, **body} for each in some]
            answer = call("POST", "/event/emit/a", events)
            assert answer.status_code == 202
            ids += [row["id"] for row in answer.json["results"]]
        assert steps.end_all(outbox, steps.delivered) in (0, n)
        return ids

    return run


def replay(call: Request, **body: Any) -> Any:
    answer = call("POST", "/replay", {"instance": "a", "onto": "crm", **body})
    assert answer.status_code in (200, 202), answer.json
    return answer.json


def lane(outbox: Outbox, name: str = "crm") -> verbs.LaneView:
    row = Subscription.get(Subscription.name == name)
    return outbox.run(verbs.look(0, [row.lane]))[0]


def on_lane(redis_client: redis.Redis, outbox: Outbox, name: str = "crm") -> list[dict[str, Any]]:
    """What waits there, in its order: id, event, meta, data."""
    row = Subscription.get(Subscription.name == name)
    found = []
    for _, fields in redis_client.xrange(f"evo:{{p0}}:outbox:{row.instance.outbox}"):
        if fields[b"mode"] == b"requeued" and row.lane.encode() in fields[b"to"]:
            meta, data = (json.loads(fields[key]) for key in (b"meta", b"data"))
            found.append({"id": fields[b"id"].decode(), "meta": meta, "data": data})
    return found


def test_events_of_a_time_are_replayed_in_their_order_with_their_ids_and_a_mark(
    call: Request, emit: Emit, outbox: Outbox, redis_client: redis.Redis
) -> None:
    ids = emit(5, sender="me")

    answer = replay(call, since=0)

    assert answer == {"replayed": 5, "left": 0, "operation": None}
    waiting = on_lane(redis_client, outbox)
    assert [each["id"] for each in waiting] == ids
    assert [each["data"]["n"] for each in waiting] == [0, 1, 2, 3, 4]
    assert {each["meta"]["sender"] for each in waiting} == {"me"}
    assert len({each["meta"]["replay"] for each in waiting}) == 1
    assert all(each["meta"]["dateTime"].endswith("Z") for each in waiting)
    view = lane(outbox)
    assert (view.waiting, view.count("requeued"), view.count("routed"), view.off) == (5, 5, 0, 0)
    assert lane(outbox, "webhook").waiting == 0


def test_what_was_replayed_is_not_replayed_again_with_it(
    call: Request, emit: Emit, outbox: Outbox, redis_client: redis.Redis
) -> None:
    ids = emit(3)
    replay(call, since=0)
    assert replay(call, since=0)["replayed"] == 3

    assert replay(call, ids=ids[:1])["replayed"] == 1

    waiting = on_lane(redis_client, outbox)
    assert [each["id"] for each in waiting] == [*ids, *ids, ids[0]]
    assert len({each["meta"]["replay"] for each in waiting}) == 3


def test_an_event_that_is_retained_as_a_copy_alone_is_found_by_its_id(
    call: Request, emit: Emit, redis_client: redis.Redis
) -> None:
    ids = emit(2)
    replay(call, ids=ids[:1])
    row = Subscription.get(Subscription.name == "crm")
    stream = f"evo:{{p0}}:outbox:{row.instance.outbox}"
    first = redis_client.xrange(stream, count=1)[0][0]
    redis_client.xdel(stream, first)

    assert replay(call, ids=ids[:1])["replayed"] == 1


def test_only_what_is_named_is_replayed(call: Request, emit: Emit, redis_client: Any) -> None:
    calls = emit(2)
    time.sleep(0.005)
    seconds, micros = redis_client.time()
    between = seconds + micros / 1e6
    time.sleep(0.005)
    emit(3, event="QRCODE_UPDATED")
    later = emit(1)

    def would(**body: Any) -> Any:
        return replay(call, dryRun=True, **body)["would"]

    assert would(since=0) == 6
    assert would(since=between) == 4
    assert would(until=between) == 2
    assert would(since=between, until=between + 3600) == 4
    assert would(since=0, events=["call"]) == 3
    assert would(since=between, events=["CALL", "qrcode.updated"]) == 4
    assert would(since=0, events=["CONTACTS_SET"]) == 0
    named = replay(call, dryRun=True, ids=[*calls, *later, "no-such", calls[0]])
    assert (named["would"], named["missing"]) == (3, 1)


def test_a_dry_run_changes_nothing(call: Request, emit: Emit, dump: Dump) -> None:
    emit(3)
    before = dump()

    answer = replay(call, since=0, dryRun=True)

    assert answer == {"replayed": 0, "would": 3, "operation": None}
    assert dump() == before


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 400, "The filter is empty. Name what is meant by ids, or since and until"),
        ({"ids": ["1"], "since": 0}, 400, "Name the events by ids"),
        ({"ids": []}, 400, "ids: "),
        ({"ids": ["with space"]}, 400, "Not an event's id"),
        ({"since": "yesterday"}, 400, "since: Not a date"),
        ({"since": 0, "events": ["NO_SUCH"]}, 400, "is not an event"),
        ({"since": 0, "rate": 0}, 400, "rate: "),
        ({"since": 0, "onto": "nobody"}, 404, "nobody"),
        ({"since": 0, "onto": "websocket"}, 409, "A websocket subscription has no lane"),
        ({"since": 0, "more": 1}, 400, "more: Unknown field"),
    ],
)
def test_a_replay_that_is_asked_for_wrongly_changes_nothing(
    call: Request, emit: Emit, dump: Dump, body: dict[str, Any], status: int, words: str
) -> None:
    call("POST", "/websocket/set/a", {"websocket": {"enabled": True}})
    emit(1)
    before = dump()

    answer = call("POST", "/replay", {"instance": "a", "onto": "crm", **body})

    assert answer.status_code == status
    assert words in str(answer.json)
    assert dump() == before


def test_a_token_replays_its_own_instance_and_no_other(call: Request, emit: Emit) -> None:
    emit(1)
    call("POST", "/instance/create", {"instanceName": "b", "token": "token-b"})
    body = {"instance": "a", "onto": "crm", "since": 0}

    assert call("POST", "/replay", body, key="token-b").status_code == 401
    assert call("POST", "/replay", body, key="wrong").status_code == 401
    assert call("POST", "/replay", body, key="token-a").status_code == 200
    noted = AuditLog.select().order_by(AuditLog.id.desc()).first()
    assert (noted.by, noted.action, noted.subscription_name) == (
        "instance:a",
        "event.replay",
        "crm",
    )
    assert noted.facts["total"] == 1


# as an operation


@pytest.fixture
def short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece ends after one append, however fast the machine is."""
    monkeypatch.setattr(operations, "INLINE_SECONDS", 0.0)
    monkeypatch.setattr(operator_module, "PIECE", 0.0)


@pytest.mark.usefixtures("short_pieces")
def test_many_go_on_by_the_clock_in_their_order(
    call: Request, emit: Emit, operator: Operator, outbox: Outbox, redis_client: redis.Redis
) -> None:
    ids = emit(350)

    answer = replay(call, since=0)
    shown = call("GET", f"/operation/{answer['operation']}").json
    while operator.turn():
        pass
    after = call("GET", f"/operation/{answer['operation']}").json

    assert (answer["replayed"], answer["left"]) == (100, 250)
    assert (shown["kind"], shown["onto"], shown["instance"]) == ("replay", "crm", "a")
    assert shown["wanted"] == {"since": 0.0}
    assert (after["state"], after["done"], after["failed"], after["total"]) == (
        "done", 350, 0, 350,
    )  # fmt: skip
    assert [each["id"] for each in on_lane(redis_client, outbox)] == ids


@pytest.mark.usefixtures("short_pieces")
def test_ids_go_on_where_they_were(call: Request, emit: Emit, operator: Operator) -> None:
    ids = emit(250)

    answer = replay(call, ids=[*ids, "no-such"])
    while operator.turn():
        pass

    assert (answer["replayed"], answer["missing"]) == (100, 1)
    after = call("GET", f"/operation/{answer['operation']}").json
    assert (after["state"], after["done"], after["failed"]) == ("done", 250, 0)


@pytest.mark.usefixtures("short_pieces")
def test_a_cancelled_one_stops_and_keeps_what_is_done(
    call: Request, emit: Emit, operator: Operator, outbox: Outbox
) -> None:
    emit(350)
    operation = replay(call, since=0)["operation"]
    operator.turn()

    assert call("POST", f"/operation/{operation}/cancel").status_code == 200
    while operator.turn():
        pass

    assert lane(outbox).waiting == 200
    assert lane(outbox).off == 0


@pytest.mark.usefixtures("short_pieces")
def test_what_leaves_the_outbox_before_its_turn_is_counted_as_failed(
    call: Request, emit: Emit, operator: Operator, redis_client: redis.Redis
) -> None:
    emit(250)
    operation = replay(call, since=0)["operation"]
    row = Subscription.get(Subscription.name == "crm")
    stream = f"evo:{{p0}}:outbox:{row.instance.outbox}"
    gone = [entry for entry, fields in redis_client.xrange(stream) if fields[b"mode"] == b"routed"]
    redis_client.xdel(stream, *gone[120:150])

    while operator.turn():
        pass

    after = call("GET", f"/operation/{operation}").json
    assert (after["state"], after["done"], after["failed"]) == ("done", 220, 30)


def test_a_rate_is_kept(call: Request, emit: Emit, operator: Operator, outbox: Outbox) -> None:
    emit(60)
    began = time.monotonic()

    operation = replay(call, since=0, rate=40)["operation"]
    while Operation.get_by_id(operation).state == "running":
        if not operator.turn():
            time.sleep(0.02)  # as the clock does

    # Half a second at once, and half a second's credit: the rest waits.
    assert 0.4 < time.monotonic() - began < 10
    assert lane(outbox).waiting == 60


@pytest.mark.usefixtures("short_pieces")
def test_a_subscription_that_is_deleted_meanwhile_ends_it_in_words(
    call: Request, emit: Emit, operator: Operator
) -> None:
    emit(250)
    operation = replay(call, since=0)["operation"]
    call("DELETE", "/subscription/a/crm")

    while operator.turn():
        pass

    after = call("GET", f"/operation/{operation}").json
    assert (after["state"], after["error"]) == ("failed", "The subscription was deleted.")
