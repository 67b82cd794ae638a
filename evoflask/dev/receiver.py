"""Receivers of webhooks: one to look at, one to test and measure against.

`main` is what `flask receive` runs: it prints every event it gets and answers 200.

`Receiver` runs the same little server in a process of its own (so that its CPU is not the
test's), records what arrives and answers as the path or a control call says:

    /ok …               200, as does every path that says nothing else
    /status/<code>      that status; `?retry-after=7` adds the header, `?echo=1` answers with
                        the request's own head, `?echo=json` with the same as a JSON string,
                        `?padding=n` adds n bytes to the answer
    /slow/<ms>          200 after a while
    /hang               never an answer
    /stall/<code>       the head of an answer, then nothing
    /drip               a 200 whose body never ends, a byte every 50 ms; /drip/<ms>: every so many
    /close, /reset      the connection closed, or reset, instead of an answer
    /hangup             200 to the first request of a connection, and at the second it is closed:
                        a kept connection that ends in the wrong moment
    /half               half an answer, then closed
    /garbage            an answer that is not HTTP
    /big/<bytes>        a 200 with that many bytes, made as they are read
    /redirect/<code>/…  to the rest of the path, or to `?to=<url>`

    POST /_control      {"path": "/a", "as": "/status/500"} makes /a and what is below it
                        answer like that ("status": 500 for short, null: as before);
                        {"fail_ids": [..], "status": 500} fails events by their id;
                        {"keep": true} keeps heads and bodies, {"record": false} only counts
    GET /_log?since=n   what arrived from the n-th request on, NDJSON
    GET /_counts        {"requests", "connections", "paths": {path: n}}
    POST /_take         the same as `/_log`, all of it, which is forgotten then
    POST /_clear        forgets what arrived

Written on `asyncio.Protocol` because benchmarks use it too: it must cost less than what it
measures.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from evoflask.dev.process import die_with_parent, wait_for
from evoflask.plurals import counted

MAX_HEAD = 65536
"""Bytes of request line and headers."""
MAX_BODY = 256 * 1024 * 1024
DRIP_SECONDS = 0.05
BIG_PIECE = 64 * 1024
"""Bytes of a big answer made at a time."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request, read in full."""

    method: str
    target: str
    head: bytes
    body: bytes
    connection: int
    """Number of the connection, from 1."""

    def header(self, name: str) -> str:
        """The first value of a header, "" without one. `name` in lower case."""
        mark = b"\r\n" + name.encode() + b":"
        start = self.head.lower().find(mark)
        if start < 0:
            return ""
        start += len(mark)
        end = self.head.find(b"\r\n", start)
        return self.head[start : end if end >= 0 else None].decode("latin-1").strip()

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]


Handler = Callable[["Connection", Request], None]


