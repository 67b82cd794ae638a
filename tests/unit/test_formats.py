"""The standard format, byte by byte."""

from __future__ import annotations

import base64
import dataclasses
import json

import pytest

from evoflask.formats import FORMATS, Standard, utc, with_path
from evoflask.sinks.base import Delivery, Target

TARGET = Target("s", 1, "demo", "webhook", "standard", 30.0, {})
EVENT = Delivery(
    target=TARGET,
    event_id="e-1",
    event="MESSAGES_UPSERT",
    data=b'{"a": 1.0,"a":2}',
    at=1_700_000_000.123,
    tries=0,
    key="",
    sender="me",
)


def test_a_webhooks_body_is_the_seeds_with_the_id() -> None:
    body = Standard("demo", server_version="1.2", server_url="https://me").body(EVENT)

    assert body == (
        b'{"event":"MESSAGES_UPSERT","instance":"demo","data":{"a": 1.0,"a":2},'
        b'"timestamp":"2023-11-14T22:13:20.123Z","sender":"me",'
        b'"server":{"version":"1.2","url":"https://me"},"id":"e-1"}'
    )


def test_other_sinks_bodies_name_no_server() -> None:
    assert json.loads(Standard("demo").body(EVENT)).keys() == {
        *("event", "instance", "data", "timestamp", "sender", "id")
    }


@pytest.mark.parametrize(
    "data",
    [
        *(b"null", b"0", b"1e999", b"-0.0", b'"\\ud83d\\ude00"', b"[ ]", b"{}", b"true", b'""'),
        *('"ü"'.encode(), b"123456789012345678901234567890", b'{"a":1,"a":2}', b'"\\u0000"'),
    ],
)
def test_data_arrives_to_the_byte(data: bytes) -> None:
    body = Standard("demo").body(dataclasses.replace(EVENT, data=data))

    assert b'"data":' + data + b',"timestamp"' in body


def test_base64_is_of_the_datas_bytes() -> None:
    body = Standard("demo", base64=True).body(EVENT)

    assert base64.b64decode(json.loads(body)["data"]) == EVENT.data


@pytest.mark.parametrize("text", ['a"b', "a\\b", "ü", "\n", "</script>", "x" * 1000])
def test_what_callers_name_is_escaped(text: str) -> None:
    event = dataclasses.replace(EVENT, event_id=text, sender=text, date_time=text, server_url=text)

    body = json.loads(Standard(text, server_version=text).body(event))

    assert {body["id"], body["sender"], body["timestamp"], body["instance"]} == {text}
    assert body["server"] == {"version": text, "url": text}


def test_what_is_absent_has_its_default() -> None:
    event = dataclasses.replace(EVENT, sender=None, date_time=None, server_url=None)

    body = json.loads(Standard("demo", server_version="1", server_url="https://me").body(event))

    assert body["sender"] is None
    assert body["timestamp"] == "2023-11-14T22:13:20.123Z"
    assert body["server"]["url"] == "https://me"


def test_one_events_sender_and_server_are_not_the_nexts() -> None:
    form = Standard("demo", server_version="1", server_url="https://me")
    first = dataclasses.replace(EVENT, sender="a", server_url="https://other")
    second = dataclasses.replace(EVENT, sender="b", server_url=None)

    bodies = [json.loads(form.body(one)) for one in (first, second, first)]

    assert [one["sender"] for one in bodies] == ["a", "b", "a"]
    assert [one["server"]["url"] for one in bodies] == [
        "https://other",
        "https://me",
        "https://other",
    ]


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1_700_000_000.0, "2023-11-14T22:13:20.000Z"),
        (1_700_000_000.999, "2023-11-14T22:13:20.999Z"),
        (1_700_000_000.007, "2023-11-14T22:13:20.007Z"),
        (1_769_860_800.5, "2026-01-31T12:00:00.500Z"),
    ],
)
def test_the_time_of_acceptance_is_utc_with_milliseconds(at: float, text: str) -> None:
    assert utc(at) == text


@pytest.mark.parametrize(
    ("url", "joined"),
    [
        ("https://h", "https://h/messages_upsert"),
        ("https://h/", "https://h/messages_upsert"),
        ("https://h/hook", "https://h/hook/messages_upsert"),
        ("https://h/hook/", "https://h/hook/messages_upsert"),
        ("https://h/hook//", "https://h/hook/messages_upsert"),
        ("https://h/hook?a=1&b=/c/", "https://h/hook/messages_upsert?a=1&b=/c/"),
        ("https://h?a=1", "https://h/messages_upsert?a=1"),
        ("https://h/a%2Fb?x=%20#part", "https://h/a%2Fb/messages_upsert?x=%20"),
        ("http://u:p@h:81/x", "http://u:p@h:81/x/messages_upsert"),
        ("http://[::1]:81/x", "http://[::1]:81/x/messages_upsert"),
    ],
)
def test_an_event_goes_below_the_urls_path(url: str, joined: str) -> None:
    assert with_path(url, Standard("demo").path("MESSAGES_UPSERT")) == joined


def test_the_default_format_is_there() -> None:
    assert FORMATS["standard"] is Standard


@pytest.mark.parametrize("mark", ["test", "replay"])
def test_what_is_marked_says_so_and_nothing_else_does(mark: str) -> None:
    marked = json.loads(Standard("demo").body(dataclasses.replace(EVENT, mark=mark)))
    plain = json.loads(Standard("demo").body(EVENT))

    assert marked == {**plain, mark: True}
