"""Read an HTTP/1 answer as leniently as curl and browsers do. Pure: no sockets.

`Reading` takes bytes as they come and fills an `Answer`. It accepts lines that end with LF alone,
folded header values, control bytes in values, padded chunk sizes and equal `Content-Length`
headers. It refuses success if the end of the answer is in doubt: `Content-Length` beside
`Transfer-Encoding`, lengths that differ, a NUL in the head. The status and `Retry-After` of a
failure count even then.

Work and memory are linear in the bytes of an answer. The constants below bound both.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

MAX_HEAD: Final = 256 * 1024
"""Bytes of a head, interim answers (1xx) included. Chrome reads as many, curl 300 kB."""
MAX_STATUS_LINE: Final = 8 * 1024
"""Bytes."""
MAX_LINES: Final = 2_000
"""Header lines."""
MAX_INTERIM: Final = 100
"""Interim answers (1xx) before the final one."""
MAX_BLANK: Final = 16
"""Bytes of empty lines before the status line; some servers end a body with an extra CRLF."""
MAX_FRAMING: Final = 128 * 1024
"""Bytes of chunk sizes, chunk extensions and trailers of one body."""

_HEAD_END: Final = re.compile(rb"\n\r?\n")
_STATUS: Final = re.compile(rb"HTTP/(\d+(?:\.\d+)?)[ \t]+([1-9]\d\d)(?!\d)", re.IGNORECASE)
_CHUNK: Final = re.compile(rb"[ \t]*([0-9a-fA-F]{1,32})[ \t\r]*(?:;|\Z)")
_FRAMING: Final = re.compile(
    rb"\n(content-length|transfer-encoding|(?:proxy-)?connection)[ \t]*:([^\n]*)", re.IGNORECASE
)
_FOLD: Final = re.compile(rb"\r?\n[ \t]+")
_ORPHANS: Final = re.compile(rb"(?:\n[ \t][^\n]*)+")
_TLS_RECORDS: Final = (b"\x15", b"\x16")
"""First bytes of an alert and of a handshake (RFC 8446, 5.1)."""
_EMPTY: Final = bytearray()
"""A buffer that is replaced, never added to."""
_BODILESS: Final = frozenset({101, 204, 304})


_SIZE, _BEHIND, _TRAILER = range(3)
"""The line that comes next in a chunked body: a size, the end of a chunk, a trailer."""


class BadAnswer(ValueError):
    """The bytes are not an HTTP answer, or not one that can prove success."""


class TlsRecord(BadAnswer):
    """The bytes are an alert or a handshake of TLS."""


class Answer:
    """An answer, as far as it was read.

    `size`: bytes of its body so far. `whole`: the body ended in order, within its bound. `early`:
    the answer came before the whole request was sent.
    """

    # Defaults on the class: most answers are short, and an attribute that is not set costs nothing.
    status = 0
    head = b""
    """The header lines, unfolded, each behind a LF."""
    content: bytes | bytearray = b""
    size = 0
    whole = False
    early = False

    @property
    def body(self) -> bytes:
        """The first bytes of the body."""
        return bytes(self.content)

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Names as they came, values without space around them. Lines without a colon, and those
        without a name, are skipped."""
        found = []
        for line in self.head.split(b"\n"):
            name, colon, value = line.partition(b":")
            if colon and (name := name.strip(b" \t")):
                found.append((name, value.strip(b" \t\r")))
        return found

    def header(self, name: bytes) -> str | None:
        """Return the first value of a header, decoded as Latin-1. `name` is in lower case."""
        for each, value in self.headers:
            if each.lower() == name:
                return value.decode("latin-1")
        return None


