"""One websocket's bytes: frames in, frames out, pings, and the ends that a connection may have.

flask-sock makes the handshake and wsproto reads the frames, but simple-websocket's own reading
and sending are not used: it reads in a second thread for each socket, sends from both threads
on a socket that may take only a part (which nobody looks at), blocks without end on a client
that does not read, and keeps whatever a client says in a list without bound. Here one thread
owns the socket, which never blocks; what is still to be sent is bounded by the caller, which
looks at `room`; and a client that says more than it reads is not read any further.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from wsproto import WSConnection
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.utilities import ProtocolError

from evoflask.gateway import protocol

SEND_BUFFER = 128 * 1024
"""What the kernel keeps of a socket that is not read, instead of megabytes."""
LAST_BUFFER = 1024 * 1024
"""The same when a client is cut: room for the frame that was begun, and for the reason."""
GRACE = 1.0
"""Seconds for the last frame to go out, and for the other side to answer it."""
MANY = 64
"""Frames handed to the kernel at once, and messages of a client that are looked at in turn."""
_HANGUP = select.POLLHUP | select.POLLERR | select.POLLNVAL


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one socket."""

    queue: int
    queue_bytes: int
    ping: float
    idle: float
    stall: float
    """Seconds: between pings; without a word from the client; without its taking a byte."""


