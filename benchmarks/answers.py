"""Measure the cost of reading an answer: our reader and llhttp with its callbacks, in turns.

python -m benchmarks.answers
"""

from __future__ import annotations

import time
from collections.abc import Callable

import httptools

from evoflask.net.answers import Reading

SMALL = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
USUAL = (
    b"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Mon, 30 Nov 2026 18:00:00 GMT\r\n"
    b"Content-Type: application/json\r\nContent-Length: 15\r\nConnection: keep-alive\r\n"
    b'X-Request-Id: 0123456789abcdef\r\n\r\n{"status":"ok"}'
)
TIMES = 5_000
TURNS = 15


class Callbacks:
    """The callbacks of llhttp that a client needs at least."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.parser = httptools.HttpResponseParser(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.status = self.parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.kept_alive = self.parser.should_keep_alive()


def llhttp(answer: bytes) -> None:
    """Read an answer by llhttp."""
    Callbacks().parser.feed_data(answer)


def ours(answer: bytes) -> None:
    """Read an answer by `net.answers`."""
    Reading(keep=4_096, most=1 << 20, spare=65_536).feed(answer)


def micros(read: Callable[[bytes], None], answer: bytes) -> float:
    """Return microseconds of CPU for one answer."""
    began = time.process_time()
    for _ in range(TIMES):
        read(answer)
    return (time.process_time() - began) / TIMES * 1e6


def main() -> None:
    """Print the least of all turns. The excess is other work of the machine."""
    for name, answer in (("1 header", SMALL), ("7 headers", USUAL)):
        turns = [(micros(ours, answer), micros(llhttp, answer)) for _ in range(TURNS)]
        mine, theirs = (min(each) for each in zip(*turns, strict=True))
        print(f"{name}: ours {mine:.1f} us, llhttp {theirs:.1f} us")


if __name__ == "__main__":
    main()
