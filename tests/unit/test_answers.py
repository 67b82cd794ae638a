"""The reader of answers alone: pieces, bounds, and linear work."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evoflask.net.answers import BadAnswer, Reading
from tests.sinks.answers import ROWS, Row

SHORT = [row for row in ROWS if 0 < len(row.answer) < 300]


def read(pieces: list[bytes]) -> tuple[object, ...]:
    """Read an answer in these pieces."""
    reading = Reading(keep=100, most=1_000, spare=100)
    try:
        for piece in pieces:
            reading.feed(piece)
        reading.end()
    except BadAnswer as error:
        return ("bad", str(error))
    answer = reading.answer
    return (answer.status, answer.body, answer.whole, answer.headers, reading.kept_alive)


@pytest.mark.parametrize("row", SHORT, ids=lambda row: row.name)
def test_an_answer_means_the_same_in_whatever_pieces_it_comes(row: Row) -> None:
    whole = read([row.answer])
    if whole[0] == "bad":
        return  # an end that is seen earlier may have another reason

    for size in (1, 2, 3, 7):
        pieces = [row.answer[n : n + size] for n in range(0, len(row.answer), size)]
        assert read(pieces)[:4] == whole[:4]


@given(st.binary(max_size=400), st.sampled_from(SHORT), st.integers(0, 300))
def test_no_bytes_raise_anything_but_a_bad_answer(junk: bytes, row: Row, at: int) -> None:
    read([row.answer[:at] + junk + row.answer[at:]])
    read([row.answer[:at], junk, row.answer[at:]])


def spent(pieces: list[bytes]) -> float:
    began = time.process_time()
    read(pieces)
    return time.process_time() - began


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "pieces",
    [
        [OK + b"X: y"] + [b"z"] * 60_000,
        [OK + b"X: y\r\n"] + [b" z\r\n"] * 1_900 + [b"\r\n"],
        [OK + b" z\r\n" * 1_900 + b"\r\n"],
        [OK + b"\n\r" * 1_000],
        [OK + b"\r" * 200_000],
        [OK + b"X:" + b" " * 200_000 + b"\r\n\r\n"],
        [OK + b"Content-Length" + b" " * 200_000 + b"\r\n\r\n"],
        [b"HTTP/1.1" + b" " * 200_000],
        [CHUNKED] + [b"0"] * 60_000,
        [CHUNKED + b"1\r\nx\r\n" * 100_000],
        [CHUNKED + b" " * 200_000],
        [CHUNKED + b"0\r\n"] + [b"X: y\r\n"] * 30_000,
        [b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000],
        [b"HTTP/1.1 500 No\r\n\r\n"] + [b"x"] * 200_000,
    ],
    ids=range(14),
)
def test_reading_takes_a_moment_whatever_is_sent(pieces: list[bytes]) -> None:
    assert spent(pieces) < 10