class Closed(Exception):
    """The connection ended, or shall end. `code` None: there is nobody left to tell."""

    def __init__(self, code: int | None, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class Connection:
    """Belongs to one thread, but for `wake`."""

    def __init__(self, sock: socket.socket, ws: WSConnection, limits: Limits) -> None:
        self._sock = sock
        self._ws: Any = ws
        self._limits = limits
        self._out: deque[bytes] = deque()
        self._sent = 0
        """Bytes of the first frame that are sent."""
        self._size = 0
        self._said: list[str | bytes] = []
        self._partial: list[str | bytes] = []
        self._partial_size = 0
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._rung = False
        self._ringing = threading.Lock()
        """Else a bell could be rung whose number is somebody else's file by now."""
        self._poll = select.poll()
        now = time.monotonic()
        self._heard = self._moved = self._pinged = now
        sock.setblocking(False)
        with contextlib.suppress(OSError):  # a TCP socket only
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._poll.register(self._bell, select.POLLIN)
        self._poll.register(sock, select.POLLIN)

    @property
    def room(self) -> bool:
        """Whether more may be sent."""
        return len(self._out) < self._limits.queue and self._size < self._limits.queue_bytes

    @property
    def drained(self) -> bool:
        """Return True if the kernel has taken all that was sent."""
        return not self._out

    def wake(self) -> None:
        """From any thread: `step` returns soon."""
        with self._ringing:
            if not self._rung:
                self._rung = True
                os.eventfd_write(self._bell, 1)

    def send(self, frame: bytes) -> None:
        """Sent by the next steps, in order."""
        if not self._out:
            self._moved = time.monotonic()
        self._out.append(frame)
        self._size += len(frame)

    def step(self, *, wait: bool, until: float | None = None) -> list[str | bytes]:
        """Send, and answer what the client said. Where there is nothing to do (`wait`) or no
        room, wait for something to happen, or for a moment of the monotonic clock. Raises
        `Closed`."""
        self._flush()
        events = select.POLLOUT if self._out else 0
        if self.room:  # a client that does not read its answers is not asked for more
            events |= select.POLLIN
        self._poll.modify(self._sock, events)
        idle = (wait or not self.room) and not self._rung
        found = dict(self._poll.poll(self._patience(until) if idle else 0))
        if self._bell in found:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._bell)
        self._rung = False
        happened = found.get(self._sock.fileno(), 0)
        if happened & (select.POLLIN | _HANGUP):
            self._read()
        if happened & select.POLLOUT:
            self._flush()
        self._look_at_the_clock()
        said, self._said = self._said, []
        return said

    def close(self, code: int | None, reason: str) -> None:
        """Say why, wait a moment for the other side, and hang up. What the kernel does not take
        now is not sent any more: a client resumes by its cursor. Does not raise."""
        with contextlib.suppress(Closed, OSError, ProtocolError):
            if code is not None:
                self._say_goodbye(code, reason)
        # Hung up here and not by gunicorn, which would wait for the other side on its main
        # thread, and which counts a connection twice that it finds closed.
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def dispose(self) -> None:
        """Nobody may wake it any more."""
        with self._ringing:
            self._rung = True
            os.close(self._bell)

    # -- inside ------------------------------------------------------------------------------

    def _say_goodbye(self, code: int, reason: str) -> None:
        self._flush()
        begun = [self._out[0]] if self._sent else []
        self._out = deque(begun)
        self._size = sum(map(len, begun))
        with contextlib.suppress(OSError):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LAST_BUFFER)
        self._out.append(self._ws.send(CloseConnection(code, reason[:100])))
        end = time.monotonic() + GRACE
        while self._out and self._until(end, select.POLLOUT):
            self._flush()
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
        end = time.monotonic() + GRACE
        while self._until(end, select.POLLIN) and self._sock.recv(65536):
            pass

    def _until(self, end: float, event: int) -> bool:
        poll = select.poll()
        poll.register(self._sock, event)
        left = end - time.monotonic()
        return left > 0 and bool(poll.poll(left * 1000))

    def _flush(self) -> None:
        try:
            while self._out:
                parts: list[Any] = [memoryview(self._out[0])[self._sent :]]
                parts += [self._out[n] for n in range(1, min(MANY, len(self._out)))]
                self._forget(self._sock.sendmsg(parts))
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            raise Closed(None, f"the connection broke: {error.strerror}") from error

    def _forget(self, sent: int) -> None:
        self._moved = time.monotonic()
        sent += self._sent
        while self._out and sent >= len(self._out[0]):
            frame = self._out.popleft()
            sent -= len(frame)
            self._size -= len(frame)
        self._sent = sent

    def _read(self) -> None:
        try:
            data = self._sock.recv(16384)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            raise Closed(None, f"the connection broke: {error.strerror}") from error
        if not data:
            raise Closed(None, "the client hung up")
        self._heard = time.monotonic()
        try:
            self._ws.receive_data(data)
            for event in self._ws.events():
                self._hear(event)
        except ProtocolError as error:
            raise Closed(1002, "not a websocket frame") from error

    def _hear(self, event: object) -> None:
        if isinstance(event, TextMessage | BytesMessage):
            self._hear_part(event)
        elif isinstance(event, Ping):
            self.send(self._ws.send(event.response()))
        elif isinstance(event, CloseConnection):
            # 1005 stands for a close without a code, and is none.
            raise Closed(1000 if event.code == 1005 else int(event.code), "the client closed")
        else:
            assert isinstance(event, Pong)

    def _hear_part(self, event: TextMessage | BytesMessage) -> None:
        data = event.data if isinstance(event.data, str) else bytes(event.data)
        self._partial.append(data)
        self._partial_size += len(data)
        if self._partial_size > protocol.MAX_FRAME or len(self._partial) > protocol.MAX_FRAME:
            raise Closed(protocol.TOO_BIG, f"a message may have {protocol.MAX_FRAME} bytes")
        if event.message_finished:
            whole = data[:0].join(self._partial)  # type: ignore[arg-type]
            self._said.append(whole)
            self._partial, self._partial_size = [], 0

    def _patience(self, until: float | None) -> float:
        """Milliseconds until something is due by the clock."""
        due = [self._pinged + self._limits.ping]
        if self.room:
            due.append(self._heard + self._limits.idle)
        if self._out:
            due.append(self._moved + self._limits.stall)
        if until is not None:
            due.append(until)
        return max(0.0, (min(due) - time.monotonic()) * 1000 + 1)

    def _look_at_the_clock(self) -> None:
        now = time.monotonic()
        if self._out and now >= self._moved + self._limits.stall:
            raise Closed(protocol.TOO_SLOW, "you do not read; resume by your cursor")
        # What it said may lie unread while it does not take its answers.
        if now >= self._heard + self._limits.idle and self.room:
            raise Closed(protocol.SILENT, "no answer to pings")
        if now >= self._pinged + self._limits.ping:
            self._pinged = now
            self.send(self._ws.send(Ping()))
