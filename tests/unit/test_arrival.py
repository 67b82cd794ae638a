"""The end of a request, found in pieces of any size."""

from __future__ import annotations

import random
import time

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


def split(arrival: Arrival) -> tuple[bytes, bytes]:
    """The bytes of a request that is whole, and the bytes behind it."""
    return bytes(arrival.data), bytes(arrival.behind)


@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize("behind", [b"", b"G", GET])
def test_a_request_ends_where_it_ends(request_: bytes, behind: bytes) -> None:
    arrival = all_at_once(request_ + behind)

    assert arrival.state is State.WHOLE
    assert arrival.complete
    assert split(arrival) == (request_, behind)


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

    found, behind = split(arrival)
    assert found == request_
    assert len(behind) < 4


@pytest.mark.parametrize("request_", [POST, CHUNKED, EXTENDED])
def test_a_request_that_expects_100_is_whole_in_any_two_pieces(request_: bytes) -> None:
    head, _, body = request_.partition(b"\r\n\r\n")
    expecting = head + b"\r\nExpect: 100-continue\r\n\r\n" + body

    for cut in range(1, len(expecting)):
        arrival = all_at_once(expecting[:cut])
        arrival.take(expecting[cut:])

        assert (arrival.state, arrival.complete) == (State.WHOLE, True), cut
        assert arrival.expects
        assert split(arrival) == (request_, b"")


def test_empty_lines_before_a_request_are_no_part_of_it() -> None:
    arrival = Arrival(BOUNDS)

    assert arrival.take(b"\r\n") is State.IDLE
    assert arrival.take(b"\r\n" + GET) is State.WHOLE
    assert split(arrival) == (GET, b"")


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
    assert split(arrival)[1] == b""


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
    assert all_at_once(b"GET / HTTP/1.1\r\nX: " + b"x" * 1_000).state is State.REFUSED


def test_a_body_that_breaks_off_is_for_the_parser() -> None:
    arrival = all_at_once(POST[:-1])

    assert arrival.end() is State.WHOLE
    assert not arrival.complete
    assert split(arrival) == (POST[:-1], b"")


def test_a_head_that_breaks_off_is_nothing() -> None:
    assert all_at_once(GET[:-1]).end() is State.HEAD


@pytest.mark.parametrize("value", [b"100-continue", b" 100-Continue "])
def test_a_client_that_waits_to_be_told_is_found_and_its_wish_taken_out(value: bytes) -> None:
    waiting = POST.replace(b"Host: a", b"Host: a\r\nExpect:" + value)

    arrival = all_at_once(waiting[:-5])

    assert arrival.expects
    assert arrival.take(b"hello" + GET) is State.WHOLE
    assert split(arrival) == (POST, GET)


def test_other_expectations_are_the_parsers() -> None:
    odd = POST.replace(b"Host: a", b"Expect: tea")

    arrival = all_at_once(odd)

    assert not arrival.expects
    assert split(arrival) == (odd, b"")


# -- work ----------------------------------------------------------------------------------------


def seconds(first: bytes, piece: bytes, count: int, bounds: Bounds) -> float:
    """Return the CPU of receiving `first` and then equal pieces. The least of five runs."""
    runs = []
    for _ in range(5):
        arrival = Arrival(bounds)
        began = time.thread_time()
        arrival.take(first)
        for _ in range(count):
            arrival.take(piece)
        runs.append(time.thread_time() - began)
        assert arrival.state in {State.HEAD, State.BODY}
    return min(runs)


CHUNKS = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
DRIPS = {
    "head": (b"GET / HTTP/1.1\r\n", b"X: " + b"x" * 95 + b"\r\n"),
    "one header": (b"GET / HTTP/1.1\r\nX: ", b"x" * 100),
    "carriage returns": (b"GET / HTTP/1.1\r\nX: ", b"\r" * 100),
    "trailers": (CHUNKS + b"0\r\n", b"X: " + b"x" * 95 + b"\r\n"),
    "one trailer": (CHUNKS + b"0\r\nX: ", b"x" * 100),
    "chunks": (CHUNKS, b"5f\r\n" + b"x" * 95 + b"\r\n"),
    "one chunk": (CHUNKS + b"fffffff\r\n", b"x" * 100),
    "a body": (b"POST / HTTP/1.1\r\nContent-Length: 199999999\r\n\r\n", b"x" * 100),
}


@pytest.mark.parametrize("drip", DRIPS.values(), ids=DRIPS)
def test_the_work_grows_with_the_bytes_that_arrive_and_not_with_their_square(
    drip: tuple[bytes, bytes],
) -> None:
    bounds = Bounds(head=200_000_000, body=200_000_000)

    least, most = (seconds(*drip, count, bounds) for count in (2_000, 16_000))

    assert most < 8 * 4 * least


def test_requests_that_come_together_are_split_in_linear_work() -> None:
    def seconds_of(count: int) -> float:
        runs = []
        for _ in range(5):
            began = time.thread_time()
            rest = memoryview(GET * count)
            for _ in range(count):
                arrival = Arrival(BOUNDS)
                assert arrival.take(rest) is State.WHOLE
                rest = arrival.behind
            assert not rest
            runs.append(time.thread_time() - began)
        return min(runs)

    assert seconds_of(8_000) < 8 * 4 * seconds_of(1_000)


def test_empty_lines_before_a_request_cost_linear_work_and_have_a_bound() -> None:
    def seconds_of(count: int) -> float:
        runs = []
        for _ in range(5):
            arrival = Arrival(Bounds(head=100_000_000, body=0))
            data = b"\r\n" * count
            began = time.thread_time()
            assert arrival.take(data) is State.IDLE
            runs.append(time.thread_time() - began)
        return min(runs)

    assert seconds_of(800_000) < 8 * 4 * seconds_of(100_000)
    assert all_at_once(b"\r\n" * 501).state is State.REFUSED


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_trailers_have_the_bound_of_a_head(size: int) -> None:
    arrival = all_at_once(CHUNKED[:-2])
    sent = 0

    while arrival.state is State.BODY:
        arrival.take(b"x" * size)
        sent += size

    assert arrival.state is State.REFUSED
    assert arrival.refusal == (431, "trailers too large")
    assert sent < BOUNDS.head + size


def test_trailers_that_arrive_at_once_have_the_same_bound() -> None:
    arrival = all_at_once(CHUNKED[:-2] + b"X: " + b"x" * BOUNDS.head + b"\r\n\r\n")

    assert arrival.state is State.REFUSED


def test_a_hundred_headers_and_trailers_are_read_and_no_more() -> None:
    bounds = Bounds(head=65_536, body=5_000)
    for count, state in ((100, State.WHOLE), (101, State.REFUSED)):
        arrival = Arrival(bounds)
        assert arrival.take(CHUNKED[:-2] + b"X: y\r\n" * count + b"\r\n") is state
    for count, complete in ((100, True), (101, False)):
        arrival = Arrival(bounds)
        arrival.take(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * count + b"\r\n")
        assert arrival.complete is complete


@pytest.mark.parametrize("chunk", [b"1\r\nx\r\n", b"1;" + b"e" * 5_000 + b"\r\nx\r\n"])
def test_chunks_that_are_mostly_framing_are_refused(chunk: bytes) -> None:
    arrival = Arrival(Bounds(head=1_000, body=10_000_000))
    arrival.take(CHUNKS)
    sent = 0

    while arrival.state is State.BODY:
        arrival.take(chunk)
        sent += len(chunk)

    assert arrival.state is State.REFUSED
    assert arrival.refusal == (400, "its chunks are too small")
    assert sent < 200_000


def test_ten_thousand_small_lines_in_a_chunk_each_are_a_body() -> None:
    line = b'{"event":"CALL","data":{}}\n'
    arrival = Arrival(Bounds(head=65_536, body=16_777_216))
    arrival.take(CHUNKS)

    for _ in range(10_000):
        arrival.take(b"%x\r\n%b\r\n" % (len(line), line))

    assert arrival.take(b"0\r\n\r\n") is State.WHOLE
