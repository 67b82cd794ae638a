"""How much of one HTTP/1 request has arrived. Pure: bytes in, a state out.

It says where a request ends, and judges nothing: whether it is a good one is for gunicorn's
parser, which gets exactly the bytes of one request. So where a head is odd (two lengths, a
length that is no number, an encoding that is not `chunked`) it gets what is there, says what is
wrong with it, and the connection ends: `complete` is False. And where the two should ever
disagree about a request's last byte, the parser finds no more, or something left over, and the
connection ends too. So nothing is smuggled behind anything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

_END: Final = b"\r\n\r\n"
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\Z")
_LENGTH: Final = re.compile(rb"[0-9]{1,15}\Z")
_EXPECT: Final = re.compile(rb"\r\nexpect:[^\r\n]*", re.I)
_MAX_LINE: Final = 8190
"""Of a line that announces a chunk, as gunicorn's own."""


class State(Enum):
    """Where a request is."""

    IDLE = "idle"
    """Not a byte yet."""
    HEAD = "head"
    BODY = "body"
    WHOLE = "whole"
    """Its last byte is here, or nothing more is wanted of it."""
    ENDLESS = "endless"
    """A head beyond its bound."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """In bytes. `head`: request line and headers. `body`: above it a body is not received, since
    its length alone gets it refused."""

    head: int
    body: int


class Arrival:
    """One request on its way. `data`: its bytes, and what came behind them."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._seen = 0
        """Bytes of `data` that need not be looked at again."""
        self._end: int | None = None
        """Where it ends, as far as that is known."""
        self._chunked = False
        self.data = bytearray()
        self.state = State.IDLE
        self.complete = True
        """False: there is more of it that was not received; the connection must not go on."""
        self.expects = False
        """The client waits for `100 Continue` before it sends the body."""

    def take(self, data: bytes) -> State:
        """More of it came."""
        self.data += data
        if self.state is State.IDLE and self.data:
            self.state = State.HEAD
        if self.state is State.HEAD:
            self._look_for_head()
        if self.state is State.BODY:
            self._look_for_end()
        return self.state

    def end(self) -> State:
        """Nothing more will come. What is there of a body is for the parser, which says that it
        broke off."""
        if self.state is State.BODY:
            self._break_off()
        return self.state

    def split(self) -> tuple[bytes, bytes]:
        """The bytes of a whole request, and those behind it, of the next one."""
        end = self._end if self.complete and self._end is not None else len(self.data)
        view = memoryview(self.data)
        return bytes(view[:end]), bytes(view[end:])

    # -- inside ------------------------------------------------------------------------------

    def _end_at(self, at: int) -> None:
        self._end = at
        if len(self.data) >= at:
            self.state = State.WHOLE

    def _break_off(self) -> None:
        """What is there is all that the parser gets, and the last of this connection."""
        self.state = State.WHOLE
        self.complete = False

    def _look_for_head(self) -> None:
        # Empty lines before a request are allowed, and are no request.
        while self.data.startswith(b"\r\n"):
            del self.data[:2]
            self._seen = 0
        at = self.data.find(_END, max(0, self._seen - 3))
        if at < 0:
            self._seen = len(self.data)
            if not self.data:
                self.state = State.IDLE
            elif self._seen > self._bounds.head:
                self.state = State.ENDLESS
            return
        head = bytes(self.data[:at])
        self._seen = at + len(_END)
        self.state = State.BODY
        self._read_head(head)

    def _read_head(self, head: bytes) -> None:
        lengths: list[bytes] = []
        codings: list[bytes] = []
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                lengths.append(value.strip(b" \t"))
            elif name.lower() == b"transfer-encoding":
                codings.append(value.strip(b" \t").lower())
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
            # It is said by whoever receives the body; said twice, some clients stumble.
            self.expects = True
            del self.data[found.start() : found.end()]
            self._seen -= len(found.group())

    def _look_for_end(self) -> None:
        if not self._chunked:
            assert self._end is not None
            self._end_at(self._end)
            return
        while self.state is State.BODY and self._step_over_chunk():
            pass
        if self.state is State.BODY and len(self.data) > self._bounds.head + self._bounds.body:
            self._break_off()

    def _step_over_chunk(self) -> bool:
        """Whether a chunk is there and was stepped over."""
        at = self.data.find(b"\r\n", self._seen, self._seen + _MAX_LINE)
        if at < 0:
            if len(self.data) - self._seen >= _MAX_LINE:
                self._break_off()
            return False
        size = _SIZE.match(bytes(self.data[self._seen : at]))
        if size is None:
            self._break_off()
            return False
        if int(size.group(1), 16) == 0:
            self._look_for_trailers(at)
            return False
        after = at + 2 + int(size.group(1), 16) + 2
        if after > len(self.data):
            return False
        if self.data[after - 2 : after] != b"\r\n":
            self._break_off()
            return False
        self._seen = after
        return True

    def _look_for_trailers(self, at: int) -> None:
        """Behind the last chunk's line, which ends at `at`."""
        end = self.data.find(_END, at)
        if end >= 0:
            self._end_at(end + len(_END))
