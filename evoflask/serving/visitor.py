"""A connection, its states, and the bounds of a client's time and bytes."""

from __future__ import annotations

import enum
import socket
import time
from collections.abc import Hashable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from gunicorn import http
from gunicorn.workers.gthread import TConn

from evoflask.serving.arrival import Arrival, Bounds

HOLD: Final = 0.005
"""Seconds that a thread waits at a busy connection for its next request."""


class Rank(enum.Enum):
    """What the process knows of a request's key, without asking anything outside of memory."""

    OPERATOR = "an operator's key"
    TENANT = "a token that was right before"
    STRANGER = "a key that this process has not seen to be right, or none"


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
    """Bytes of requests and answers that are held, of all connections together."""
    holds: int = 8
    """Threads that may wait at a busy connection for its next request, at once."""
    threads: int = 16
    """WEB_THREADS, of which shares are parts."""


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
        self.answered = -HOLD
        """When its last request was, by the monotonic clock."""
        self.busy = False
        """Its requests follow one another at once."""
        self.charged = 0
        """Bytes that count for it in the account."""
        self.known = False
        """The key of its request is known."""
        self.first = True
        """Its holder is not one of many unknown keys."""
        self.holder: Hashable = None
        """Whose request it is, for the threads."""
        self.share = 1
        """Threads that its holder may have at once."""
        self.sending: float | None = None
        """When its answer began to be sent, by the monotonic clock."""

    def open(self, arrival: Arrival) -> None:
        """A whole request, for the parser."""
        self.rest = arrival.behind
        self.letterbox.put(arrival.data)
        self.last = not arrival.complete