class Connection(asyncio.Protocol):
    """HTTP/1.1 on one socket: keep-alive, Content-Length, chunked, 100-continue.

    One request at a time: the next is parsed when `reply` was called for the one before.
    """

    transport: asyncio.Transport

    def __init__(self, handler: Handler, number: int) -> None:
        self._handler = handler
        self._number = number
        self._buffer = bytearray()
        self._head: bytes | None = None
        self._length: int | None = 0
        self._busy = False
        self._left = 0
        """Bytes of a big answer that were not made yet."""
        self._full = False
        self.answered = 0
        """Requests of this connection that got an answer."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._busy = True
        self._left = 0

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._write_big()

    def reply_big(self, size: int) -> None:
        """Answer 200 with so many bytes, as fast as they are read."""
        self.transport.write(f"HTTP/1.1 200 Answer\r\nContent-Length: {size}\r\n\r\n".encode())
        self._left = size
        self._write_big()

    def _write_big(self) -> None:
        while self._left and not self._full:
            piece = min(self._left, BIG_PIECE)
            self._left -= piece
            self.transport.write(b"x" * piece)
            if not self._left:
                self._over()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._busy:
            self._parse()

    def reply(self, status: int, body: bytes = b"", headers: str = "") -> None:
        """Answer the request under way; `headers` are whole lines with their ends."""
        head = f"HTTP/1.1 {status} Answer\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        self.transport.write(head.encode("latin-1") + body)
        self._over()

    def _over(self) -> None:
        """The request is answered: the next one."""
        self.answered += 1
        self._busy = False
        if self._buffer:
            self._parse()

    def _parse(self) -> None:
        while not self._busy and not self.transport.is_closing():
            if self._head is None and not self._parse_head():
                return
            body = self._take_body()
            if body is None:
                return
            head, self._head = self._head, None
            assert head is not None
            method, _, rest = head[: head.find(b"\r\n")].decode("latin-1").partition(" ")
            self._busy = True
            target = rest.rpartition(" ")[0]
            self._handler(self, Request(method, target, head, body, self._number))

    def _parse_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > MAX_HEAD:
                self.transport.abort()
            return False
        self._head = bytes(self._buffer[: end + 2])
        del self._buffer[: end + 4]
        low = self._head.lower()
        self._length = None if b"\r\ntransfer-encoding: chunked" in low else _length(low)
        if b"\r\nexpect: 100-continue" in low:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self._length is not None and self._length > MAX_BODY:
            self.transport.abort()
        return True

    def _take_body(self) -> bytes | None:
        if self._length is None:
            return self._take_chunks()
        if len(self._buffer) < self._length:
            return None
        body = bytes(self._buffer[: self._length])
        del self._buffer[: self._length]
        return body

    def _take_chunks(self) -> bytes | None:
        parts: list[bytes] = []
        at = 0
        while True:
            line = self._buffer.find(b"\r\n", at)
            if line < 0:
                return None
            size = int(self._buffer[at:line].partition(b";")[0], 16)
            at = line + 2 + size + 2
            if len(self._buffer) < at:
                return None
            if size == 0:
                del self._buffer[:at]
                return b"".join(parts)
            parts.append(bytes(self._buffer[line + 2 : at - 2]))


def _length(low_head: bytes) -> int:
    start = low_head.find(b"\r\ncontent-length:")
    if start < 0:
        return 0
    return int(low_head[start + 17 : low_head.find(b"\r\n", start + 17)])


# flask receive


def main(
    port: int = 9000,
    host: str = "127.0.0.1",
    *,
    events: int | None = None,
    seconds: float | None = None,
) -> None:
    """Print every event that arrives, until Ctrl-C or until `events` of them were answered.

    Exit with status 1 and a sentence if the port cannot be used, or if `seconds` pass first.
    """
    try:
        sock = _listen(host, port)
    except OSError as error:
        raise SystemExit(f"cannot listen on {host}:{port}: {error.strerror}") from error
    print(f"waiting for webhooks on http://{host}:{sock.getsockname()[1]}/", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        try:
            asyncio.run(_print_events(sock, events, seconds))
        except TimeoutError:
            least = counted(events or 1, "event")
            raise SystemExit(f"fewer than {least} arrived in {seconds:g} s") from None


async def _print_events(sock: socket.socket, events: int | None, seconds: float | None) -> None:
    """Serve until `events` were answered. Raise `TimeoutError` after `seconds`."""
    seen = 0
    enough = asyncio.Event()

    def show(connection: Connection, request: Request) -> None:
        nonlocal seen
        if request.method == "POST":  # a GET only asks if the receiver is up
            print(_described(request), flush=True)
            seen += 1
        connection.reply(200, b"ok\n")
        if events is not None and seen >= events:
            enough.set()

    serving = asyncio.create_task(_serve(sock, show))
    try:
        await asyncio.wait_for(enough.wait(), seconds)
    finally:
        serving.cancel()


def _described(request: Request) -> str:
    event_id = request.header("webhook-id")
    try:
        text = json.dumps(json.loads(request.body), indent=2, ensure_ascii=False)
    except ValueError:
        text = request.body.decode("utf-8", "replace")
    first = f"{request.method} {request.path}  webhook-id: {event_id or '-'}"
    # What a stranger sends must not steer the terminal it is shown on.
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in f"{first}\n{text}\n")


# the test receiver's server


class _Scripted:
    """Records and answers as told. `file`: gets a line `id sha256` for each request, before its
    answer, so that a killed receiver's record outlives it."""

    def __init__(self, file: str = "") -> None:
        # One write a line, none of them left in a buffer.
        self.file = Path(file).open("ab", buffering=0) if file else None  # noqa: SIM115
        self.log: list[tuple[Any, ...]] = []
        self.paths: Counter[str] = Counter()
        self.connections: set[int] = set()
        self.like: dict[str, str] = {}
        self.fail_ids: dict[str, int] = {}
        self.keep = False
        self.record = True

    def handle(self, connection: Connection, request: Request) -> None:
        if request.target.startswith("/_"):
            self._manage(connection, request)
            return
        event_id = request.header("webhook-id")
        self.paths[request.path] += 1
        self.connections.add(request.connection)
        if self.record:
            self._note(request, event_id)
        if event_id in self.fail_ids:
            connection.reply(self.fail_ids[event_id])
            return
        _answer(connection, request, self._script(request.target) if self.like else request.target)

    def _note(self, request: Request, event_id: str) -> None:
        kept = (request.head, request.body) if self.keep else (b"", b"")
        digest = hashlib.sha256(request.body).digest()
        row = (request.path, event_id, digest, time.time(), request.connection, *kept)
        self.log.append(row)
        if self.file:
            self.file.write(f"{event_id} {digest.hex()}\n".encode())

    def _script(self, target: str) -> str:
        path = target.partition("?")[0]
        while path:
            if path in self.like:
                return self.like[path]
            path = path.rpartition("/")[0]
        return target

    def _manage(self, connection: Connection, request: Request) -> None:
        match request.path:
            case "/_control":
                self._control(json.loads(request.body))
                connection.reply(200, b"{}")
            case "/_log":
                since = int(parse_qs(urlsplit(request.target).query).get("since", ["0"])[0])
                connection.reply(200, b"".join(self._lines(since)))
            case "/_take":
                connection.reply(200, b"".join(self._lines(0)))
                self.log.clear()
            case "/_counts":
                counts = {
                    "requests": self.paths.total(),
                    "connections": len(self.connections),
                    "paths": self.paths,
                }
                connection.reply(200, json.dumps(counts).encode())
            case "/_clear":
                self.log.clear()
                self.paths.clear()
                self.connections.clear()
                connection.reply(200, b"{}")
            case _:
                connection.reply(404)

    def _control(self, order: dict[str, Any]) -> None:
        status = order.get("status")
        like = order.get("as") or (f"/status/{status}" if status else None)
        if "path" in order:
            if like is None:
                self.like.pop(order["path"], None)
            else:
                self.like[order["path"]] = like
        if "fail_ids" in order:
            self.fail_ids = dict.fromkeys(order["fail_ids"], status or 500)
        self.keep = order.get("keep", self.keep)
        self.record = order.get("record", self.record)

    def _lines(self, since: int) -> Iterator[bytes]:
        names = ("path", "id", "sha256", "at", "connection", "head", "body")
        for n, row in enumerate(self.log[since:], since):
            values = (v.hex() if k == "sha256" else v for k, v in zip(names, row, strict=True))
            text = (v.decode("latin-1") if isinstance(v, bytes) else v for v in values)
            yield json.dumps({"n": n, **dict(zip(names, text, strict=True))}).encode() + b"\n"


