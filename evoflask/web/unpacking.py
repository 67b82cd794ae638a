"""Unpack a request's body, gzip or deflate, within a bound of unpacked bytes. Pure: pieces in,
pieces out.

`deflate` means the zlib format (RFC 9110, 8.4.1.2). Some clients send the raw format under that
name. So a stream without a zlib header is read as raw.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Any, Final

from evoflask.errors import BadInput, TooLarge, WrongType
from evoflask.plurals import counted

CODINGS: Final = ("gzip", "deflate")
"""The supported content codings, beside `identity`."""
PIECE: Final = 65_536
"""Bytes that one step unpacks, at most."""
MEMBERS: Final = 10_000
"""Members of one gzip stream, at most: as many as a batch has lines. Each costs some kilobytes."""
LAYERS: Final = 2
"""Codings of one body, at most."""


def codings(header: str) -> list[str]:
    """Return the codings of a Content-Encoding, the last applied first. Raises `WrongType`."""
    names = [name.strip().lower().removeprefix("x-") for name in header.split(",")]
    found = [name for name in names if name not in ("", "identity")]
    unknown = next((name for name in found if name not in CODINGS), None)
    if unknown is not None:
        raise WrongType(
            f"Content-Encoding: {unknown[:40]!r} is not supported. Send the body as it is, or as "
            f"{' or '.join(CODINGS)}.",
            encodings=CODINGS,
        )
    if len(found) > LAYERS:
        raise WrongType(
            f"Content-Encoding: more than {LAYERS} codings. Send the body with one.",
            encodings=CODINGS,
        )
    return found[::-1]


def unpacked(pieces: Iterable[bytes], coding: str, limit: int) -> Iterator[bytes]:
    """Undo one coding. Raises `TooLarge` at the first piece beyond `limit` bytes.

    Raises `BadInput` for a stream that is corrupt, ends too early or has bytes behind its end.
    """
    stream = _Stream(coding)
    total = 0
    for piece in pieces:
        for out in stream.feed(piece):
            total += len(out)
            if total > limit:
                raise TooLarge(
                    f"The body is larger than {counted(limit, 'byte')} once it is unpacked."
                )
            yield out
    if not stream.whole:
        raise BadInput(f"The body's {coding} stream ended too early.")


class _Stream:
    """Undoes one coding of one body. `whole`: its end has arrived."""

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._head = b""
        """The first bytes, until they show the format."""
        self._zlib: Any = None
        self._members = 0
        self.whole = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Unpack more bytes, and yield them in pieces."""
        while data:
            if self._zlib is None:
                data, self._head = self._head + data, b""
                if not self._begin(data):
                    self._head = data
                    return
            yield from self._unpack(data)
            if not self._zlib.eof:
                return
            data, self._zlib = self._zlib.unused_data, None
            if data and self._coding != "gzip":
                raise BadInput(f"The body has bytes behind the end of its {self._coding} stream.")

    def _begin(self, data: bytes) -> bool:
        """Return False if the bytes are too few to know the format."""
        if len(data) < 2:
            self.whole = False
            return False
        self._members += 1
        if self._members > MEMBERS:
            raise BadInput(f"The body's gzip stream has more than {MEMBERS} members.")
        self.whole = False
        self._zlib = zlib.decompressobj(_window(self._coding, data))
        return True

    def _unpack(self, data: bytes) -> Iterator[bytes]:
        while True:
            try:
                out = self._zlib.decompress(data, PIECE)
            except zlib.error:
                raise BadInput(f"The body is not a {self._coding} stream, or is corrupt.") from None
            if out:
                yield out
            data = self._zlib.unconsumed_tail
            if self._zlib.eof:
                self.whole = True
                return
            if not data and len(out) < PIECE:
                return


def _window(coding: str, head: bytes) -> int:
    """Return zlib's `wbits`: the format and the largest window."""
    if coding == "gzip":
        return 16 + zlib.MAX_WBITS
    is_zlib = head[0] & 0x0F == 8 and (head[0] << 8 | head[1]) % 31 == 0
    return zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS
