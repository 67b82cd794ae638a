"""gunicorn's threaded worker, with a poller that receives: a thread gets a request when the
whole of it is there.

gunicorn's own gives a thread to a connection as soon as it says something, and the thread
waits for the rest: as many clients as there are threads, a byte a second each, and nobody
else is served. It closes connections on its main thread too, waiting up to two seconds for
the other side: one client that never hangs up, and nobody is served. And it stops accepting
when all its connections are taken, by whoever is idle.

Here a connection that waits costs a file and some bytes. Its time is bounded (`Patience`), all
bytes together are, and when connections run out the one that has been idle longest goes:
those that never asked anything first, then kept-alive ones, then requests on their way. All
of it happens on the main thread, which never waits for anybody; threads answer, and receive only
where a connection's requests follow one another at once and no other one waits for a thread.
"""

from __future__ import annotations

import contextlib
import json
import logging
import resource
import selectors
import socket
import ssl
import time
from collections import Counter
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass
from enum import IntEnum
from http import HTTPStatus
from typing import Any, ClassVar, Final

from gunicorn import http
from gunicorn.workers.gthread import TConn, ThreadWorker

from evoflask.serving.arrival import Arrival, Bounds, State

log = logging.getLogger(__name__)

_PIECE: Final = 262_144
"""Bytes taken from one connection before it is another's turn."""
_ACCEPTS: Final = 64
"""The same for connections that wait to be accepted."""
_LINGER: Final = 2.0
"""Seconds that the other side has to hang up after the last answer, or it might lose it: a
socket that is closed with unread bytes in it resets the connection."""
_LAST_LINGER: Final = 1.0
"""The same while the process ends, and the seconds that a connection may then be silent before
it is closed: whoever asks more often is told to come by another one. gunicorn grants two, and
there are platforms that kill after five for everything."""
_HOLD: Final = 0.005
"""Seconds that a thread waits at a busy connection for its next request."""
_LOOK: Final = 0.25
"""Seconds between two looks at everybody's time."""
_TELL: Final = 60.0
"""Seconds between two lines about those that were cut."""
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_OTHER_FILES: Final = 1_024
_MALFORMED: Final = (
    (http.errors.LimitRequestLine, 414, "The request's line is too long."),
    (http.errors.LimitRequestHeaders, 431, "There are too many headers, or one is too long."),
    (http.errors.ExpectationFailed, 417, "Only 100-continue can be expected."),
    (
        http.errors.UnsupportedTransferCoding,
        501,
        "Only chunked is understood as a transfer coding.",
    ),
    (http.errors.ParseException, 400, "The request is not well-formed HTTP."),
)
"""What the parser says of a request, by the first class that fits."""
_OURS: Final = (http.errors.InvalidResponseHeader, http.errors.InvalidResponseHeaderName)
"""Of the same family, and about what the application answered."""


@dataclass(frozen=True, slots=True)
class Patience:
    """What a client may take. Seconds and bytes."""

    bounds: Bounds
    head: float = 10.0
    """For a request's head, and for a body's first bytes."""
    rate: int = 1_000
    """Bytes a second of a body, on average, after that."""
    send: float = 30.0
    """For taking a piece of the answer."""
    buffer: int = 268_435_456
    """Bytes of requests that are not whole yet, of all connections together."""
    holds: int = 8
    """Threads that may wait at a busy connection for its next request, at once."""


class Phase(IntEnum):
    """What a connection waits for, in the order in which they are cut when there are too many."""

    LEAVING = 0
    """For the other side to hang up."""
    FRESH = 1
    """For the first byte ever."""
    KEPT = 2
    """For the next request."""
    RECEIVING = 3
    """For the rest of one."""


class _Letterbox:
    """What the parser takes for the socket: one request, and then nothing."""

    def __init__(self) -> None:
        self._data = memoryview(b"")

    def put(self, data: bytes | bytearray) -> None:
        self._data = memoryview(data)

    def recv(self, size: int) -> bytes:
        piece, self._data = self._data[:size], self._data[size:]
        return bytes(piece)

    @property
    def empty(self) -> bool:
        return not self._data


