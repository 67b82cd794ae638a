"""What is said on a websocket: pure words, no socket."""

from __future__ import annotations

import json

import pytest
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import TextMessage

from evoflask.gateway import protocol
from evoflask.gateway.protocol import Cursor, Fault, Join, Leave, Writer, parse, parse_cursor
from evoflask.outbox.feed import Entry

CURSOR = Cursor("0123456789abcdef", (1_700_000_000_123, 4), 17)


def payload(frame: bytes) -> bytes:
    """As a client of another make reads it."""
    reader = Connection(ConnectionType.CLIENT)
    reader.receive_data(frame)
    parts = list(reader.events())
    assert all(isinstance(part, TextMessage) for part in parts)
    return "".join(part.data for part in parts).encode()  # type: ignore[attr-defined]


def test_an_action_is_read() -> None:
    assert parse('{"action": "join-instance", "instance": "a"}') == Join("a")
    assert parse('{"action": "leave-instance", "instance": "a", "x": 1}') == Leave("a")
    assert parse('{"action": "join-instance", "instance": "*"}') == Join("*")
    after = json.dumps({"action": "join-instance", "instance": "a", "after": str(CURSOR)})
    assert parse(after) == Join("a", CURSOR)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (b"\x00\xff", "binary"),
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 4000, "not JSON"),
        ("[]", "JSON object"),
        ("null", "JSON object"),
        ("{}", "action:"),
        ('{"action": "join"}', "action:"),
        ('{"action": ["join-instance"], "instance": "a"}', "action:"),
        ('{"action": "join-instance"}', "instance:"),
        ('{"action": "join-instance", "instance": 7}', "instance:"),
        ('{"action": "join-instance", "instance": "../a"}', "instance:"),
        ('{"action": "join-instance", "instance": ""}', "instance:"),
        ('{"action": "join-instance", "instance": "a", "after": 7}', "after:"),
        ('{"action": "join-instance", "instance": "a", "after": "7-1"}', "after:"),
        (
            '{"action": "join-instance", "instance": "a", "after": "x.1-1.99999999999999999"}',
            "after:",
        ),
        (f'{{"action": "join-instance", "instance": "*", "after": "{CURSOR}"}}', "live only"),
    ],
)
def test_a_bad_message_is_answered_by_a_sentence(said: str | bytes, sentence: str) -> None:
    found = parse(said)

    assert isinstance(found, Fault)
    assert found.code == 400
    assert sentence in found.message
    assert json.loads(payload(protocol.fault(found)))["message"] == [found.message]


def test_a_cursor_survives_its_way_through_a_client() -> None:
    assert parse_cursor(str(CURSOR)) == CURSOR


@pytest.mark.parametrize("size", [1, 125 - 2, 126 - 2, 65535 - 2, 65536 - 2, 200_000])
def test_a_frame_of_any_length_is_read_by_another_implementation(size: int) -> None:
    text = json.dumps("x" * size).encode()

    assert payload(protocol.frame(text)) == text


def test_an_event_carries_its_data_to_the_byte() -> None:
    data = b'{"b":1e400,  "a" : "\\u00e9\xc3\xa9", "n": 123456789012345678901234567890}'
    meta = b'{"sender":"5511@s","dateTime":"2026-01-31"}'
    entry = Entry(CURSOR.id, CURSOR.number, "id-1", "MESSAGES_UPSERT", 1.5, meta, data)

    message = payload(Writer("a", CURSOR.outbox).event(entry))

    assert data in message
    assert message.startswith(b'{"type":"evolution-event","cursor":"')
    whole = json.loads(message.replace(b"1e400", b"1"))
    assert whole.pop("data")["n"] == 123456789012345678901234567890
    assert whole == {
        "type": "evolution-event",
        "cursor": str(CURSOR),
        "id": "id-1",
        "event": "MESSAGES_UPSERT",
        "instance": "a",
        "timestamp": "2026-01-31",
        "sender": "5511@s",
    }


def test_a_gap_tells_what_is_known_of_it() -> None:
    until = Cursor(CURSOR.outbox, (1_700_000_009_000, 0), 40)

    told = json.loads(payload(protocol.gap("a", CURSOR, 23, "they left retention", until)))

    assert told == {
        "type": "gap",
        "instance": "a",
        "after": str(CURSOR),
        "missed": 23,
        "since": "2023-11-14T22:13:20.123Z",
        "reason": "they left retention",
        "cursor": str(until),
    }
