"""Find where one HTTP/1 request ends. Pure: bytes in, a state out.

This module does not judge a request. gunicorn's parser does, and gets exactly the bytes of one
request. A head is odd if it has two lengths, a length that is no number, or a coding other than
`chunked`. The parser then gets the bytes that are there, and the connection ends: `complete` is
False. The connection also ends if the parser finds another end of the request. So no request hides
behind another one.

The work is linear in the bytes that arrive, in pieces of any size. No byte is searched twice,
except the three that may begin a terminator. This runs on the main thread, before any key is known.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

_END: Final = b"\r\n\r\n"
_BLANK: Final = re.compile(rb"(?:\r\n)+")
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\Z")
_LENGTH: Final = re.compile(rb"[0-9]{1,15}\Z")
_EXPECT: Final = re.compile(rb"\r\nexpect:[^\r\n]*", re.I)
_FIELDS: Final = (
    b"content-length",
    b"transfer-encoding",
    b"apikey",
    b"authorization",
    b"upgrade",
)
_MAX_LINE: Final = 8190
"""Bytes of a line that announces a chunk, as in gunicorn."""
_MAX_FIELDS: Final = 100
"""Header lines that are read, as in gunicorn, which refuses a head with more."""
_STEP: Final = 2_048
"""Bytes copied at once while the end is unknown, so that few belong to the next request."""
_FREE_CHUNKS: Final = 16_384
_CHUNK_BYTES: Final = 64
"""A body may have `_FREE_CHUNKS` chunks, and one more for each `_CHUNK_BYTES`. Each chunk costs a
search."""


class State(Enum):
    """Where a request is."""

    IDLE = "idle"
    """No byte of it has arrived."""
    HEAD = "head"
    BODY = "body"
    WHOLE = "whole"
    """Its last byte has arrived, or no more of it is wanted."""
    REFUSED = "refused"
    """The request exceeds a bound; `refusal` names it."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds in bytes.

    `head`: of request line and headers, and of trailers. `body`: the parser refuses a longer body
    by its length, so it is not received.
    """

    head: int
    body: int


class Arrival:
    """A request that is being received. `data`: its bytes so far."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._seen = 0
        """Bytes of `data` that are read: the head, and whole chunks."""
        self._searched = 0
        """Bytes of `data` in which the next terminator does not begin."""
        self._end: int | None = None
        """Offset of the end of the request, or None."""
        self._chunk_end = 0
        """Offset of the end of the chunk whose line was read."""
        self._trailers: int | None = None
        """Offset of the end of the last chunk's line, or None."""
        self._chunked = False
        self._blank = 0
        self._chunks = self._payload = 0
        self.data = bytearray()
        self.state = State.IDLE
        self.complete = True
        """False: more of the request exists and was not received, so the connection must end."""
        self.behind = memoryview(b"")
        """Bytes of the last `take` that follow the request."""
        self.expects = False
        """The client waits for `100 Continue` before it sends the body."""
        self.key = self.authorization = b""
        """Header values of a head that was read."""
        self.is_socket = False
        """The request asks for a websocket."""
        self.refusal = (431, "head too large")
        """Status and reason, if the state is REFUSED."""

    def take(self, data: bytes | memoryview) -> State:
        """Receive more bytes, and return the state."""
        rest = memoryview(data)
        while rest and self.state not in (State.WHOLE, State.REFUSED):
            size = self._wanted()
            self.data += rest[:size]
            rest = rest[size:]
            self._look()
        if self.state is State.WHOLE and self.complete:
            assert self._end is not None
            over = len(self.data) - self._end
            del self.data[self._end :]
            self.behind = memoryview(data)[len(data) - len(rest) - over :]
        return self.state

    def end(self) -> State:
        """Note that the client sends no more. The parser gets the bytes so far and refuses them."""
        if self.state is State.BODY:
            self._break_off()
        return self.state

    @property
    def size(self) -> int:
        """Bytes that arrived or are announced. A chunked body counts as the largest."""
        if self._end is not None:
            return self._end
        return len(self.data) if self.state is not State.BODY else self._bounds.body

    # -- inside ------------------------------------------------------------------------------

    def _wanted(self) -> int:
        """Bytes to copy before the next look."""
        if self._end is not None:
            return self._end - len(self.data)
        return max(_STEP, self._chunk_end - len(self.data))

    def _look(self) -> None:
        if self.state is State.IDLE:
            self.state = State.HEAD
        if self.state is State.HEAD:
            self._look_for_head()
        if self.state is State.BODY:
            self._look_for_end()

    def _end_at(self, at: int) -> None:
        self._end = at
        if len(self.data) >= at:
            self.state = State.WHOLE

    def _break_off(self) -> None:
        """Give the parser the bytes so far, and end the connection."""
        self.state = State.WHOLE
        self.complete = False

    def _refuse(self, status: int, why: str) -> None:
        self.state = State.REFUSED
        self.refusal = (status, why)

    def _find(self, what: bytes, start: int, end: int | None = None) -> int:
        """Return the offset of a terminator at `start` or later, or -1 if it has not arrived.

        The search begins where the one before ended.
        """
        found = self.data.find(what, max(start, self._searched), end)
        if found < 0:
            self._searched = max(start, len(self.data) - len(what) + 1)
        return found

    def _look_for_head(self) -> None:
        # Empty lines before a request are allowed. They are not part of it.
        blank = _BLANK.match(self.data)
        if blank is not None:
            del self.data[: blank.end()]
            self._blank += blank.end()
            self._searched = 0
        at = self._find(_END, 0)
        if at < 0:
            if len(self.data) + self._blank > self._bounds.head:
                self._refuse(431, "head too large")
            elif not self.data:
                self.state = State.IDLE
            return
        head = bytes(self.data[:at])
        self._seen = at + len(_END)
        self.state = State.BODY
        self._read_head(head)

    def _read_head(self, head: bytes) -> None:
        if head.count(b"\r\n") > _MAX_FIELDS:
            self._break_off()
            return
        first, *lines = head.split(b"\r\n")
        fields = _fields(lines)
        lengths = fields[b"content-length"]
        codings = [each.lower() for each in fields[b"transfer-encoding"]]
        self.key = b",".join(fields[b"apikey"])
        self.authorization = b",".join(fields[b"authorization"])
        if fields[b"upgrade"] and fields[b"upgrade"][0].lower() == b"websocket":
            target = first.partition(b" ")[2].partition(b" ")[0]
            self.is_socket = target.partition(b"?")[0].endswith(b"/ws")
        if not lengths and not codings:
            self._end_at(self._seen)
        elif codings == [b"chunked"] and not lengths:
            self._chunked = True
            self._await_body(head)
        elif not codings and len(lengths) == 1 and _LENGTH.match(lengths[0]):
            if int(lengths[0]) > self._bounds.body:
                self._break_off()
                return
            self._await_body(head)
            self._end_at(self._seen + int(lengths[0]))
        else:
            self._break_off()

    def _await_body(self, head: bytes) -> None:
        found = _EXPECT.search(head)
        if found is None:
            return
        if found.group().partition(b":")[2].strip().lower() == b"100-continue":
            # The worker sends it. Some clients would fail if the parser sent it again.
            self.expects = True
            del self.data[found.start() : found.end()]
            self._seen -= len(found.group())
            self._searched = 0

    def _look_for_end(self) -> None:
        if not self._chunked:
            assert self._end is not None
            self._end_at(self._end)
            return
        while self.state is State.BODY and self._trailers is None and self._step_over_chunk():
            pass
        if self._trailers is not None:
            self._look_for_trailers(self._trailers)
        if self.state is State.BODY and len(self.data) > self._bounds.head + self._bounds.body:
            self._break_off()

    def _step_over_chunk(self) -> bool:
        """Step over the next chunk. Return False if not all of it is there."""
        if not self._chunk_end and not self._read_chunk_line():
            return False
        after = self._chunk_end
        if after > len(self.data):
            return False
        if self.data[after - 2 : after] != b"\r\n":
            self._break_off()
            return False
        self._seen = after
        self._chunk_end = 0
        return True

    def _read_chunk_line(self) -> bool:
        """Read the line that announces a chunk. Return False if there is no chunk to step over."""
        at = self._find(b"\r\n", self._seen, self._seen + _MAX_LINE)
        if at < 0:
            if len(self.data) - self._seen >= _MAX_LINE:
                self._break_off()
            return False
        size = _SIZE.match(bytes(self.data[self._seen : at]))
        if size is None:
            self._break_off()
            return False
        length = int(size.group(1), 16)
        if length == 0:
            self._trailers = at
            return False
        self._chunk_end = at + 2 + length + 2
        self._chunks += 1
        self._payload += length
        framing = self._chunk_end - self._payload
        if self._chunks > _FREE_CHUNKS + self._payload / _CHUNK_BYTES or (
            framing > self._payload + 2 * self._bounds.head
        ):
            self._refuse(400, "its chunks are too small")
            return False
        return True

    def _look_for_trailers(self, at: int) -> None:
        """Look for the end of the trailers. The last chunk's line ends at `at`."""
        end = self._find(_END, at)
        if (len(self.data) if end < 0 else end) - at > self._bounds.head:
            self._refuse(431, "trailers too large")
        elif end >= 0 and self.data.count(b"\r\n", at, end) > _MAX_FIELDS:
            self._refuse(431, "too many trailers")
        elif end >= 0:
            self._end_at(end + len(_END))


def _fields(lines: list[bytes]) -> dict[bytes, list[bytes]]:
    """Return the values of the header lines in `_FIELDS`, by name in lower case."""
    fields: dict[bytes, list[bytes]] = {name: [] for name in _FIELDS}
    for line in lines:
        name, _, value = line.partition(b":")
        found = fields.get(name.lower())
        if found is not None:
            found.append(value.strip(b" \t"))
    return fields