class Reading:
    """Reads one answer.

    `keep`: bytes of its body to keep. `most`: bytes of its body to read. `spare`: both bounds for
    an answer that is no 2xx.
    """

    done = False
    """The answer ended, or exceeded its bound."""
    kept_alive = False
    """The connection can carry another request; never if bytes follow the answer."""
    _searched = 0
    _head = 0
    _interim = 0
    _version = b""
    _by: Callable[[bytes], None] | None = None
    _left = 0
    _phase = _SIZE
    _framing = 0

    def __init__(self, *, keep: int, most: int, spare: int) -> None:
        self.answer = Answer()
        self._keep, self._most, self._spare = keep, most, spare
        self._buffer = _EMPTY

    @property
    def has_head(self) -> bool:
        """Return True if the status and the headers of the final answer are there."""
        return self._by is not None

    def feed(self, data: bytes) -> None:
        """Read more bytes. Raises `BadAnswer`."""
        if self.done:
            self.kept_alive = self.kept_alive and not data
            return
        while self._by is None:
            rest = self._read_head(data)
            if rest is None:
                return
            data = rest
        self._by(data)

    def end(self) -> None:
        """Note that the connection ended in order. This also ends an answer without a length."""
        if not self.done and self._by == self._until_end:
            self._finish(kept_alive=False)

    # The head

    def _read_head(self, data: bytes) -> bytes | None:
        """Return the bytes behind a head, or None if its end is missing."""
        buffer: bytes | bytearray = data
        if self._buffer:  # not `_EMPTY`, which all readers share
            self._buffer += data
            buffer = self._buffer
        if buffer[:1] in (b"\r", b"\n"):
            buffer = self._without_blank_lines(buffer)
        found = _HEAD_END.search(buffer, self._searched)
        if self._head + (len(buffer) if found is None else found.end()) > MAX_HEAD:
            raise BadAnswer(f"its head is larger than {MAX_HEAD} bytes")
        if found is None:
            _check_beginning(buffer)
            if buffer is not self._buffer:
                self._buffer = bytearray(buffer)
            self._searched = max(0, len(buffer) - 2)
            return None
        start, end = found.span()
        self._head += end
        head, rest = bytes(buffer[:start]), bytes(buffer[end:])
        self._buffer, self._searched = _EMPTY, 0
        self._take_head(head)
        return rest

    def _without_blank_lines(self, buffer: bytes | bytearray) -> bytes:
        bare = bytes(buffer).lstrip(b"\r\n")
        self._head += len(buffer) - len(bare)
        self._buffer, self._searched = _EMPTY, 0
        if self._head > MAX_BLANK and not self._version:
            raise BadAnswer("it begins with empty lines")
        return bare

    def _take_head(self, head: bytes) -> None:
        found = _STATUS.match(head)
        if found is None:
            raise BadAnswer("it has no HTTP status line")
        end = head.find(b"\n")
        if (len(head) if end < 0 else end) > MAX_STATUS_LINE:
            raise BadAnswer(f"its status line is longer than {MAX_STATUS_LINE} bytes")
        if head.count(b"\n") > MAX_LINES:
            raise BadAnswer(f"its head has more than {MAX_LINES} lines")
        self._version, status = found[1], int(found[2])
        if status < 200 and status != 101:
            self._interim += 1
            if self._interim > MAX_INTERIM:
                raise BadAnswer(f"it has more than {MAX_INTERIM} interim answers")
            return
        answer = self.answer
        answer.status = status
        lines = head[end:] if end >= 0 else b""
        if b"\n " in lines or b"\n\t" in lines:
            lines = _unfolded(lines)
        answer.head = lines
        if status >= 300 or status == 101:
            self._keep = self._most = self._spare
        self._frame(lines, "a NUL in its head" if b"\0" in head else "")

    def _frame(self, lines: bytes, fault: str) -> None:
        """Find how the body ends."""
        lengths: list[bytes] = []
        codings: list[bytes] = []
        connection: list[bytes] = []
        for name, value in _FRAMING.findall(lines):
            last = name[-1:]
            kind = lengths if last in b"hH" else codings if last in b"gG" else connection
            kind.append(value.strip(b" \t\r"))
        length, wrong = _length(lengths) if lengths else (None, "")
        chunked, coded = _coding(codings) if codings else (False, False)
        if coded and lengths:
            wrong = "Content-Length beside Transfer-Encoding"
        fault = fault or wrong
        status = self.answer.status
        if fault and status < 300:
            raise BadAnswer(fault)
        self._by = self._until_end
        if fault:
            return
        if status in _BODILESS:
            self._by, self._left = self._until_length, 0
        elif chunked:
            self._by = self._until_last_chunk
        elif length is not None and not coded:
            self._by, self._left = self._until_length, length
        else:
            return
        self.kept_alive = status != 101 and _keeps_alive(self._version, connection)

    # The body

    def _until_length(self, data: bytes) -> None:
        left = self._left
        if len(data) < left:
            self._left = left - len(data)
            self._take(data)
            return
        self._take(data[:left])
        self._finish(kept_alive=self.kept_alive and len(data) == left)

    def _until_end(self, data: bytes) -> None:
        self._take(data)

    def _until_last_chunk(self, data: bytes) -> None:
        at = 0
        while not self.done and at < len(data):
            if self._left:
                piece = data[at : at + self._left]
                at += len(piece)
                self._left -= len(piece)
                self._take(piece)
                continue
            end = data.find(b"\n", at)
            line = data[at : end if end >= 0 else None]
            self._framing += len(line) + 1
            if self._framing > MAX_FRAMING:
                self._give_up()
                return
            if end < 0:
                if self._buffer:
                    self._buffer += line
                else:
                    self._buffer = bytearray(line)
                return
            at = end + 1
            if self._buffer:
                line = bytes(self._buffer) + line
                self._buffer = _EMPTY
            if self._take_line(line):
                self._finish(kept_alive=self.kept_alive and at == len(data))

    def _take_line(self, line: bytes) -> bool:
        """Read a line between chunks. Return True for the last one."""
        if self._phase == _TRAILER:
            return not line.rstrip(b"\r")
        if self._phase == _BEHIND:
            if line.strip(b" \t\r"):
                raise BadAnswer("a chunk has another size than it says")
            self._phase = _SIZE
            return False
        found = _CHUNK.match(line)
        if found is None:
            raise BadAnswer("a chunk has no size")
        self._left = int(found[1], 16)
        self._phase = _BEHIND if self._left else _TRAILER
        return False

    def _take(self, data: bytes) -> None:
        answer = self.answer
        if not answer.size:
            answer.content = data[: self._keep]
        elif (missing := self._keep - len(answer.content)) > 0:
            if isinstance(answer.content, bytes):
                answer.content = bytearray(answer.content)
            answer.content += data[:missing]
        answer.size += len(data)
        if answer.size > self._most:
            self._give_up()

    # Ends

    def _finish(self, *, kept_alive: bool) -> None:
        if not self.done:
            self.done = self.answer.whole = True
            self.kept_alive = kept_alive

    def _give_up(self) -> None:
        self.done, self.kept_alive = True, False


