"""An emit's envelope, and the order key that is picked out of its data."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from evoflask import envelope
from evoflask.envelope import Event
from evoflask.errors import BadInput


def parsed(data: str, **more: object) -> Event:
    rest = "".join(f", {json.dumps(k)}: {json.dumps(v)}" for k, v in more.items())
    return envelope.parse(f'{{"event": "CALL", "data": {data}{rest}}}'.encode())


@pytest.mark.parametrize(
    "data",
    [
        "null",
        "true",
        "-0.0",
        "1E+2",
        '"\\u00e9\\ud83d\\ude00"',
        "[ ]",
        '{"a" :1 , "a":2}',
        '{"event":1,"event":2}',
    ],
)
def test_data_stays_as_it_was_given_to_the_byte(data: str) -> None:
    assert parsed(data).data == data.encode()


def test_an_event_without_an_id_gets_one_and_one_with_an_id_keeps_it() -> None:
    ours, theirs = parsed("1"), parsed("1", id="~!x")

    assert (ours.given, theirs.given) == (False, True)
    assert len(ours.id) == 36
    assert theirs.id == "~!x"


def test_what_is_said_beside_the_data_is_kept_where_it_was_said() -> None:
    assert json.loads(parsed("1").meta) == {}
    assert json.loads(parsed("1", sender="s", origin=None).meta) == {"sender": "s"}


@pytest.mark.parametrize(
    ("more", "local", "integration"),
    [
        ({}, True, None),
        ({"local": False}, False, None),
        ({"local": True, "integration": None}, True, None),
        ({"integration": []}, True, frozenset()),
        ({"integration": ["sqs", "sqs"]}, True, frozenset({"sqs"})),
    ],
    ids=str,
)
def test_restrictions_are_read_as_given(
    more: dict[str, object], local: bool, integration: frozenset[str] | None
) -> None:
    event = parsed("1", **more)

    assert (event.local, event.integration) == (local, integration)


@pytest.mark.parametrize("deep", [60, 500])
def test_deep_data_is_kept_as_it_was_given(deep: int) -> None:
    data = "[" * deep + "]" * deep

    assert parsed(data).data == data.encode()


@pytest.mark.parametrize("deep", [2_000, 20_000, 200_000])
def test_data_that_is_too_deep_to_read_is_bad_input(deep: int) -> None:
    with pytest.raises(BadInput, match="too deep"):
        parsed("[" * deep + "]" * deep)


@pytest.mark.parametrize(
    "body",
    [
        '{"event": "CALL", "event": "CALL", "data": 1}',
        '{"data": {"a": 1}, "event": "CALL", "data": {"b": 1}}',
        '{"event": "CALL", "data": ' + '"' + "x" * 200 + '"' + ', "sender": "a", "sender": "b"}',
        '{"event": "CALL", "\\u0065vent": "CALL", "data": 1}',
    ],
)
def test_a_key_of_the_envelope_that_is_there_twice_is_refused(body: str) -> None:
    with pytest.raises(BadInput, match="twice"):
        envelope.parse(body.encode())


@pytest.mark.parametrize(
    "data",
    [
        '{"event": 1, "event": 2}',
        '{"event": 1, "event": 2, "filler": "' + "x" * 100 + '"}',
        '[{"data": 1, "data": 2}]',
    ],
)
def test_what_data_holds_twice_is_the_callers_own_affair(data: str) -> None:
    assert parsed(data).data == data.encode()


def test_an_array_is_split_without_parsing_its_elements() -> None:
    assert envelope.split(b' [ {"a" : 1} ,2, "x"] ') == [b'{"a" : 1}', b"2", b'"x"']


def test_python_values_make_the_event_that_their_body_would() -> None:
    event = envelope.of({"event": "call", "data": {"é": [1]}, "id": "x", "sender": None})

    assert (event.name, event.id, json.loads(event.data)) == ("CALL", "x", {"é": [1]})


def test_python_values_that_are_no_json_are_bad_input() -> None:
    with pytest.raises(BadInput, match="data: is not JSON"):
        envelope.of({"event": "CALL", "data": {1, 2}})


@pytest.mark.parametrize(
    "rest",
    [
        b",".join(b'"x%d":1' % n for n in range(1_000_000)),
        b'"extra":[' + b",".join([b"[]"] * 1_000_000) + b"]",
        b'"x":"\\ud83d",' + b",".join(b'"x%d":1' % n for n in range(1_000_000)),
    ],
    ids=["unknown fields", "a gateway's field", "half a pair"],
)
def test_a_body_with_a_million_values_beside_data_takes_no_more_than_a_few_times_its_bytes(
    rest: bytes,
) -> None:
    body = b'{"event": "CALL", "data": 1,' + rest + b"}"

    tracemalloc.start()
    with pytest.raises(BadInput, match="more than 100,000 values beside data"):
        envelope.parse(body)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 4 * len(body)


def test_large_values_beside_data_and_many_within_are_taken() -> None:
    many = b"[" + b",".join([b"1"] * 300_000) + b"]"
    body = b'{"event": "CALL", "extra": "' + b"x" * 1_000_000 + b'", "data": ' + many + b"}"

    assert envelope.parse(body).data == many
