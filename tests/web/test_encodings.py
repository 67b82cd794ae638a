"""Packed bodies, and bodies with a byte order mark, on every route that takes JSON."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient

from evoflask.errors import BadInput, TooLarge
from evoflask.web import unpacking
from tests.web.conftest import GLOBAL, Request
from tests.web.test_emit import NDJSON, Entries, entries

__all__ = ["entries"]
JSON = "application/json"
BOM = b"\xef\xbb\xbf"


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def in_members(data: bytes) -> bytes:
    return b"".join(gzip.compress(data[n : n + 7]) for n in range(0, len(data), 7))


PACKED: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("X-GZIP", gzip.compress),
    "gzip in members": ("gzip", in_members),
    "zlib": ("deflate", zlib.compress),
    "raw deflate": ("Deflate", raw_deflate),
    "identity": ("identity", bytes),
    "identity and gzip": ("identity, gzip", gzip.compress),
    "deflate, then gzip": ("deflate, gzip", lambda data: gzip.compress(zlib.compress(data))),
    "an empty field": (" , ", bytes),
    "with a byte order mark": ("gzip", lambda data: gzip.compress(BOM + data)),
}


@pytest.mark.parametrize(("coding", "pack"), PACKED.values(), ids=PACKED)
@pytest.mark.parametrize("how", ["alone", "array", "lines"])
def test_a_packed_emit_is_taken(
    client: FlaskClient,
    instance: str,
    entries: Entries,
    coding: str,
    pack: Callable[[bytes], bytes],
    how: str,
) -> None:
    events = [b'{"event":"CALL","data":%d}' % n for n in range(1 if how == "alone" else 300)]
    plain = {"alone": events[0], "array": b"[" + b",".join(events) + b"]"}
    body = plain.get(how, b"\n".join(events))

    answer = client.post(
        "/event/emit/a",
        data=pack(body),
        content_type=NDJSON if how == "lines" else JSON,
        headers=GLOBAL | {"Content-Encoding": coding},
    )

    assert answer.status_code == 202, answer.json
    assert [each["data"] for each in entries()] == [str(n) for n in range(len(events))]


@pytest.mark.parametrize("mark", [b"", BOM], ids=["plain", "marked"])
@pytest.mark.parametrize("coding", ["", "gzip"])
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/instance/create", {"instanceName": "b"}),
        ("POST", "/webhook/set/a", {"webhook": {"enabled": False}}),
        ("POST", "/event/set/a", {"websocket": {"enabled": True}}),
        ("PUT", "/subscription/a/webhook", {"events": []}),
        ("POST", "/subscription/a", {"name": "x", "sink": "websocket", "enabled": True}),
        ("POST", "/deadletter/requeue", {"instance": "a"}),
        ("POST", "/replay", {"instance": "a", "onto": "webhook", "ids": ["x"]}),
    ],
)
def test_every_route_takes_what_emit_takes(
    client: FlaskClient,
    instance: str,
    method: str,
    path: str,
    body: dict[str, Any],
    coding: str,
    mark: bytes,
) -> None:
    text = mark + json.dumps(body).encode()
    data = gzip.compress(text) if coding else text
    headers = GLOBAL | ({"Content-Encoding": coding} if coding else {})

    answer = client.open(path, method=method, data=data, content_type=JSON, headers=headers)

    assert answer.status_code in (200, 201, 202), answer.json


@pytest.mark.parametrize("how", ["alone", "array", "lines"])
def test_a_byte_order_mark_before_an_emit_is_skipped(
    client: FlaskClient, instance: str, entries: Entries, how: str
) -> None:
    one = b' {"event":"CALL","data":"\xef\xbb\xbf"}'
    body = {"alone": one, "array": b"\n[" + one + b"]", "lines": one + b"\n" + one}[how]

    answer = client.post(
        "/event/emit/a",
        data=BOM + body,
        content_type=NDJSON if how == "lines" else JSON,
        headers=GLOBAL,
    )

    assert answer.status_code == 202, answer.json
    assert {each["data"] for each in entries()} == {'"\ufeff"'}


def test_a_refused_type_or_encoding_is_415_with_those_that_are_taken(
    client: FlaskClient, instance: str
) -> None:
    def post(path: str, **headers: str) -> Any:
        return client.post(path, data=b"{}", headers=GLOBAL | headers)

    typed = post("/event/emit/a", **{"Content-Type": "text/csv"})
    other = post("/webhook/set/a", **{"Content-Type": "text/csv"})
    coded = post("/event/emit/a", **{"Content-Type": JSON, "Content-Encoding": "br"})

    assert [each.status_code for each in (typed, other, coded)] == [415] * 3
    assert typed.headers["Accept-Post"] == f"{JSON}, {NDJSON}"
    assert typed.get_json()["response"]["message"] == [
        "Content-Type must be application/json or application/x-ndjson, and not 'text/csv'."
    ]
    assert other.headers["Accept-Post"] == JSON
    assert coded.headers["Accept-Encoding"] == "gzip, deflate"
    assert "Accept-Encoding" not in typed.headers


def test_a_stream_that_turns_bad_keeps_what_came_before_and_says_where_it_ended(
    client: FlaskClient, instance: str, entries: Entries
) -> None:
    line = b'{"event":"CALL","data":"%s"}\n' % (b"x" * 500)
    packer = zlib.compressobj(0)
    packed = packer.compress(line * 2_000) + packer.flush()

    answer = client.post(
        "/event/emit/a",
        data=packed[:-100],
        content_type=NDJSON,
        headers=GLOBAL | {"Content-Encoding": "deflate"},
    )

    body = answer.get_json()
    assert answer.status_code == 202
    assert body["stopped"]["status"] == 400
    assert "ended too early" in body["stopped"]["reason"]
    assert body["accepted"] == body["stopped"]["at"] == len(entries()) > 0


def test_a_bomb_ends_at_the_first_piece_beyond_the_limit() -> None:
    """4 GB of zeros in 4 MB cost neither time nor memory."""
    bomb = gzip.compress(gzip.compress(b"\0" * 10_000_000) * 400)
    read = 0

    def pieces() -> Iterator[bytes]:
        nonlocal read
        for n in range(0, len(bomb), 1_000):
            read += 1
            yield bomb[n : n + 1_000]

    limit = 1_000_000
    layers = unpacking.unpacked(unpacking.unpacked(pieces(), "gzip", limit), "gzip", limit)
    tracemalloc.start()
    with pytest.raises(TooLarge, match="unpacked"):
        for _ in layers:
            pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 2_000_000
    assert read < len(bomb) // 1_000


@pytest.mark.parametrize("size", [1, 2, 7, 65_536])
@pytest.mark.parametrize(("coding", "pack"), [PACKED["gzip in members"], PACKED["raw deflate"]])
def test_pieces_may_be_cut_anywhere(coding: str, pack: Callable[[bytes], bytes], size: int) -> None:
    data = bytes(range(256)) * 20
    packed = pack(data)
    pieces = (packed[n : n + size] for n in range(0, len(packed), size))

    assert b"".join(unpacking.unpacked(pieces, coding.lower(), 10_000)) == data


def test_members_of_a_gzip_stream_are_bounded() -> None:
    stream = gzip.compress(b"") * (unpacking.MEMBERS + 1)

    with pytest.raises(BadInput, match="more than 10000 members"):
        list(unpacking.unpacked([stream], "gzip", 100))


def test_a_body_as_large_as_may_be_is_taken_packed(
    call: Request, client: FlaskClient, instance: str
) -> None:
    event = b'{"event":"CALL","data":"%s"}' % (b"x" * (16_777_216 - 26))
    assert len(event) == 16_777_216

    def post(body: bytes) -> int:
        headers = GLOBAL | {"Content-Encoding": "gzip"}
        answer = client.post(
            "/event/emit/a", data=gzip.compress(body), content_type=JSON, headers=headers
        )
        return answer.status_code

    assert post(event) == 202
    assert post(event + b" ") == 413
