"""Bad emits: each a clear 4xx in the one shape, and nothing changed."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.web.conftest import GLOBAL, Dump

JSON = "application/json"
NDJSON = "application/x-ndjson"
EMIT = "/event/emit/a"
GOOD = {"event": "CALL", "data": {}}
DEEP = 20_000
NOBODY = "/event/emit/nobody"
FORM = "application/x-www-form-urlencoded"
LONG = b'{"event": "CALL", "data": "' + b"x" * 70_000 + b'"}'
TWICE = b'{"event":"CALL","d\\u0061ta":1,"data":2}'
ARRAY_LINE = b'[{"event":"CALL","data":1}]\n'
NONE = "None of the events"
BOM = b"\xef\xbb\xbf"
BODY = b'{"event": "CALL", "data": 1}'
GZIP = gzip.compress(BODY)


@dataclass(frozen=True)
class Case:
    """A request, and words that its answer must have."""

    name: str
    body: Any
    says: str
    status: int = 400
    path: str = EMIT
    method: str = "POST"
    content_type: str = JSON
    headers: dict[str, str] = field(default_factory=dict)


def raw(name: str, body: bytes, says: str, status: int = 400, **how: Any) -> Case:
    return Case(f"raw {name}", body, says, status, **how)


def packed(name: str, coding: str, body: bytes, says: str, status: int = 400) -> Case:
    return raw(f"packed {name}", body, says, status, headers={"Content-Encoding": coding})


def event(name: str, change: dict[str, Any], says: str) -> Case:
    return Case(f"field {name}", GOOD | change, says)


def given(name: str, value: Any) -> Case:
    return event(f"id {name}", {"id": value}, "id: ")


CASES = [
    # the body as a whole
    raw("empty", b"", "The body is empty"),
    raw("gzip unsaid", gzip.compress(b"{}"), "Content-Encoding: gzip"),
    raw("white space", b" \r\n ", "The body is empty"),
    raw("truncated", b'{"event": "CALL", "data": {"a"', "The body is not JSON"),
    raw("truncated array", b'[{"event": "CALL", "data": 1}', "The body is not JSON"),
    raw("a string", b'"CALL"', "The body must be a JSON object"),
    raw("a number", b"1", "The body must be a JSON object"),
    raw("null", b"null", "The body must be a JSON object"),
    raw("NaN", b'{"event": "CALL", "data": NaN}', "The body is not JSON"),
    raw("Infinity", b'{"event": "CALL", "data": -Infinity}', "The body is not JSON"),
    raw("two documents", b'{"event": "CALL", "data": 1} {}', "The body is not JSON"),
    raw("a comma too many", b'{"event": "CALL", "data": 1,}', "The body is not JSON"),
    raw("a comment", b'{"event": "CALL", /* */ "data": 1}', "The body is not JSON"),
    raw("a leading zero", b'{"event": "CALL", "data": 01}', "The body is not JSON"),
    raw("single quotes", b"{'event': 'CALL', 'data': 1}", "The body is not JSON"),
    raw("a line break in a string", b'{"event": "CALL", "data": "a\nb"}', "The body is not JSON"),
    raw("brackets", b"[" * DEEP, "nested"),
    raw("closed brackets", b"[" * DEEP + b"]" * DEEP, "nested"),
    raw("deep data", b'{"event":"CALL","data":' + b"[" * DEEP + b"]" * DEEP + b"}", "nested"),
    raw("braces", b'{"":' * 5_000 + b"1" + b"}" * 5_000, ""),
    raw("latin-1", '{"event": "CALL", "data": "é"}'.encode("latin-1"), "not UTF-8"),
    raw("utf-16", '{"event": "CALL", "data": 1}'.encode("utf-16"), "not UTF-8"),
    raw("two byte order marks", BOM * 2 + b'{"event": "CALL", "data": 1}', "The body is not JSON"),
    raw("a byte order mark alone", BOM, "The body is empty"),
    raw("a space and a byte order mark", b" " + BOM + b'{"event":"CALL","data":1}', "not JSON"),
    raw("half a byte order mark", BOM[:2], "not UTF-8"),
    raw("half an escape", b'{"event": "CALL", "data": "\\ud8"}', "The body is not JSON"),
    raw("an escape of no digits", b'{"event": "CALL", "data": "\\udxyz"}', "The body is not JSON"),
    raw("half an escape's end", b'{"event": "CALL", "data": "\\ud83d', "The body is not JSON"),
    raw("half a pair, data twice", b'{"event":"CALL","data":"\\ud83d","data":1}', "twice"),
    raw("overlong utf-8", b'{"event": "CALL", "data": "\xc0\xaf"}', "not UTF-8"),
    raw("surrogate bytes", b'{"event": "CALL", "data": "\xed\xa0\x80"}', "not UTF-8"),
    raw("a key twice", b'{"event": "CALL", "event": "CALL", "data": 1}', 'the key "event" twice'),
    raw("data twice", b'{"event": "CALL", "data": 1, "data": 2}', 'the key "data" twice'),
    raw("an escaped key twice", TWICE, 'the key "data" twice'),
    raw("local twice", b'{"local":true,"event":"CALL","data":{},"local":false}', "twice"),
    raw("oversized", LONG, "larger than", status=413),
    raw("oversized lines", b"x" * 70_000, "larger than", status=413, content_type=NDJSON),
    raw("too many", b"[" + b"1," * 60 + b"1]", "more than 50 events", status=413),
    # types and encodings
    raw("no type", b'{"event": "CALL", "data": 1}', "Content-Type must be", 415, content_type=""),
    raw("text", b'{"event": "CALL", "data": 1}', "Content-Type must be", 415,
        content_type="text/plain"),
    raw("a form", b"event=CALL", "Content-Type must be", 415, content_type=FORM),
    raw("another charset", b"{}", "must be UTF-8", 415,
        content_type="application/json; charset=utf-16"),
    packed("brotli", "br", b"{}", "Send the body as it is, or as gzip or deflate.", 415),
    packed("an unknown one beside gzip", "gzip, zstd", b"{}", "'zstd' is not supported", 415),
    packed("three", "gzip, gzip, gzip", b"{}", "more than 2 codings", 415),
    packed("no gzip", "gzip", b'{"event": "CALL", "data": 1}', "is not a gzip stream"),
    packed("nothing", "gzip", b"", "ended too early"),
    packed("half a gzip head", "gzip", b"\x1f", "ended too early"),
    packed("a cut gzip stream", "gzip", GZIP[:-5], "ended too early"),
    packed("a corrupt gzip stream", "gzip", GZIP[:-6] + b"\0" + GZIP[-5:], "is corrupt"),
    packed("behind gzip", "gzip", GZIP + b"more", "is corrupt"),
    packed("behind deflate", "deflate", zlib.compress(BODY) + b"more", "bytes behind the end"),
    packed("a cut deflate stream", "deflate", zlib.compress(BODY)[:-1], "ended too early"),
    packed("a bomb", "gzip", gzip.compress(b" " * 20_000_000), "larger than 65536 bytes", 413),
    packed("a bomb in a bomb", "gzip, gzip", gzip.compress(gzip.compress(b" " * 9_000_000)),
           "larger than 65536 bytes", 413),
    packed("bad JSON", "gzip", gzip.compress(b"{"), "The body is not JSON"),
    # halves of surrogate pairs
    given("half a pair", "\ud83d"),
    event("sender half a pair", {"sender": "a\ud83d"}, "sender: Has half of a surrogate pair"),
    event("event half a pair", {"event": "\udc00"}, "event: Has half of a surrogate pair"),
    event("origin half a pair", {"origin": "\ud83dx"}, "origin: Has half of a surrogate pair"),
    event("integration half a pair", {"integration": ["\ud83d"]}, "integration: Has half"),
    # fields
    event("event missing", {"event": None}, "event: "),
    event("event a number", {"event": 1}, "event: "),
    event("event a list", {"event": ["CALL"]}, "event: "),
    event("event unknown", {"event": "NOPE"}, "NOPE\" is not an event"),
    event("event empty", {"event": ""}, "is not an event"),
    event("event with space", {"event": "CALL "}, "is not an event"),
    event("event with control", {"event": "CALL\x00\n"}, "is not an event"),
    event("event of another alphabet", {"event": "CΑLL"}, "is not an event"),
    event("event huge", {"event": "C" * 50_000}, "is not an event"),
    Case("field data missing", {"event": "CALL"}, "data: Missing data for required field."),
    Case("field both missing", {}, "Missing data for required field."),
    given("empty", ""),
    given("a number", 7),
    given("with space", "a b"),
    given("with a line break", "a\r\nb"),
    given("with a null", "a\x00"),
    given("beyond ascii", "é"),
    given("too long", "x" * 129),
    given("a list", ["x"]),
    event("sender a number", {"sender": 1}, "sender: "),
    event("sender too long", {"sender": "x" * 257}, "sender: Must be at most"),
    event("sender with a line break", {"sender": "a\r\nX-Evil: 1"}, "sender: Must be at most"),
    event("dateTime a number", {"dateTime": 1}, "dateTime: "),
    event("dateTime too long", {"dateTime": "9" * 65}, "dateTime: Must be at most"),
    event("serverUrl too long", {"serverUrl": "x" * 2049}, "serverUrl: Must be at most"),
    event("origin with control", {"origin": "\x1b[2J"}, "origin: Must be at most"),
    event("apiKey too long", {"apiKey": "x" * 513}, "apiKey: Must be at most"),
    event("local a string", {"local": "false"}, "local: "),
    event("local a number", {"local": 0}, "local: "),
    event("integration a string", {"integration": "webhook"}, "integration: "),
    event("integration unknown", {"integration": ["fax"]}, "'fax' is no sink"),
    event("integration of numbers", {"integration": [1]}, "integration"),
    # slips: fields that only one of ours can mean
    event("sendr", {"sendr": "me"}, 'sendr: Unknown field; did you mean "sender"?'),
    event("datetime", {"datetime": "x"}, 'datetime: Unknown field; did you mean "dateTime"?'),
    event("serverURL", {"serverURL": "x"}, 'serverURL: Unknown field; did you mean "serverUrl"?'),
    event("ID", {"ID": "one"}, 'ID: Unknown field; did you mean "id"?'),
    event("locla", {"locla": False}, 'locla: Unknown field; did you mean "local"?'),
    event("intergrations", {"intergrations": []}, 'did you mean "integration"?'),
    event("a slip beside half a pair", {"orign": "x", "data": "\ud83d"}, 'mean "origin"?'),
    Case("field evnt alone", {"evnt": "CALL", "data": 1}, 'did you mean "event"?'),
    raw("a slip before a wrong type", b'{"sendr":1,"event":2,"data":3}', 'did you mean "sender"?'),
    raw("an unknown field and no JSON", b'{"event":"CALL","x":1,"data":', "The body is not JSON"),
    raw("an unknown field and data twice", b'{"x":1,"event":"CALL","data":1,"data":2}', "twice"),
    Case("array of slips", [GOOD | {"sendr": 1}], NONE),
    # batches of nothing good
    Case("array of strings", ["CALL"], "None of the events"),
    Case("array of arrays", [[GOOD]], "None of the events"),
    Case("array of null", [None], "None of the events"),
    raw("lines of nonsense", b"a\nb\n{}\n", "None of the events", content_type=NDJSON),
    raw("a line of an array", ARRAY_LINE, NONE, content_type=NDJSON),
    # routes
    Case("unknown instance", GOOD, "does not exist", 404, NOBODY),
    Case("hostile instance", GOOD, "does not exist", 404, "/event/emit/%00%0a"),
    Case("long instance", GOOD, "does not exist", 404, "/event/emit/" + "a" * 3000),
    Case("another case of the name", GOOD, "does not exist", 404, "/event/emit/A"),
    Case("wrong method", GOOD, "Cannot PUT", 405, method="PUT"),
    Case("no key", GOOD, "Unauthorized", 401, headers={"apikey": ""}),
    Case("wrong key", GOOD, "Unauthorized", 401, headers={"apikey": "wrong"}),
    Case("wrong key, bad body", b"x", "Unauthorized", 401, headers={"apikey": "wrong"}),
    Case("wrong key, no instance", GOOD, "Unauthorized", 401, NOBODY, headers={"apikey": "w"}),
]  # fmt: skip


@pytest.fixture
def settings(settings: Callable[..., Any]) -> Callable[..., Any]:
    """Small limits."""
    return lambda **changes: settings(max_body_bytes=65_536, max_batch=50, **changes)


def test_the_table_is_long_enough() -> None:
    assert len(CASES) >= 40
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_bad_emit_is_a_clear_4xx_and_changes_nothing(
    client: FlaskClient, instance: str, dump: Dump, case: Case
) -> None:
    before = dump()

    # Only json writes half of a surrogate pair; the client's own encoder does not.
    body = case.body if isinstance(case.body, bytes) else json.dumps(case.body).encode()
    headers = GLOBAL | case.headers
    answer = client.open(
        case.path, method=case.method, headers=headers, data=body, content_type=case.content_type
    )

    assert answer.status_code == case.status, answer.get_data()
    assert answer.json is not None
    assert answer.json["status"] == case.status
    assert answer.json["error"] == HTTPStatus(case.status).phrase
    sentences = answer.json["response"]["message"]
    assert any(case.says in sentence for sentence in sentences), sentences
    assert len(answer.get_data()) < 8_000
    assert dump() == before


@pytest.mark.parametrize("content_type", [JSON, NDJSON])
def test_an_emit_that_breaks_off_is_400_and_keeps_nothing(
    client: FlaskClient, instance: str, dump: Dump, content_type: str
) -> None:
    before = dump()

    answer = client.post(
        EMIT,
        headers=GLOBAL,
        content_type=content_type,
        input_stream=io.BytesIO(b'{"event": "CALL", "data": {}}'),
        environ_overrides={"CONTENT_LENGTH": "500", "wsgi.input_terminated": True},
    )

    assert answer.status_code == 400
    assert dump() == before
