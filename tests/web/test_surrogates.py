"""Halves of surrogate pairs, which `JSON.stringify` writes for half an emoji.

In `data` they stay as they are. One bad element never affects the others of its array.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from evoflask import envelope
from evoflask.errors import BadInput
from evoflask.outbox import Outbox
from tests.web import steps
from tests.web.conftest import GLOBAL, Request
from tests.web.test_emit import NDJSON, Entries, entries

__all__ = ["entries"]
EMIT = "/event/emit/a"
Post = Callable[..., Any]

HALVES = [
    rb'"\ud83d"',
    rb'"\uDC00"',
    rb'"\ud83d\ud83d\ude00"',
    rb'"\ude00\ud83d"',
    rb'"\\\ud83d \\ud83d \\\\\udfff"',
    rb'{"\ud83d": {"a": ["\udbff\u0041", "\ud83d\n"]}}',
    rb'[ "\uDBFF" , 1.0, {"a":1,"a":2} ]',
    '{"é": "\\ud83d ü 🎉 \\ud83d\\ude00"}'.encode(),
]


@pytest.fixture
def post(client: FlaskClient, instance: str) -> Post:
    def send(body: bytes, content_type: str = "application/json") -> Any:
        return client.post(EMIT, data=body, content_type=content_type, headers=GLOBAL)

    return send


def event(data: bytes, more: bytes = b"") -> bytes:
    return b'{"event":"CALL","data":' + data + more + b"}"


@pytest.mark.parametrize("data", HALVES, ids=str)
@pytest.mark.parametrize("how", ["alone", "array", "lines"])
def test_half_a_surrogate_pair_in_data_is_kept_to_the_byte(
    post: Post, entries: Entries, data: bytes, how: str
) -> None:
    one = event(data, rb', "sender": "\ud83d\ude00 x", "later": {"\ud83d": "\udc00"}')
    bodies = {"alone": one, "array": b" [ " + one + b" , " + event(b"2") + b" ] ", "lines": one}

    answer = post(bodies[how], NDJSON if how == "lines" else "application/json")

    assert answer.status_code == 202, answer.json
    kept = entries()
    assert kept[0]["data"].encode() == data
    assert json.loads(kept[0]["meta"]) == {"sender": "\U0001f600 x"}
    assert [each["data"] for each in kept[1:]] == (["2"] if how == "array" else [])


BAD = {
    "half a pair in a field": rb'{"event":"CALL","data":1,"id":"\ud83d"}',
    "no utf-8": b'{"event":"CALL","data":"\xff"}',
    "too deep": b'{"event":"CALL","data":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "a text": b'"CALL"',
    "null": b"null",
    "a list": b'[{"event":"CALL","data":1}]',
    "no such event": rb'{"event":"\ud83d","data":"\ud83d"}',
    "a key twice": rb'{"event":"CALL","data":"\ud83d","data":2}',
    "no data": rb'{"event":"CALL","x":"\ud83d"}',
}


@pytest.mark.parametrize("how", ["array", "lines"])
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_bad_element_is_refused_alone(post: Post, entries: Entries, bad: bytes, how: str) -> None:
    many = [event(rb'"\ud83d"'), bad, event('"]é["'.encode())]

    if how == "lines":
        answer = post(b"\n".join(many), NDJSON)
    else:
        answer = post(b"[" + b" ,\n".join(many) + b"]")

    body = answer.get_json()
    assert answer.status_code == 202, body
    assert (body["accepted"], body["rejected"]) == (2, 1)
    assert [row.get("status") for row in body["results"]] == [None, 400, None]
    assert [each["data"] for each in entries()] == [r'"\ud83d"', '"]é["']


@pytest.mark.parametrize(
    ("bad", "place"),
    [
        (b'{"event":"CALL","data":NaN}', "(byte 54), in element 1 (the first is 0)"),
        (b'{"event":"CALL","data":"', "in element 1"),
        (b'{"event":"CALL" "data":1}', "in element 1"),
        (b"", "in element 1"),
        (rb'"\ud83d", [1,2], "]" x', "in element 3"),
    ],
)
def test_an_element_that_is_malformed_makes_the_array_none_and_the_answer_says_where(
    post: Post, entries: Entries, bad: bytes, place: str
) -> None:
    answer = post(b"[" + event(b"[1,2]") + b"," + bad + b"," + event(b"3") + b"]")

    assert answer.status_code == 400
    (sentence,) = answer.get_json()["response"]["message"]
    assert sentence.startswith("The body is not JSON: ")
    assert place in sentence
    assert entries() == []


def test_an_event_with_half_a_pair_comes_back_everywhere_it_is_shown(
    call: Request, application: Flask, post: Post, outbox: Outbox
) -> None:
    data = rb'{"key":{"remoteJid":"5@x"},"text":"\ud83d"}'
    assert post(event(data, b',"id":"half"')).status_code == 202
    shown = call("GET", "/event/a/half")

    steps.kill(outbox)
    runner = application.test_cli_runner()
    explained = runner.invoke(args=["explain", "a", "half"])
    letters = call("GET", "/deadletter?instance=a").get_json()
    number = letters["letters"][0]["id"]
    letter = call("GET", f"/deadletter/{number}")
    requeued = call("POST", f"/deadletter/{number}/requeue")

    assert data in shown.data
    assert explained.exit_code == 0, explained.output
    assert data in letter.data
    assert requeued.status_code == 200
    assert data in call("GET", "/event/a/half").data


def test_a_text_of_python_with_half_a_pair_is_kept(
    application: Flask, instance: str, entries: Entries
) -> None:
    manager = application.extensions["evoflask"].manager

    manager.emit("a", "CALL", {"text": "\ud83d", "n": [1, None]})

    assert entries()[0]["data"] == r'{"text":"\ud83d","n":[1,null]}'


def test_the_command_takes_half_a_pair(application: Flask, instance: str, entries: Entries) -> None:
    done = application.test_cli_runner().invoke(args=["emit", "a", "CALL", r' "\ud83d" '])

    assert done.exit_code == 0, done.output
    assert entries()[0]["data"] == r'"\ud83d"'


TEXTS = st.text(
    st.one_of(
        st.characters(max_codepoint=0x7F),
        st.integers(0xD7F0, 0xE00F).map(chr),
        st.sampled_from(["\\", '"', "é", "\U0001f600", "u", "d"]),
    ),
    max_size=12,
)
VALUES = st.recursive(
    TEXTS | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(values=st.lists(VALUES, min_size=1, max_size=5), spaces=st.sampled_from([None, 1]))
def test_what_json_writes_is_read_back_to_the_byte(values: list[Any], spaces: int | None) -> None:
    written = [json.dumps(value, indent=spaces).encode() for value in values]
    fields = b', "x\\ud83d": "\\udc00", "id" : "mine"'
    bodies = [event(each, fields) for each in written]

    elements = envelope.split(b"[" + b" , ".join(bodies) + b"]")

    assert elements == bodies
    assert [envelope.parse(each).data for each in elements] == written


@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
@example(text="\ud800\udc00")
def test_a_field_of_an_envelope_has_no_half_of_a_pair(text: str) -> None:
    body = event(rb'"\ud83d"', b', "sender": ' + json.dumps(text).encode())
    read = json.loads(json.dumps(text))  # two halves side by side are a character
    whole = not any(0xD800 <= ord(c) <= 0xDFFF for c in read)

    if whole and read.isprintable():
        assert json.loads(envelope.parse(body).meta) == {"sender": read}
    else:
        with pytest.raises(BadInput, match="sender: "):
            envelope.parse(body)
