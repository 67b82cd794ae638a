"""What an emit is answered, and what it leaves on the outbox."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient

from evoflask.errors import Conflict
from tests.web.conftest import GLOBAL, Dump, Request

EMIT = "/event/emit/a"
CALL = {"event": "CALL", "data": {"from": "1"}}
NDJSON = "application/x-ndjson"

Entries = Callable[[], list[dict[str, str]]]


@pytest.fixture
def entries(redis_client: redis.Redis) -> Entries:
    """What is on the outbox, oldest first."""

    def read() -> list[dict[str, str]]:
        (stream,) = redis_client.keys("evo:*:outbox:*") or [b""]
        rows = redis_client.xrange(stream) if stream else []
        return [{k.decode(): v.decode() for k, v in fields.items()} for _, fields in rows]

    return read


def lines(client: FlaskClient, *events: Any, path: str = EMIT) -> Any:
    body = b"".join(
        (event if isinstance(event, bytes) else json.dumps(event).encode()) + b"\n"
        for event in events
    )
    return client.post(path, data=body, content_type=NDJSON, headers=GLOBAL)


def test_a_single_event_is_202_with_its_id_and_who_gets_it(
    call: Request, instance: str, entries: Entries
) -> None:
    answer = call("POST", EMIT, CALL)

    assert answer.status_code == 202
    row = answer.get_json()
    assert list(row) == ["id", "event", "subscriptions", "duplicate"]
    assert row | {"id": ""} == {
        "id": "",
        "event": "CALL",
        "subscriptions": ["webhook"],
        "duplicate": False,
    }
    (entry,) = entries()
    assert (entry["id"], entry["event"], entry["data"]) == (row["id"], "CALL", '{"from": "1"}')


def test_ids_of_ours_are_ordered_by_time(call: Request, instance: str) -> None:
    ids = [call("POST", EMIT, CALL).get_json()["id"] for _ in range(5)]

    assert len(set(ids)) == 5
    assert [id[14] for id in ids] == ["7"] * 5


@pytest.mark.parametrize(
    "data", ["null", "0", "1e400", '"x"', "[]", '{ "b":1, "a":  [1.0, 2] }', '{"a":1,"a":2}']
)
def test_data_is_kept_to_the_byte(
    client: FlaskClient, instance: str, entries: Entries, data: str
) -> None:
    body = b'{"event": "CALL", "data": ' + data.encode() + b"}"

    answer = client.post(EMIT, data=body, content_type="application/json", headers=GLOBAL)

    assert answer.status_code == 202
    assert entries()[0]["data"] == data


def test_a_large_body_lies_beside_its_entry(
    call: Request, instance: str, entries: Entries, redis_client: redis.Redis
) -> None:
    data = {"text": "é" * 40_000}

    answer = call("POST", EMIT, {"event": "CALL", "data": data})

    assert answer.status_code == 202
    assert "data" not in entries()[0]
    (key,) = redis_client.keys("evo:*:body:*")
    assert json.loads(redis_client.get(key)) == data


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("MESSAGES_UPSERT", "MESSAGES_UPSERT"),
        ("messages.upsert", "MESSAGES_UPSERT"),
        ("messages-upsert", "MESSAGES_UPSERT"),
        ("group-participants.update", "GROUP_PARTICIPANTS_UPDATE"),
        ("GROUP_UPDATE", "GROUPS_UPDATE"),
        ("call", "CALL"),
    ],
)
def test_an_event_is_answered_and_kept_in_the_catalogues_spelling(
    call: Request, instance: str, entries: Entries, spelling: str, name: str
) -> None:
    call("PUT", "/subscription/a/webhook", {"events": []})

    answer = call("POST", EMIT, {"event": spelling, "data": {}})

    assert answer.get_json()["event"] == name
    assert entries()[0]["event"] == name


def test_a_repeated_id_is_200_and_appends_nothing(
    call: Request, instance: str, entries: Entries
) -> None:
    first = call("POST", EMIT, {**CALL, "id": "mine"})
    again = call("POST", EMIT, {**CALL, "id": "mine"})

    assert (first.status_code, again.status_code) == (202, 200)
    assert first.get_json()["duplicate"] is False
    assert again.get_json() == first.get_json() | {"duplicate": True}
    assert [entry["id"] for entry in entries()] == ["mine"]


def test_a_repeat_may_spell_its_event_otherwise_and_renew_all_but_its_data(
    call: Request, instance: str, entries: Entries
) -> None:
    call("POST", EMIT, {**CALL, "id": "mine", "dateTime": "then", "sender": "a"})

    again = call("POST", EMIT, {**CALL, "id": "mine", "event": "call", "dateTime": "now"})

    assert (again.status_code, again.get_json()["duplicate"]) == (200, True)
    assert len(entries()) == 1


@pytest.mark.parametrize(
    "other",
    [{"data": {"from": "2"}}, {"event": "QRCODE_UPDATED"}, {"data": None}, {"data": {"from": 1}}],
    ids=str,
)
def test_an_id_that_was_accepted_with_other_content_is_409_and_changes_nothing(
    call: Request, instance: str, dump: Dump, redis_client: redis.Redis, other: dict[str, Any]
) -> None:
    call("PUT", "/subscription/a/webhook", {"events": []})
    call("POST", EMIT, {**CALL, "id": "mine"})
    redis_client.hset("evo:{p0}:totals", "conflicts", 0)
    before = dump()

    answer = call("POST", EMIT, {**CALL, "id": "mine", **other})
    redis_client.hset("evo:{p0}:totals", "conflicts", 0)

    assert answer.status_code == 409
    assert (answer.get_json()["status"], answer.get_json()["error"]) == (409, "Conflict")
    (sentence,) = answer.get_json()["response"]["message"]
    assert sentence.startswith('id: "mine" ')
    assert dump() == before
    assert call("POST", EMIT, {**CALL, "id": "mine"}).status_code == 200


def test_the_bytes_of_data_are_compared_and_not_what_they_mean(
    client: FlaskClient, instance: str
) -> None:
    def emit(data: bytes) -> int:
        body = b'{"event":"CALL","id":"mine","data":' + data + b"}"
        answer = client.post(EMIT, data=body, content_type="application/json", headers=GLOBAL)
        return answer.status_code

    assert [emit(data) for data in (b'{"a":1}', b'{"a":1}', b'{"a": 1}', b'{"a":1.0}')] == [
        202,
        200,
        409,
        409,
    ]


def test_a_repeat_within_one_batch_is_told_by_its_place(
    call: Request, instance: str, entries: Entries
) -> None:
    event = {**CALL, "id": "mine"}

    answer = call("POST", EMIT, [event, CALL, event])

    assert [row["duplicate"] for row in answer.get_json()["results"]] == [False, False, True]
    assert len(entries()) == 2


@pytest.mark.parametrize("how", ["array", "lines"])
def test_an_element_whose_id_has_other_content_is_rejected_alone(
    call: Request, client: FlaskClient, instance: str, entries: Entries, how: str
) -> None:
    call("POST", EMIT, {**CALL, "id": "before"})
    batch = [
        {**CALL, "id": "before", "data": 2},
        {**CALL, "id": "new", "data": 3},
        {**CALL, "id": "new", "data": 4},
        {**CALL, "id": "new", "data": 3},
        {**CALL, "id": "before"},
    ]

    answer = call("POST", EMIT, batch) if how == "array" else lines(client, *batch)

    body = answer.get_json()
    assert answer.status_code == 202
    assert (body["accepted"], body["rejected"]) == (3, 2)
    rows = body["results"]
    assert [row.get("status") for row in rows] == [409, None, 409, None, None]
    assert [row.get("duplicate") for row in rows] == [None, False, None, True, True]
    assert rows[0]["error"] == "Conflict"
    assert rows[0]["message"][0].startswith('id: "before" ')
    assert [(entry["id"], entry["data"]) for entry in entries()][1:] == [("new", "3")]


def test_an_id_is_compared_across_the_chunks_of_a_batch(
    call: Request, instance: str, entries: Entries
) -> None:
    batch = [{**CALL, "id": f"n{n % 200}", "data": n // 400} for n in range(500)]

    rows = call("POST", EMIT, batch).get_json()["results"]

    assert [row.get("duplicate") for row in rows[:400]] == [False] * 200 + [True] * 200
    assert [row.get("status") for row in rows[400:]] == [409] * 100
    assert len(entries()) == 200


def test_a_batch_of_nothing_but_other_content_is_400_with_results(
    call: Request, instance: str
) -> None:
    call("POST", EMIT, {**CALL, "id": "mine"})

    answer = call("POST", EMIT, [{**CALL, "id": "mine", "data": 2}])

    assert answer.status_code == 400
    assert [row["status"] for row in answer.get_json()["results"]] == [409]


def test_an_id_that_the_release_before_stored_counts_as_repeated_whatever_comes(
    call: Request, instance: str, entries: Entries, redis_client: redis.Redis
) -> None:
    """An older release stored the date alone, in whole milliseconds."""
    call("POST", EMIT, {**CALL, "id": "mine"})
    (seen,) = redis_client.keys("evo:*:seen:*")
    redis_client.zadd(seen, {"mine": int(redis_client.zscore(seen, "mine") or 0)})
    redis_client.delete(*redis_client.keys("evo:*:prints:*"))

    answer = call("POST", EMIT, {**CALL, "id": "mine", "data": 2})

    assert (answer.status_code, answer.get_json()["duplicate"]) == (200, True)
    assert len(entries()) == 1


def test_an_event_that_nobody_wanted_takes_no_id(
    call: Request, instance: str, entries: Entries
) -> None:
    """Its body is not kept, so a later event under its id is not a repeat."""
    unwanted = call("POST", EMIT, {**CALL, "event": "QRCODE_UPDATED", "id": "mine"})

    wanted = call("POST", EMIT, {**CALL, "id": "mine"})

    assert (unwanted.status_code, wanted.status_code) == (202, 202)
    assert wanted.get_json()["duplicate"] is False
    assert len(entries()) == 1


def test_python_raises_conflict_for_an_id_with_other_content(
    application: Flask, instance: str, entries: Entries
) -> None:
    manager = application.extensions["evoflask"].manager
    manager.emit("a", "CALL", {"n": 1}, id="mine")

    assert manager.emit("a", "call", {"n": 1}, id="mine").duplicate
    with pytest.raises(Conflict, match='id: "mine"'):
        manager.emit("a", "CALL", {"n": 2}, id="mine")
    assert len(entries()) == 1


def test_an_event_that_nobody_wants_is_202_with_an_empty_list_and_not_kept(
    call: Request, instance: str, entries: Entries
) -> None:
    answer = call("POST", EMIT, {"event": "QRCODE_UPDATED", "data": {}})

    assert (answer.status_code, answer.get_json()["subscriptions"]) == (202, [])
    assert entries() == []


@pytest.mark.parametrize(
    ("more", "routed"),
    [
        ({"integration": ["webhook"]}, ["webhook"]),
        ({"integration": ["webhook", "sqs"]}, ["webhook"]),
        ({"integration": ["sqs"]}, []),
        ({"integration": []}, []),
        ({"integration": None}, ["webhook"]),
        ({"local": True}, ["webhook"]),
        ({"local": None}, ["webhook"]),
        ({"local": False}, []),
    ],
    ids=str,
)
def test_integration_and_local_restrict_who_gets_it(
    call: Request, instance: str, more: dict[str, Any], routed: list[str]
) -> None:
    assert call("POST", EMIT, {**CALL, **more}).get_json()["subscriptions"] == routed


def test_what_an_emit_says_of_itself_is_kept_and_its_key_is_not(
    call: Request, instance: str, entries: Entries
) -> None:
    said = {"sender": "5@x", "dateTime": "then", "serverUrl": "https://s", "origin": "o"}

    call("POST", EMIT, {**CALL, **said, "apiKey": "secret-of-the-gateway"})

    assert json.loads(entries()[0]["meta"]) == said
    assert "secret-of-the-gateway" not in str(entries())


def test_unknown_fields_of_an_envelope_are_left_alone(call: Request, instance: str) -> None:
    assert call("POST", EMIT, {**CALL, "instanceName": "a"}).status_code == 202


def test_an_array_is_answered_in_its_order_and_a_bad_one_is_rejected_by_its_place(
    call: Request, instance: str, entries: Entries
) -> None:
    answer = call("POST", EMIT, [CALL, {"event": "NOPE", "data": 1}, {**CALL, "id": "x"}])

    assert answer.status_code == 202
    body = answer.get_json()
    assert (body["accepted"], body["rejected"]) == (2, 1)
    good, bad, mine = body["results"]
    assert bad["status"] == 400
    assert "NOPE" in bad["message"][0]
    assert mine["id"] == "x"
    assert [entry["id"] for entry in entries()] == [good["id"], "x"]


def test_lines_are_answered_in_their_order_and_one_bad_line_is_rejected_alone(
    client: FlaskClient, instance: str, entries: Entries
) -> None:
    answer = lines(client, CALL, b'{"event": "CALL", "da', b"", CALL)

    body = answer.get_json()
    assert answer.status_code == 202
    assert (body["accepted"], body["rejected"]) == (2, 1)
    assert body["results"][1]["status"] == 400
    assert len(entries()) == 2


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_the_last_line_may_end_as_it_likes(client: FlaskClient, instance: str, end: bytes) -> None:
    body = json.dumps(CALL).encode() + b"\n" + json.dumps(CALL).encode() + end

    answer = client.post(EMIT, data=body, content_type=NDJSON, headers=GLOBAL)

    assert answer.get_json()["accepted"] == 2


def test_an_empty_batch_is_202_with_nothing(
    call: Request, client: FlaskClient, instance: str
) -> None:
    empty = {"accepted": 0, "rejected": 0, "results": []}

    assert call("POST", EMIT, []).get_json() == empty
    assert lines(client).get_json() == empty


@pytest.mark.parametrize("how", ["array", "lines"])
def test_a_batch_of_nothing_but_bad_ones_is_400_with_results(
    call: Request, client: FlaskClient, instance: str, entries: Entries, how: str
) -> None:
    bad = [{"event": "NOPE", "data": 1}, {"data": 1}]

    answer = call("POST", EMIT, bad) if how == "array" else lines(client, *bad)

    assert answer.status_code == 400
    body = answer.get_json()
    assert body["response"]["message"] == ["None of the events could be accepted."]
    assert [row["status"] for row in body["results"]] == [400, 400]
    assert entries() == []


def test_a_batch_of_many_chunks_is_kept_whole_and_in_order(
    call: Request, instance: str, entries: Entries
) -> None:
    events = [{"event": "CALL", "data": n, "id": f"n{n}"} for n in range(350)]

    body = call("POST", EMIT, events).get_json()

    assert (body["accepted"], body["rejected"]) == (350, 0)
    assert [entry["id"] for entry in entries()] == [event["id"] for event in events]


def test_a_batch_over_the_limit_is_413_and_nothing_is_kept(
    call: Request, client: FlaskClient, instance: str, entries: Entries
) -> None:
    many = [CALL] * 10_001

    answer = call("POST", EMIT, many)

    assert answer.status_code == 413
    assert answer.get_json()["response"]["message"] == ["The batch has more than 10000 events."]
    assert entries() == []


def test_lines_over_the_limit_say_where_reading_stopped_and_why(
    client: FlaskClient, instance: str, entries: Entries
) -> None:
    answer = lines(client, *[CALL] * 10_001)

    body = answer.get_json()
    assert answer.status_code == 202
    assert body["stopped"]["status"] == 413
    assert body["stopped"]["at"] == body["accepted"] == len(body["results"])
    assert "10000" in body["stopped"]["reason"]
    assert body["accepted"] == len(entries()) >= 9_900


def test_redis_that_fails_within_a_batch_stops_it_and_says_where(
    call: Request, instance: str, redis_client: redis.Redis, entries: Entries
) -> None:
    event = {"event": "CALL", "data": "x" * 30_000}
    used = redis_client.info("memory")["used_memory"]
    redis_client.config_set("maxmemory", used + 8_000_000)

    answer = call("POST", EMIT, [event] * 500)

    body = answer.get_json()
    assert answer.status_code == 202
    assert body["stopped"]["status"] == 503
    assert body["stopped"]["at"] == body["accepted"] == len(body["results"]) == len(entries())
    assert 0 < body["accepted"] < 500


def test_a_token_emits_for_its_own_instance_and_for_no_other(
    call: Request, instance: str, entries: Entries
) -> None:
    call("POST", "/instance/create", {"instanceName": "b", "token": "token-b"})

    assert call("POST", EMIT, CALL, key="token-a").status_code == 202
    assert call("POST", EMIT, CALL, key="token-b").status_code == 401
    assert call("POST", EMIT, CALL, key="wrong").status_code == 401
    assert call("POST", "/event/emit/nobody", CALL, key="token-a").status_code == 401
    assert call("POST", "/event/emit/nobody", CALL).status_code == 404
    assert len(entries()) == 1


def test_the_token_of_a_deleted_instance_opens_nothing(call: Request, instance: str) -> None:
    assert call("POST", EMIT, CALL, key="token-a").status_code == 202
    call("DELETE", "/instance/delete/a")
    call("POST", "/instance/create", {"instanceName": "a", "token": "another"})

    assert call("POST", EMIT, CALL, key="token-a").status_code == 401
    assert call("POST", EMIT, CALL, key="another").status_code == 202


def test_a_known_instance_costs_no_query(
    call: Request, instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evoflask import db

    call("POST", EMIT, CALL)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a query")

    monkeypatch.setattr(db.database.obj, "execute_sql", refuse)
    assert call("POST", EMIT, CALL).status_code == 202
