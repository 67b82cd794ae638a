"""A client that costs little: requests made before, over kept connections, one under way on each.

    python -m benchmarks.load <file> <port> <connections> [<requests a second>]

The file has a request a line: {"path", "body", "headers"}. Says "ready", waits for a line, sends
all of them, and says {"seconds", "cpu", "failed", "due", "sent", "answered"}, the last three in
unix seconds of each request. With a rate, a request goes out when it is due, whether the one before
was answered or not, and later where no connection is free; without one as fast as they are
answered.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import deque
from pathlib import Path

import httptools


class Lane(asyncio.Protocol):
    """A connection."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._number = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._parser = httptools.HttpResponseParser(self)
        self._load.free.append(self)

    def send(self, number: int, request: bytes) -> None:
        self._number = number
        self._transport.write(request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self._load.answered(self, self._number, self._parser.get_status_code())

    def connection_lost(self, error: Exception | None) -> None:
        if not self._load.done.done():
            self._load.done.set_exception(error or ConnectionError("it was closed"))


class Load:
    """All of it. `rate`: 0 for as fast as they are answered."""

    def __init__(self, requests: list[bytes], rate: float) -> None:
        self._requests = requests
        self._rate = rate
        self._next = 0
        self._left = len(requests)
        self.free: deque[Lane] = deque()
        self.due = [0.0] * len(requests)
        self.sent = [0.0] * len(requests)
        self.answers = [0.0] * len(requests)
        self.failed = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Until the last one is answered."""
        if self._rate:
            now = time.time()
            self.due = [now + n / self._rate for n in range(len(self._requests))]
        while self._rate and self._next < len(self._requests):
            wait = 0.0
            while self.free and self._next < len(self._requests):
                if (wait := self.due[self._next] - time.time()) > 0:
                    break
                self._send(self.free.popleft())
            await asyncio.sleep(max(wait, 0.0005))
        while self.free and self._next < len(self._requests):
            self._send(self.free.popleft())
        await self.done

    def _send(self, lane: Lane) -> None:
        number, self._next = self._next, self._next + 1
        self.sent[number] = time.time()
        lane.send(number, self._requests[number])

    def answered(self, lane: Lane, number: int, status: int) -> None:
        self.answers[number] = time.time()
        self.failed += status not in (200, 202)
        self._left -= 1
        if not self._left:
            self.done.set_result(None)
        elif self._rate or self._next >= len(self._requests):
            self.free.append(lane)
        else:
            self._send(lane)


def made(port: int, path: str, body: str, headers: dict[str, str]) -> bytes:
    """A request's bytes."""
    content = body.encode()
    lines = {**headers, "Host": f"127.0.0.1:{port}", "Content-Length": str(len(content))}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + content


def requests(file: str, port: int) -> list[bytes]:
    """Those of a file."""
    lines = map(json.loads, Path(file).read_text().splitlines())
    return [made(port, x["path"], x["body"], x["headers"]) for x in lines]


async def main(file: str, port: str, connections: str, rate: str = "0") -> None:
    load = Load(requests(file, int(port)), float(rate))
    loop = asyncio.get_running_loop()
    for _ in range(int(connections)):
        await loop.create_connection(lambda: Lane(load), "127.0.0.1", int(port))
    print("ready", flush=True)
    sys.stdin.readline()
    wall, cpu = time.perf_counter(), time.process_time()
    await load.run()
    said = {
        "seconds": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "failed": load.failed,
        "due": load.due,
        "sent": load.sent,
        "answered": load.answers,
    }
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