def _answer(connection: Connection, request: Request, target: str) -> None:
    words = target.partition("?")[0].split("/")[1:]
    behave = _BEHAVIOURS.get(words[0])
    if behave is None:
        connection.reply(200, b"ok")
    else:
        behave(connection, request, target, words[1:])


def _slow(connection: Connection, _: Request, _target: str, words: list[str]) -> None:
    asyncio.get_running_loop().call_later(int(words[0]) / 1000, _late, connection)


def _late(connection: Connection) -> None:
    if not connection.transport.is_closing():
        connection.reply(200, b"ok")


def _stall(connection: Connection, _: Request, _target: str, words: list[str]) -> None:
    head = f"HTTP/1.1 {words[0]} Answer\r\nContent-Length: 9\r\n\r\n"
    connection.transport.write(head.encode())


def _drip(connection: Connection, _: Request, _target: str, words: list[str]) -> None:
    connection.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    _drop(connection.transport, int(words[0]) / 1000 if words else DRIP_SECONDS)


def _drop(transport: asyncio.Transport, seconds: float) -> None:
    if not transport.is_closing():
        transport.write(b"x")
        asyncio.get_running_loop().call_later(seconds, _drop, transport, seconds)


def _hangup(connection: Connection, *_: Any) -> None:
    if connection.answered:
        connection.transport.close()
    else:
        connection.reply(200, b"ok")


def _reset(connection: Connection, *_: Any) -> None:
    sock = connection.transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.transport.abort()


def _half(connection: Connection, *_: Any) -> None:
    connection.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    connection.transport.close()


def _redirect(connection: Connection, _: Request, target: str, words: list[str]) -> None:
    to = _query(target, "to") or "/" + "/".join(words[1:])
    connection.reply(int(words[0]), b"moved", f"Location: {to}\r\n")


def _status(connection: Connection, request: Request, target: str, status: int) -> None:
    if "?" not in target:
        bodiless = status < 300 or status == 304
        connection.reply(status, b"" if bodiless else b'{"error": "as told"}')
        return
    after = _query(target, "retry-after")
    echo = _query(target, "echo")
    body = request.head if echo else b'{"error": "as told"}'
    if echo == "json":
        body = json.dumps(request.head.decode("latin-1")).encode()
    body += b"x" * int(_query(target, "padding") or 0)
    connection.reply(status, body, f"Retry-After: {after}\r\n" if after else "")


def _query(target: str, name: str) -> str:
    return parse_qs(urlsplit(target).query).get(name, [""])[0]


