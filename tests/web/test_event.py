"""`GET /event/<instance>/<id>`: an event back, while it is retained."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient

from evoflask import ids
from evoflask.delivery.drain import Drain
from evoflask.dev.soketi_server import SoketiServer
from evoflask.errors import Misconfigured
from evoflask.outbox import Outbox, verbs
from evoflask.settings import Settings
from tests.conftest import API_KEY, missing
from tests.sinks.harness_pusher import subscriber
from tests.web import steps
from tests.web.conftest import GLOBAL, Request

pytestmark = pytest.mark.databases

EMIT = "/event/emit/a"

Get = Callable[..., Any]


@pytest.fixture
def get(call: Request) -> Get:
    """`get("id")` from instance `a`, with the global key or `key=`."""

    def request(event_id: str, *, instance: str = "a", key: str = API_KEY) -> Any:
        return call("GET", f"/event/{instance}/{quote(event_id, safe='')}", key=key)

    return request


def trim(outbox: Outbox, redis_client: redis.Redis) -> None:
    """Nothing is retained any more that is not still wanted."""
    (stream,) = redis_client.keys("evo:*:outbox:*")
    i = stream.decode().rpartition(":")[2]
    while outbox.run(verbs.trim(0, i, entries=0, seconds=0, n=100))[1]:
        pass


def test_an_event_is_answered_in_the_standard_format_with_its_data_to_the_byte(
    client: FlaskClient, instance: str, get: Get
) -> None:
    data = b'{ "b":1, "a":  [1.0, 1e3], "t":"\\u00fc" , "a":12345678901234567890}'
    body = b'{"event":"CALL","id":"one","sender":"me","dateTime":"D","data":' + data + b"}"
    posted = client.post(EMIT, data=body, content_type="application/json", headers=GLOBAL)
    assert posted.status_code == 202

    answer = get("one")

    assert (answer.status_code, answer.mimetype) == (200, "application/json")
    expected = b'{"event":"CALL","instance":"a","data":%s,"timestamp":"D","sender":"me","id":"one",'
    assert answer.data.startswith(expected % data)


def test_an_event_without_a_date_has_the_time_of_its_acceptance(
    call: Request, instance: str, get: Get
) -> None:
    before = time.time()
    event_id = call("POST", EMIT, {"event": "CALL", "data": None}).get_json()["id"]

    row = get(event_id).get_json()

    names = ["event", "instance", "data", "timestamp", "sender", "id"]
    assert list(row) == [*names, "retained", "why", "subscriptions"]
    accepted = ids.time_of(event_id)
    assert accepted is not None
    assert before - 1 <= accepted / 1000 <= time.time()
    assert row["timestamp"][:16] == time.strftime("%Y-%m-%dT%H:%M", time.gmtime(accepted / 1000))
    assert {name: row[name] for name in names} | {"timestamp": ""} == {
        "event": "CALL", "instance": "a", "data": None, "timestamp": "", "sender": None,
        "id": event_id,
    }  # fmt: skip


def test_a_large_body_is_answered_too(
    call: Request, instance: str, get: Get, redis_client: redis.Redis
) -> None:
    data = {"text": "é" * 40_000}
    event_id = call("POST", EMIT, {"event": "CALL", "data": data}).get_json()["id"]
    assert redis_client.keys("evo:*:body:*")

    assert get(event_id).get_json()["data"] == data


@pytest.mark.parametrize("given", [False, True], ids=["ids of ours", "ids of the caller's"])
def test_the_first_the_last_and_those_between_are_found_on_every_page(
    call: Request, instance: str, get: Get, given: bool
) -> None:
    events: list[dict[str, Any]] = [{"event": "CALL", "data": n} for n in range(450)]
    if given:
        events = [event | {"id": f"given-{n}"} for n, event in enumerate(events)]
    rows = call("POST", EMIT, events).get_json()["results"]

    for n in (0, 1, 19, 20, 199, 200, 201, 249, 250, 251, 399, 400, 448, 449):
        assert get(rows[n]["id"]).get_json()["data"] == n
    assert get("given-450").status_code == 404


def test_a_page_is_bounded_and_says_where_to_go_on(
    call: Request, instance: str, outbox: Outbox, redis_client: redis.Redis
) -> None:
    call("POST", EMIT, [{"event": "CALL", "data": n, "id": f"n{n}"} for n in range(100)])
    (stream,) = redis_client.keys("evo:*:outbox:*")
    i = stream.decode().rpartition(":")[2]
    entries = [entry.decode() for entry, _ in redis_client.xrange(stream)]

    first = outbox.run(verbs.find(0, i, "n5", n=40))
    second = outbox.run(verbs.find(0, i, "n5", start=first.more, n=40))
    third = outbox.run(verbs.find(0, i, "n5", start=second.more, n=40))
    above = outbox.run(verbs.find(0, i, "n5", floor=entries[5], n=400))

    assert (first.entry, first.more) == ("", f"({entries[60]}")
    assert (second.entry, second.more) == ("", f"({entries[20]}")
    assert third.entry == entries[5]
    assert (above.entry, above.more) == ("", "")


@pytest.mark.parametrize("hours", [-24, -1, 1, 24])
def test_a_callers_id_that_says_another_time_is_found_all_the_same(
    call: Request, instance: str, get: Get, hours: int
) -> None:
    event_id = ids.event_id(time.time() + hours * 3600)
    call("POST", EMIT, [{"event": "CALL", "data": n} for n in range(30)])
    call("POST", EMIT, {"event": "CALL", "data": "this", "id": event_id})
    call("POST", EMIT, [{"event": "CALL", "data": n} for n in range(30)])

    assert get(event_id).get_json()["data"] == "this"


@pytest.mark.parametrize("event_id", ["a/b", "a//b", "?q=1#x", "%2F", "a+b&c", "~!$'()*,;:@"])
def test_an_id_may_have_whatever_an_id_may_have(
    call: Request, instance: str, get: Get, event_id: str
) -> None:
    posted = call("POST", EMIT, {"event": "CALL", "data": 1, "id": event_id})
    assert posted.status_code == 202

    answer = get(event_id)

    assert (answer.status_code, json.loads(answer.data).get("id")) == (200, event_id)


def test_what_is_not_there_is_404_in_the_contracts_shape(
    call: Request, instance: str, get: Get
) -> None:
    for event_id in ("nothing", ids.event_id()):
        answer = get(event_id)

        assert answer.status_code == 404
        assert answer.get_json() == {
            "status": 404,
            "error": "Not Found",
            "response": {
                "message": [
                    f'The "a" instance has no event "{event_id}" any more',
                    "It was never accepted, or it is forgotten.",
                    "No event of this instance is forgotten yet; the delivery log is empty.",
                ]
            },
        }


def test_only_the_global_key_and_the_instances_own_token_may_look(
    call: Request, client: FlaskClient, instance: str, get: Get
) -> None:
    body = {"instanceName": "b", "token": "token-b"}
    assert call("POST", "/instance/create", body).status_code == 201
    event_id = call("POST", EMIT, {"event": "CALL", "data": 1}).get_json()["id"]

    assert get(event_id, key="token-a").status_code == 200
    assert get(event_id, key="token-b").status_code == 401
    assert get(event_id, key="wrong").status_code == 401
    assert client.get(f"/event/a/{event_id}").status_code == 401
    assert get(event_id, instance="b", key="token-b").status_code == 404


def test_an_unknown_instance_is_404_for_the_global_key_alone(get: Get, instance: str) -> None:
    assert get("one", instance="nobody").status_code == 404
    assert get("one", instance="nobody", key="token-a").status_code == 401


def test_an_event_past_retention_is_gone(
    call: Request, instance: str, get: Get, outbox: Outbox, redis_client: redis.Redis
) -> None:
    event_id = call("POST", EMIT, {"event": "CALL", "data": 1}).get_json()["id"]
    steps.end_all(outbox, steps.delivered)
    assert get(event_id).status_code == 200

    trim(outbox, redis_client)

    assert get(event_id).status_code == 404


def test_a_requeued_event_is_there_again(
    call: Request, instance: str, get: Get, outbox: Outbox, redis_client: redis.Redis
) -> None:
    event_id = call("POST", EMIT, {"event": "CALL", "data": 1}).get_json()["id"]
    steps.kill(outbox)
    trim(outbox, redis_client)
    assert get(event_id).get_json()["data"] is None

    assert call("POST", "/deadletter/requeue", {"instance": "a"}).status_code == 200

    assert get(event_id).get_json()["data"] == 1


def test_a_deleted_instances_events_are_gone_though_the_name_is_given_again(
    call: Request, instance: str, get: Get
) -> None:
    event_id = call("POST", EMIT, {"event": "CALL", "data": 1}).get_json()["id"]

    assert call("DELETE", "/instance/delete/a").status_code == 200

    assert get(event_id).status_code == 404
    assert get(event_id, key="token-a").status_code == 401
    body = {"instanceName": "a", "token": "token-a"}
    assert call("POST", "/instance/create", body).status_code == 201
    assert get(event_id, key="token-a").status_code == 404


def test_the_routes_that_are_there_are_not_taken_for_ids(call: Request, instance: str) -> None:
    assert list(call("GET", "/event/find/a").get_json())[:1] == ["webhook"]
    assert call("GET", EMIT).status_code in (404, 405)


def test_what_was_too_large_for_pusher_is_announced_to_a_client_that_fetches_it(
    application: Flask,
    call: Request,
    get: Get,
    outbox: Outbox,
    settings: Callable[..., Settings],
    tmp_path: Path,
) -> None:
    app = {"appId": "1", "key": "the-key", "secret": "the-secret", "cluster": "eu"}
    own = {"useTLS": False, "oversize": "reference", "enabled": True, "events": ["CALL"]}
    made = call("POST", "/instance/create", {"instanceName": "a", "token": "token-a"})
    assert made.status_code == 201
    assert call("POST", "/pusher/set/a", {"pusher": app | own}).status_code == 201
    data = {"text": "é" * 20_000}
    try:
        server = SoketiServer(tmp_path / "soketi", "1", "the-key", "the-secret")
        server.prepare()
    except Misconfigured as error:
        missing(str(error))

    with server, subscriber(server, "a") as read:
        event_id = call("POST", EMIT, {"event": "CALL", "data": data}).get_json()["id"]
        here = settings(pusher_host=server.host, pusher_port=str(server.port))
        asyncio.run(drain(here))
        message = json.loads(read()["data"])

    assert (message["oversize"], message["id"]) == (True, event_id)
    event = get(message["id"], instance=message["instance"], key="token-a")
    assert event.get_json()["data"] == data
    body = event.data.partition(b',"retained":')[0] + b"}"
    assert len(body) == message["size"]


async def drain(settings: Settings) -> None:
    """All that is due for Pusher."""
    worker = Drain(settings, ["pusher"])
    await worker.start()
    try:
        await worker.drain_until_quiet(10, 0.5)
    finally:
        await worker.stop(5)
