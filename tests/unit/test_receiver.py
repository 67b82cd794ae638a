"""The receiver that the other tests rely on."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator

import pytest

from evoflask.dev import receiver as module
from evoflask.dev.receiver import Receiver, Request


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as one:
        yield one


def post(receiver: Receiver, path: str, event_id: str = "e") -> int:
    client = http.client.HTTPConnection("127.0.0.1", receiver.port, timeout=10)
    client.request("POST", path, b"{}", {"Webhook-Id": event_id})
    status = client.getresponse().status
    client.close()
    return status


def test_it_records_what_arrives_in_order(receiver: Receiver) -> None:
    for n in range(5):
        post(receiver, f"/ok/{n}", f"e-{n}")

    receiver.wait_for(5)
    assert receiver.ids() == [f"e-{n}" for n in range(5)]
    assert [one.path for one in receiver.received(since=3)] == ["/ok/3", "/ok/4"]
    assert receiver.counts()["paths"]["/ok/1"] == 1


def test_what_is_taken_is_forgotten_and_still_counted(receiver: Receiver) -> None:
    post(receiver, "/a", "e-1")
    post(receiver, "/b", "e-2")

    taken = receiver.take()

    assert [(one.path, one.id) for one in taken] == [("/a", "e-1"), ("/b", "e-2")]
    assert receiver.take() == []
    assert receiver.count() == 2
    post(receiver, "/c", "e-3")
    assert [one.id for one in receiver.take()] == ["e-3"]


def test_a_destination_is_broken_and_mended_by_path_and_below(receiver: Receiver) -> None:
    receiver.control(path="/a", status=500)
    broken = [post(receiver, path) for path in ("/a", "/a/messages_upsert?x=1", "/ab")]
    receiver.control(path="/a", status=None)

    assert broken == [500, 500, 200]
    assert post(receiver, "/a") == 200


def test_events_fail_by_id(receiver: Receiver) -> None:
    receiver.control(fail_ids=["bad"], status=503)

    assert [post(receiver, "/ok", "bad"), post(receiver, "/ok", "good")] == [503, 200]


def test_clearing_forgets_what_arrived(receiver: Receiver) -> None:
    post(receiver, "/ok")

    receiver.clear()

    assert receiver.count() == 0
    assert receiver.received() == []


def test_waiting_in_vain_says_how_many_arrived(receiver: Receiver) -> None:
    post(receiver, "/ok")

    with pytest.raises(TimeoutError, match="1 of 2"):
        receiver.wait_for(2, timeout=0.05)


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_requests_in_pieces_chunked_and_pipelined_are_understood(
    receiver: Receiver, size: int
) -> None:
    receiver.control(keep=True)
    plain = b"POST /p HTTP/1.1\r\nContent-Length: 3\r\nWebhook-Id: p\r\n\r\nabc"
    chunked = b"POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunked += b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"
    stream = plain + chunked + plain
    with socket.create_connection(("127.0.0.1", receiver.port)) as client:
        for start in range(0, len(stream), size):
            client.sendall(stream[start : start + size])
        receiver.wait_for(3)

    assert [(one.path, one.body) for one in receiver.received()] == [
        ("/p", "abc"),
        ("/c", "abcde"),
        ("/p", "abc"),
    ]


def test_what_is_shown_on_a_terminal_cannot_steer_it() -> None:
    request = Request("POST", "/a\x1b[2J", b"POST /a HTTP/1.1\r\n", b'{"a": "\\u009b2J\x1b"}', 1)

    shown = module._described(request)

    assert all(c.isprintable() or c == "\n" for c in shown)


def test_an_event_is_shown_with_its_path_id_and_pretty_json() -> None:
    head = b"POST /hook HTTP/1.1\r\nWebhook-Id: e-1\r\n"

    shown = module._described(Request("POST", "/hook?x=1", head, b'{"a":{"b":"\xc3\xbc"}}', 1))

    assert shown == 'POST /hook  webhook-id: e-1\n{\n  "a": {\n    "b": "ü"\n  }\n}\n'
