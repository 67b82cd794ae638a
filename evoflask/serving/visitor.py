"""Describe a connection, its states, and the bounds of a client's time and bytes."""

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
    """The rank of a request's key, as far as the process knows from its memory."""

    OPERATOR = "an operator's key"
    TENANT = "a token that was right before"
    STRANGER = "a key that this process has not seen to be right, or none"


@dataclass(frozen=True, slots=True)
class Patience:
    """The bounds of a client, in seconds and bytes."""

    bounds: Bounds
    head: float = 10.0
    """Seconds for a request's head, and for a body's first bytes."""
    rate: int = 1_000
    """Bytes a second of a body, on average, after that."""
    send: float = 30.0
    """Seconds for taking a piece of the answer."""
    buffer: int = 268_435_456
    """Bytes of requests and answers that are held, of all connections together."""
    holds: int = 8
    """Threads that may wait at a busy connection for its next request, at once."""
    threads: int = 16
    """WEB_THREADS, of which shares are parts."""


class Phase(IntEnum):
    """States of a waiting connection, in the order in which excess connections are closed."""

    LEAVING = 0
    """Waits for the client to close it."""
    FRESH = 1
    """Waits for its first byte."""
    KEPT = 2
    """Waits for the next request."""
    RECEIVING = 3
    """Waits for the rest of a request."""


class _OneRequest:
    """Looks like a socket to the parser. It has the bytes of one request, and then nothing."""

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
    """A connection. `since`: begin of its present wait, by the monotonic clock."""

    def __init__(self, cfg: Any, sock: socket.socket, client: Any, server: Any) -> None:
        super().__init__(cfg, sock, client, server)
        self.source = _OneRequest()
        self.parser = http.get_parser(cfg, self.source, client)
        self.initialized = True
        self.arrival: Arrival | None = None
        self.phase = Phase.FRESH
        self.since = time.monotonic()
        self.registered = False
        self.discarded = 0
        self.rest: bytes | memoryview = b""
        """Bytes behind the request that is being answered."""
        self.last = False
        """No request after that one may be read."""
        self.answered = -HOLD
        """Time of its last answer, by the monotonic clock."""
        self.busy = False
        """Its requests follow one another without a pause."""
        self.charged = 0
        """Bytes that count for it in the account."""
        self.known = False
        """The key of its request is known."""
        self.first = True
        """Its holder is not one of many unknown keys."""
        self.holder: Hashable = None
        """The holder of the request, for `Turns`."""
        self.share = 1
        """Threads that its holder may have at once."""
        self.sending: float | None = None
        """Begin of sending its answer, by the monotonic clock."""

    def open(self, arrival: Arrival) -> None:
        """Give a whole request to the parser."""
        self.rest = arrival.behind
        self.source.put(arrival.data)
        self.last = not arrival.complete