class Visitor(TConn):  # type: ignore[misc]  # gunicorn carries no types
    """A connection. `since`: when what it waits for began, by the monotonic clock."""

    def __init__(self, cfg: Any, sock: socket.socket, client: Any, server: Any) -> None:
        super().__init__(cfg, sock, client, server)
        self.letterbox = _Letterbox()
        self.parser = http.get_parser(cfg, self.letterbox, client)
        self.initialized = True
        self.arrival: Arrival | None = None
        self.phase = Phase.FRESH
        self.since = time.monotonic()
        self.registered = False
        self.discarded = 0
        self.rest: bytes | memoryview = b""
        """Bytes that follow the request that is being answered."""
        self.last = False
        """Nothing after that request may be read."""
        self.answered = -_HOLD
        """When its last request was, by the monotonic clock."""
        self.busy = False
        """Its requests follow one another at once."""

    def open(self, arrival: Arrival) -> None:
        """A whole request, for the parser."""
        self.rest = arrival.behind
        self.letterbox.put(arrival.data)
        self.last = not arrival.complete


class PatientWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn carries no types
    """See the module. `patience` is set by gunicorn's configuration."""

    patience: ClassVar[Patience] = Patience(Bounds(head=65_536, body=16_777_216))

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiting: dict[Phase, dict[Visitor, None]] = {phase: {} for phase in Phase}
        """In the order in which they began to wait."""
        self._buffered = 0
        self._queue: set[Visitor] = set()
        """Those that wait for a thread."""
        self._holds = [None] * self.patience.holds
        """One for each thread that may hold a connection, and does not."""
        self._looked = self._told = time.monotonic()
        self._cut: Counter[str] = Counter()

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """gunicorn would wake up for the end of what it keeps alive itself, and that is nothing
        here: while the process ends, a second more for each step of everybody's goodbye."""
        super().wait_for_and_dispatch_events(timeout if self.alive else min(timeout, _LOOK))

    # -- coming ------------------------------------------------------------------------------

    def accept(self, listener: socket.socket) -> None:
        """As many as wait, within a turn."""
        for _ in range(_ACCEPTS):
            try:
                sock, client = listener.accept()
            except OSError:  # nobody any more, or somebody who left already
                return
            self.nr_conns += 1
            conn = Visitor(self.cfg, sock, client, listener.getsockname())
            self._wait(conn, Phase.FRESH)
            self._receive(conn)
            if self.nr_conns >= self.worker_connections and not self._make_room():
                return

    def _receive(self, conn: Visitor) -> None:
        """It said something, or hung up."""
        try:
            data = conn.sock.recv(_PIECE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._drop(conn)
            return
        if data:
            self._take(conn, data)
        elif conn.arrival is not None and conn.arrival.end() is State.WHOLE:
            self._hand_over(conn)
        else:
            self._drop(conn)

    def _take(self, conn: Visitor, data: bytes | memoryview) -> None:
        if conn.arrival is None:
            conn.arrival = Arrival(self.patience.bounds)
        before, size = conn.arrival.state, len(conn.arrival.data)
        state = conn.arrival.take(data)
        self._buffered += len(conn.arrival.data) - size
        if state is State.WHOLE:
            self._hand_over(conn)
            return
        if state is State.REFUSED:
            self._refuse(conn, *conn.arrival.refusal)
            return
        if before is not state and state is not State.IDLE:
            self._wait(conn, Phase.RECEIVING)
        if state is State.BODY and conn.arrival.expects:
            conn.arrival.expects = False
            _say(conn.sock, _CONTINUE)
        if self._buffered > self.patience.buffer:
            self._make_space()

    def _hand_over(self, conn: Visitor) -> None:
        """To a thread, with the bytes of one request."""
        assert conn.arrival is not None
        self._forget(conn)
        conn.open(conn.arrival)
        conn.arrival = None
        conn.busy = time.monotonic() < conn.answered + _HOLD
        self._queue.add(conn)
        self.enqueue_req(conn)

    # -- waiting -----------------------------------------------------------------------------

    def _wait(self, conn: Visitor, phase: Phase) -> None:
        self._waiting[conn.phase].pop(conn, None)
        conn.phase = phase
        conn.since = time.monotonic()
        self._waiting[phase][conn] = None
        if not conn.registered:
            conn.registered = True
            self.poller.register(conn.sock, selectors.EVENT_READ, _Call(self._heard, conn))

    def _heard(self, conn: Visitor) -> None:
        if conn.phase is Phase.LEAVING:
            self._discard(conn)
        else:
            self._receive(conn)

    def _forget(self, conn: Visitor) -> None:
        """Nothing more is waited for."""
        self._waiting[conn.phase].pop(conn, None)
        if conn.arrival is not None:
            self._buffered -= len(conn.arrival.data)
        if conn.registered:
            conn.registered = False
            with contextlib.suppress(OSError, KeyError, ValueError):
                self.poller.unregister(conn.sock)

    def _make_room(self) -> bool:
        """Cut the one that can best be spared. False: all of them are being answered."""
        for phase in Phase:
            for conn in self._waiting[phase]:
                self._cut[f"too many, {phase.name.lower()}"] += 1
                self._drop(conn)
                return True
        return False

    def _make_space(self) -> None:
        """Cut the request that has been on its way for the longest time."""
        for conn in self._waiting[Phase.RECEIVING]:
            self._refuse(conn, 503, "too much on its way")
            return

    def murder_keepalived(self, force: bool = False) -> None:
        """Cut whose time is over; `force`: everybody."""
        now = time.monotonic()
        if not force and now < self._looked + _LOOK:
            return
        self._looked = now
        for conn in list(self._overdue(now)) if not force else list(self._everybody()):
            if conn.phase is Phase.RECEIVING and not force:
                self._refuse(conn, 408, "too slow")
            else:
                self._drop(conn)
        if self._cut and now >= self._told + _TELL:
            self._tell(now)

    def murder_pending(self) -> None:
        """Nobody is pending here."""

    def _everybody(self) -> Iterator[Visitor]:
        for waiting in self._waiting.values():
            yield from waiting

    def _overdue(self, now: float) -> Iterator[Visitor]:
        kept = float(self.cfg.keepalive)
        limits = {Phase.LEAVING: _LINGER, Phase.FRESH: self.patience.head, Phase.KEPT: kept}
        if not self.alive:
            limits = {phase: min(limit, _LAST_LINGER) for phase, limit in limits.items()}
        for phase, limit in limits.items():
            for conn in self._waiting[phase]:  # the oldest first
                if now < conn.since + limit:
                    break
                yield conn
        for conn in self._waiting[Phase.RECEIVING]:
            if now >= conn.since + self._allowed(conn):
                yield conn

    def _allowed(self, conn: Visitor) -> float:
        """Seconds for the part of a request that it is at."""
        arrival = conn.arrival
        assert arrival is not None
        if arrival.state is not State.BODY:
            return self.patience.head
        return self.patience.head + len(arrival.data) / self.patience.rate

    def _tell(self, now: float) -> None:
        log.warning(
            "connections cut",
            extra={"connections": sum(self._cut.values()), "why": dict(self._cut)},
        )
        self._told = now
        self._cut.clear()

    # -- being answered, in a thread -----------------------------------------------------------

    def handle(self, conn: Visitor) -> bool:
        """A request, and those that follow at once; whether the connection goes on."""
        self._queue.discard(conn)
        while self._answer(conn):
            conn.answered = time.monotonic()
            if not self._receive_next(conn):
                return True
        return False

    def _receive_next(self, conn: Visitor) -> bool:
        """Whether the next request is here, whole, and for this thread.

        Back to the poller and out to a thread again are two wake-ups, a pipe, two calls of epoll.
        So a thread stays a moment with a connection that was busy so far, unless a request waits
        for a thread, or many stay already.
        """
        if not conn.busy or conn.rest or self._queue or not self.alive:
            return False
        try:
            hold = self._holds.pop()
        except IndexError:
            return False
        try:
            conn.sock.settimeout(_HOLD)
            data = conn.sock.recv(_PIECE)
        except OSError:  # none came, or the poller will see what is wrong with it
            return False
        finally:
            self._holds.append(hold)
        arrival = Arrival(self.patience.bounds)
        if arrival.take(data) is State.WHOLE:
            conn.open(arrival)
            return True
        conn.rest = data
        return False

    def _answer(self, conn: Visitor) -> bool:
        """One request; whether the connection goes on."""
        request = None
        try:
            conn.sock.settimeout(self.patience.send)
            request = next(conn.parser)
            if not request or not self.handle_request(request, conn):
                return False
            return not conn.last and bool(conn.parser.finish_body()) and _used_up(conn)
        except (http.errors.NoMoreData, StopIteration, TimeoutError) as error:
            self.log.debug("Closing connection. %s", error)
        except ConnectionError as error:
            self.log.debug("Ignoring a broken connection. %s", error)
        except (ssl.SSLError, OSError):
            self.log.exception("Socket error processing request.")
        except Exception as error:
            conn.sock.setblocking(False)
            self.handle_error(request, conn.sock, conn.client, error)
        return False

    def handle_error(
        self, request: object, client: socket.socket, address: object, error: Exception
    ) -> None:
        """gunicorn answers with a page that repeats what it was sent, and logs that too: a key in
        a header that is not well-formed would stand in both."""
        for kind, status, sentence in _MALFORMED:
            if isinstance(error, kind) and not isinstance(error, _OURS):
                log.info("malformed request: %s", type(error).__name__)
                _say(client, _refusal(status, sentence))
                return
        log.error("a request failed outside of the application", exc_info=error)
        _say(client, _refusal(500, "Something went wrong here; the log says what."))

    # -- going -------------------------------------------------------------------------------

    def finish_request(self, conn: Visitor, done: futures.Future[bool]) -> None:
        """It was answered."""
        goes_on = not done.cancelled() and done.exception() is None and done.result()
        try:
            conn.sock.setblocking(False)
        except OSError:  # whoever had the socket closed it
            goes_on = False
        if not goes_on:
            self._say_goodbye(conn)
            return
        self._wait(conn, Phase.KEPT)
        rest, conn.rest = conn.rest, b""
        if rest:
            self._take(conn, rest)

    def _refuse(self, conn: Visitor, status: int, why: str) -> None:
        """Say why, as far as it still listens, and leave."""
        self._cut[why] += 1
        _say(conn.sock, _refusal(status, f"The request was not received: {why}."))
        self._say_goodbye(conn)

    def _say_goodbye(self, conn: Visitor) -> None:
        """Close it, once the other side has, or has had its time to."""
        self._forget(conn)
        conn.arrival = None
        try:
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(conn)
            return
        self._wait(conn, Phase.LEAVING)
        self._discard(conn)

    def _discard(self, conn: Visitor) -> None:
        """What it still says, within bounds."""
        try:
            data = conn.sock.recv(_PIECE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        conn.discarded += len(data)
        if not data or conn.discarded > self.patience.bounds.body:
            self._drop(conn)

    def _drop(self, conn: Visitor) -> None:
        self._forget(conn)
        self.nr_conns -= 1
        conn.sock.close()


class _Call:
    """What the poller does with a socket that is ready."""

    __slots__ = ("conn", "what")

    def __init__(self, what: Any, conn: Visitor) -> None:
        self.what = what
        self.conn = conn

    def __call__(self, _: object) -> None:
        self.what(self.conn)


def _say(sock: socket.socket, data: bytes) -> None:
    """A few bytes, which fit into any socket's buffer but a full one."""
    with contextlib.suppress(OSError):
        sock.send(data)


def _refusal(status: int, sentence: str) -> bytes:
    """An answer in the contract's shape, after which the connection ends."""
    phrase = HTTPStatus(status).phrase
    shape = {"status": status, "error": phrase, "response": {"message": [sentence]}}
    body = json.dumps(shape).encode()
    later = "Retry-After: 5\r\n" if status == 503 else ""
    head = (
        f"HTTP/1.1 {status} {phrase}\r\nConnection: close\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n{later}\r\n"
    )
    return head.encode() + body


def _used_up(conn: Visitor) -> bool:
    """Whether the parser took all of the request: else it saw another end of it than we."""
    return conn.letterbox.empty and not conn.parser.unreader.buf.getvalue()


def allow_files(connections: int) -> None:
    """As many open files as that many connections and everything else need, as far as we may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, connections + _OTHER_FILES)
    enough = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))
