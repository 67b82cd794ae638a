"""Whatever is sent: taken or refused by a rule that is told, never a defect, and what was taken
comes back as it was."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evoflask.ids import EVENT_ID, NAME
from tests.web.conftest import GLOBAL, Dump, Request

# One application, database and Redis for all examples of a test: each says what it needs.
held = settings(
    max_examples=150,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

ODD = st.sampled_from(
    [
        "\x00",
        "\u202e",
        "\ufeff",
        "\U0001f600",
        "e\u0301",
        "\u0130",
        "\u2028",
        "'",
        '"',
        "%2e",
        "..",
        "\\",
    ]
)
TEXT = st.one_of(
    st.text(max_size=120),
    st.lists(st.one_of(ODD, st.text(max_size=3)), max_size=8).map("".join),
    st.from_regex(NAME, fullmatch=True),
)
NUMBERS = st.one_of(
    st.integers(),
    st.integers(-(10**400), 10**400),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([-0.0, 1e308, 5e-324, 2**53 + 1, -(2**63), 2**64]),
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=20), ODD),
    lambda below: st.one_of(
        st.lists(below, max_size=4), st.dictionaries(st.text(max_size=8), below, max_size=4)
    ),
    max_leaves=12,
)


def clean(text: str) -> bool:
    """Whether it can be sent at all: half a surrogate pair has no bytes."""
    return text.isascii() or not any(0xD800 <= ord(each) <= 0xDFFF for each in text)


@held
@given(name=TEXT)
def test_a_name_is_taken_exactly_where_the_rule_says_so(
    call: Request, dump: Dump, name: str
) -> None:
    before = dump()

    answer = call("POST", "/instance/create", {"instanceName": name})

    if NAME.fullmatch(name):
        assert answer.status_code in (201, 403), answer.json  # 403: drawn twice
        found = call("GET", "/instance/fetchInstances").json
        assert name in [row["name"] for row in found]
    else:
        assert answer.status_code == 400
        assert dump() == before


@held
@given(
    secret=st.one_of(
        TEXT, st.binary(max_size=80).map(lambda key: "whsec_" + base64.b64encode(key).decode())
    )
)
def test_a_secret_is_taken_exactly_where_it_is_base64_of_24_to_64_bytes(
    call: Request, instance: str, secret: str
) -> None:
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    good = secret.startswith("whsec_") and 24 <= len(key) <= 64

    answer = call("POST", "/webhook/set/a", {"webhook": {"secret": secret}})

    assert answer.status_code == (201 if good else 400), answer.json


@held
@given(data=JSON, sender=TEXT)
def test_what_was_taken_comes_back_to_the_byte(
    client: FlaskClient, instance: str, data: Any, sender: str
) -> None:
    sent = json.dumps(data, ensure_ascii=False)
    if not clean(sent):
        return
    body = f'{{"event": "call", "data": {sent}, "sender": {json.dumps(sender)}}}'.encode()

    answer = client.post(
        "/event/emit/a", data=body, content_type="application/json", headers=GLOBAL
    )

    if not sender.isprintable():
        assert answer.status_code == 400
        return
    assert answer.status_code == 202, answer.json
    assert answer.json is not None
    found = client.get(f"/event/a/{answer.json['id']}", headers=GLOBAL)
    assert b'"data":' + sent.encode() + b',"timestamp"' in found.data
    assert found.json is not None
    assert found.json["sender"] == sender


@held
@given(
    path=st.one_of(TEXT, st.lists(TEXT, max_size=3).map(lambda names: ".".join(["data", *names])))
)
def test_whatever_orders_events_they_are_taken(call: Request, instance: str, path: str) -> None:
    call("POST", "/webhook/set/a", {"webhook": {"orderBy": path}})

    answer = call("POST", "/event/emit/a", {"event": "call", "data": {"a": {"b": 1}}})

    assert answer.status_code == 202, answer.json


@held
@given(event_id=TEXT.filter(clean))
def test_an_id_is_taken_exactly_where_the_rule_says_so_and_finds_its_event(
    call: Request, instance: str, event_id: str
) -> None:
    answer = call("POST", "/event/emit/a", {"event": "call", "data": 1, "id": event_id})

    assert (answer.status_code in (200, 202)) == bool(EVENT_ID.fullmatch(event_id)), answer.json


@held
@given(depth=st.integers(1, 3_000), kind=st.sampled_from(["[", '{"a":']), route=st.integers(0, 2))
def test_a_nest_is_taken_or_refused_and_never_a_defect(
    client: FlaskClient, instance: str, depth: int, kind: str, route: int
) -> None:
    nest = kind * depth + "1" + {"[": "]", '{"a":': "}"}[kind] * depth
    path, body = [
        ("/event/emit/a", f'{{"event": "call", "data": {nest}}}'),
        ("/webhook/set/a", f'{{"webhook": {nest}}}'),
        ("/instance/create", nest),
    ][route]

    answer = client.post(path, data=body, content_type="application/json", headers=GLOBAL)

    assert answer.status_code in (201, 202, 400), answer.json


@held
@given(value=NUMBERS, field=st.sampled_from(["timeout", "concurrency", "retry", "giveUpOn"]))
def test_a_number_is_taken_exactly_where_the_rule_says_so(
    call: Request, instance: str, value: float, field: str
) -> None:
    def within(low: float, high: float) -> bool:
        return low <= value <= high

    good = {
        "timeout": within(1, 60),
        "concurrency": within(1, 64) and value == int(value),
        "retry": within(0, 604_800),
        "giveUpOn": within(300, 999) and value == int(value),
    }[field]
    listed = field in ("retry", "giveUpOn")
    given_ = [value] if listed else value

    answer = call("POST", "/webhook/set/a", {"webhook": {field: given_}})

    assert answer.status_code == (201 if good else 400), answer.json
    if good:
        shown = (answer.json or {})[field]
        shown = shown[0] if listed else shown
        assert math.isclose(shown, value)


GOOD = b'{"event": "call", "data": 1}'
LINES = st.lists(
    st.one_of(
        st.just(GOOD), st.just(b""), st.binary(max_size=40), JSON.map(json.dumps).map(str.encode)
    ),
    max_size=8,
)


@held
@given(lines=LINES, end=st.sampled_from([b"\n", b"\r\n"]))
def test_each_line_of_ndjson_stands_for_itself(
    client: FlaskClient, instance: str, lines: list[bytes], end: bytes
) -> None:
    body = end.join(lines)
    asked = [line for line in body.split(b"\n") if line.strip()]

    answer = client.post(
        "/event/emit/a", data=body, content_type="application/x-ndjson", headers=GLOBAL
    )

    assert answer.status_code in (202, 400), answer.json
    results = (answer.json or {})["results"]
    assert len(results) == len(asked)
    good = ["status" not in row for row in results]
    assert good == [line.strip() == GOOD for line in asked]


@held
@given(
    pairs=st.lists(
        st.tuples(
            st.sampled_from(["event", "data", "id", "sender", "integration"]),
            st.sampled_from(['"call"', "null", "1", '{"a": 1, "a": 2}', "[]"]),
        ),
        max_size=6,
    )
)
def test_a_key_that_is_there_twice_is_refused_but_inside_data(
    client: FlaskClient, instance: str, pairs: list[tuple[str, str]]
) -> None:
    names = [name for name, _ in pairs]
    body = "{" + ", ".join(f'"{name}": {value}' for name, value in pairs) + "}"

    answer = client.post(
        "/event/emit/a", data=body, content_type="application/json", headers=GLOBAL
    )

    assert answer.status_code in (200, 202, 400), answer.json
    if len(set(names)) != len(names):
        assert answer.status_code == 400, body


@held
@given(data=st.one_of(st.binary(max_size=200), TEXT.filter(clean).map(str.encode)))
@pytest.mark.parametrize(
    "path", ["/event/emit/a", "/webhook/set/a", "/event/set/a", "/instance/create", "/replay"]
)
def test_bytes_that_are_no_json_are_refused_and_change_nothing(
    client: FlaskClient, instance: str, dump: Callable[[], object], path: str, data: bytes
) -> None:
    before = dump()

    answer = client.post(path, data=data, content_type="application/json", headers=GLOBAL)

    assert answer.status_code == 400, (data, answer.json)
    assert dump() == before