_BEHAVIOURS: dict[str, Callable[[Connection, Request, str, list[str]], None]] = {
    "status": lambda c, r, target, words: _status(c, r, target, int(words[0])),
    "slow": _slow,
    "hang": lambda *_: None,
    "stall": _stall,
    "drip": _drip,
    "close": lambda c, *_: c.transport.close(),
    "reset": _reset,
    "half": _half,
    "garbage": lambda c, *_: c.transport.write(b"\x00\x01 this is no HTTP \r\n\r\n"),
    "big": lambda c, _r, _t, words: c.reply_big(int(words[0])),
    "hangup": _hangup,
    "redirect": _redirect,
}


# the process


def _listen(host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    sock.listen(4096)
    return sock


async def _serve(sock: socket.socket, handler: Handler) -> None:
    count = 0

    def connected() -> Connection:
        nonlocal count
        count += 1
        return Connection(handler, count)

    server = await asyncio.get_running_loop().create_server(connected, sock=sock, backlog=4096)
    await server.serve_forever()


def _run_scripted() -> None:
    parser = argparse.ArgumentParser(prog="python -m evoflask.dev.receiver")
    parser.add_argument("--parent", type=int, required=True, help="end when this process ends")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--file", default="", help="gets a line for each request")
    options = parser.parse_args()
    die_with_parent(signal.SIGKILL, options.parent)
    sock = _listen("127.0.0.1", options.port)
    print(sock.getsockname()[1], flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(sock, _Scripted(options.file).handle))


# the test's side


@dataclass(frozen=True, slots=True)
class Received:
    """One request as the receiver recorded it."""

    n: int
    """Its place in the order of arrival, from 0."""
    path: str
    id: str
    """The `webhook-id`."""
    sha256: str
    """Of the body."""
    at: float
    """Unix seconds."""
    connection: int
    head: str
    """Request line and headers, "" unless told to keep them."""
    body: str
    """Latin-1, so that each character is a byte; "" unless told to keep it."""

    def headers(self) -> dict[str, str]:
        """Names in lower case; of repeated ones the last."""
        lines = (line.partition(":") for line in self.head.split("\r\n")[1:] if line)
        return {name.lower(): value.strip() for name, _, value in lines}


class Receiver:
    """A receiver in a process of its own, on a free loopback port.

    A context manager. The process ends with the thread that started it at the latest.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self.port = 0
        self.start()

    def start(self) -> None:
        """Again, after `kill9`, on the same port."""
        command = [sys.executable, "-m", "evoflask.dev.receiver", "--parent", str(os.getpid())]
        command += ["--port", str(self.port), "--file", str(self._file or "")]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self._client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    @property
    def pid(self) -> int:
        """For tests that stop or kill it, and benchmarks that read its CPU time."""
        return self._process.pid

    def url(self, path: str = "/ok") -> str:
        """The address of a path."""
        return f"http://127.0.0.1:{self.port}{path}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process, as a crash does. May be called twice."""
        self._client.close()
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def control(self, **order: Any) -> None:
        """See `/_control` above; `as` is spelled `as_`."""
        body = {key.rstrip("_"): value for key, value in order.items()}
        self._call("POST", "/_control", json.dumps(body))

    def received(self, since: int = 0) -> list[Received]:
        """What arrived, in order, from the `since`-th request on."""
        lines = self._call("GET", f"/_log?since={since}").splitlines()
        return [Received(**json.loads(line)) for line in lines]

    def take(self) -> list[Received]:
        """What arrived since the last `take`, in order, which it forgets: for long runs. The
        counts stay."""
        lines = self._call("POST", "/_take").splitlines()
        return [Received(**json.loads(line)) for line in lines]

    def ids(self) -> list[str]:
        """The `webhook-id` of each request, in order of arrival, repeats included."""
        return [one.id for one in self.received()]

    def count(self) -> int:
        """How many requests arrived."""
        return int(self.counts()["requests"])

    def counts(self) -> dict[str, Any]:
        """See `/_counts` above."""
        counts: dict[str, Any] = json.loads(self._call("GET", "/_counts"))
        return counts

    def wait_for(self, n: int, timeout: float = 10.0) -> None:
        """Return when `n` requests arrived. Raise `TimeoutError` with the number that did."""
        count = 0

        def arrived() -> bool:
            nonlocal count
            count = self.count()
            return count >= n

        try:
            wait_for(arrived, timeout)
        except TimeoutError as error:
            raise TimeoutError(f"{count} of {counted(n, 'request')} arrived: {error}") from None

    def clear(self) -> None:
        """Forget what arrived; orders stay."""
        self._call("POST", "/_clear")

    def _call(self, method: str, path: str, body: str | None = None) -> bytes:
        self._client.request(method, path, body)
        return self._client.getresponse().read()


if __name__ == "__main__":
    _run_scripted()
