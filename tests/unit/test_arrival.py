"""Where one request ends, in whatever pieces it comes."""

from __future__ import annotations

import random

import pytest

from evoflask.serving.arrival import Arrival, Bounds, State

BOUNDS = Bounds(head=1_000, body=5_000)
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
EMPTY = b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
EXTENDED = (
    b"POST / HTTP/1.1\r\ntransfer-encoding:  Chunked \r\n\r\n"
    b'1;name="x"\r\n\r\r\n5\r\n0\r\n\r\n\r\n000\r\nTrailer: a\r\n\r\n'
)
REQUESTS = [GET, POST, EMPTY, CHUNKED, EXTENDED]


def all_at_once(data: bytes) -> Arrival:
    arrival = Arrival(BOUNDS)
    arrival.take(data)
    return arrival


@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize("behind", [b"", b"G", GET])
def test_a_request_ends_where_it_ends(request_: bytes, behind: bytes) -> None:
    arrival = all_at_once(request_ + behind)

    assert arrival.state is State.WHOLE
    assert arrival.complete
    assert arrival.split() == (request_, behind)


@pytest.mark.parametrize("request_", REQUESTS)
def test_no_byte_less_makes_it_whole(request_: bytes) -> None:
    for length in range(len(request_)):
        arrival = all_at_once(request_[:length])

        assert arrival.state in {State.IDLE, State.HEAD, State.BODY}


@pytest.mark.parametrize("seed", range(200))
def test_in_which_pieces_it_comes_makes_no_difference(seed: int) -> None:
    luck = random.Random(seed)
    request_ = luck.choice(REQUESTS)
    rest = request_ + luck.choice([b"", GET, POST])
    arrival = Arrival(BOUNDS)

    while arrival.state is not State.WHOLE:
        size = luck.randint(1, 4)
        arrival.take(rest[:size])
        rest = rest[size:]

    found, behind = arrival.split()
    assert found == request_
    assert len(behind) < 4


def test_empty_lines_before_a_request_are_no_part_of_it() -> None:
    arrival = Arrival(BOUNDS)

    assert arrival.take(b"\r\n") is State.IDLE
    assert arrival.take(b"\r\n" + GET) is State.WHOLE
    assert arrival.split() == (GET, b"")


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 5\r\nContent-Length: 6",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: identity",
        b"Content-Length: -5",
        b"Content-Length: +5",
        b"Content-Length: 5 5",
        b"Content-Length: 0x5",
        b"Content-Length: \xd9\xa5",
        b"Content-Length: ",
        b"Content-Length: 5001",
        b"Content-Length: 99999999999999999999",
    ],
)
def test_behind_an_odd_head_or_a_body_too_large_nothing_is_read(head: bytes) -> None:
    arrival = all_at_once(b"POST / HTTP/1.1\r\n" + head + b"\r\n\r\nhello" + GET)

    assert arrival.state is State.WHOLE
    assert not arrival.complete
    assert arrival.split()[1] == b""


@pytest.mark.parametrize(
    "body",
    [
        b"x\r\n",
        b"-1\r\n",
        b"\r\n",
        b"5 5\r\nhello\r\n",
        b"5\r\nhello5\r\n",
        b"0x5\r\n",
        b"1" * 9000,
    ],
)
def test_a_bad_chunk_ends_the_connection(body: bytes) -> None:
    arrival = all_at_once(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + body)

    assert arrival.state is State.WHOLE
    assert not arrival.complete


def test_bodies_of_unknown_length_have_a_bound() -> None:
    arrival = all_at_once(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")

    while arrival.state is State.BODY:
        arrival.take(b"64\r\n" + b"x" * 100 + b"\r\n")

    assert not arrival.complete
    assert len(arrival.data) <= BOUNDS.head + BOUNDS.body + 106


def test_a_head_without_an_end_has_a_bound() -> None:
    assert all_at_once(b"GET / HTTP/1.1\r\nX: " + b"x" * 1_000).state is State.ENDLESS


def test_a_body_that_breaks_off_is_for_the_parser() -> None:
    arrival = all_at_once(POST[:-1])

    assert arrival.end() is State.WHOLE
    assert not arrival.complete
    assert arrival.split() == (POST[:-1], b"")


def test_a_head_that_breaks_off_is_nothing() -> None:
    assert all_at_once(GET[:-1]).end() is State.HEAD


@pytest.mark.parametrize("value", [b"100-continue", b" 100-Continue "])
def test_a_client_that_waits_to_be_told_is_found_and_its_wish_taken_out(value: bytes) -> None:
    waiting = POST.replace(b"Host: a", b"Host: a\r\nExpect:" + value)

    arrival = all_at_once(waiting[:-5])

    assert arrival.expects
    assert arrival.take(b"hello" + GET) is State.WHOLE
    assert arrival.split() == (POST, GET)


def test_other_expectations_are_the_parsers() -> None:
    odd = POST.replace(b"Host: a", b"Expect: tea")

    arrival = all_at_once(odd)

    assert not arrival.expects
    assert arrival.split() == (odd, b"")