def _check_beginning(buffer: bytes | bytearray) -> None:
    """Refuse bytes that cannot become a status line, without waiting for more."""
    if buffer[:1] in _TLS_RECORDS:
        raise TlsRecord("it is TLS")
    if not b"HTTP/".startswith(bytes(buffer[:5]).upper()):
        raise BadAnswer("it has no HTTP status line")
    if len(buffer) > MAX_STATUS_LINE and buffer.find(b"\n", 0, MAX_STATUS_LINE + 1) < 0:
        raise BadAnswer(f"its status line is longer than {MAX_STATUS_LINE} bytes")


def _unfolded(lines: bytes) -> bytes:
    """Join each folded header line to the line before it. Drop folded lines at the start."""
    if (orphans := _ORPHANS.match(lines)) is not None:
        lines = lines[orphans.end() :]
    return _FOLD.sub(b" ", lines)


def _coding(values: list[bytes]) -> tuple[bool, bool]:
    """Return two booleans: the body is chunked, and it has any transfer coding."""
    codings = [each.strip(b" \t").lower() for each in b",".join(values).split(b",")]
    codings = [each for each in codings if each not in (b"", b"identity")]
    return bool(codings) and codings[-1] == b"chunked", bool(codings)


def _length(values: list[bytes]) -> tuple[int | None, str]:
    """Return the length of a body, and its fault or ""."""
    if len(values) == 1 and values[0].isdigit() and len(values[0]) <= 32:
        return int(values[0]), ""
    lengths = {each.strip(b" \t") for each in b",".join(values).split(b",")}
    if not all(each.isdigit() and len(each) <= 32 for each in lengths):
        return None, "a Content-Length that is no single number"
    numbers = set(map(int, lengths))
    if len(numbers) != 1:
        return None, "a Content-Length that is no single number"
    return numbers.pop(), ""


def _keeps_alive(version: bytes, values: list[bytes]) -> bool:
    if not values:
        return version == b"1.1"
    words = {each.strip(b" \t").lower() for each in b",".join(values).split(b",")}
    if b"close" in words or b"upgrade" in words:
        return False
    return version == b"1.1" or (version == b"1.0" and b"keep-alive" in words)
