"""pika's connection and message properties, made cheaper: how frames are written.

The one place that uses what pika keeps protected: its hooks for writing and ending a stream.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Mapping
from typing import Any, ClassVar

from pika import spec
from pika.adapters.asyncio_connection import AsyncioConnection

from evoflask import formats

PIECE = 64 * 1024
"""Bytes of frames that are joined for one write. Not more: what a write leaves over is copied."""
_APP = b"evoflask"


_FLAGS = (
    spec.BasicProperties.FLAG_CONTENT_TYPE
    | spec.BasicProperties.FLAG_DELIVERY_MODE
    | spec.BasicProperties.FLAG_MESSAGE_ID
    | spec.BasicProperties.FLAG_TIMESTAMP
    | spec.BasicProperties.FLAG_APP_ID
)


def _head(mark: str, signed: Mapping[str, str] | None = None) -> bytes:
    """Flags, content type, the table of headers where there is a mark or a signature, and
    delivery mode 2."""
    kind = formats.Format.content_type.encode()
    flags, table = _FLAGS, b""
    if mark or signed:
        flags |= spec.BasicProperties.FLAG_HEADERS
        pairs = bytes([len(mark)]) + mark.encode() + b"t\x01" if mark else b""
        for name, text in (signed or {}).items():
            pairs += struct.pack(f">B{len(name)}scI", len(name), name.encode(), b"S", len(text))
            pairs += text.encode()
        table = struct.pack(">I", len(pairs)) + pairs
    return struct.pack(">HB", flags, len(kind)) + kind + table + b"\x02"


class Connection(AsyncioConnection):  # type: ignore[misc]
    """Gathers the frames of one turn of the loop: pika writes each by a system call of its own,
    three of them a message."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.limit: int | None = None
        """The broker's largest message, once it said so."""
        self._pieces: list[bytes] = []
        super().__init__(*args, **kwargs)

    @property
    def unsent(self) -> int:
        """Bytes that the broker has not taken yet."""
        return int(self._transport.get_write_buffer_size()) if self._transport else 0

    @property
    def address(self) -> str:
        """Who is spoken to; "": nobody yet."""
        socket: Any = getattr(self._transport, "_sock", None)
        with contextlib.suppress(OSError, AttributeError):
            return str(socket.getpeername()[0])
        return ""

    def drop(self, error: Exception) -> None:
        """Ends it without asking the broker."""
        if not self.is_closed:
            self._terminate_stream(error)

    def _adapter_emit_data(self, data: bytes) -> None:
        if not self._pieces:
            self._adapter_call_later(0, self._write)
        self._pieces.append(data)

    def _write(self) -> None:
        pieces, self._pieces = self._pieces, []
        if self._transport is None:
            return
        first, size = 0, 0
        for n, piece in enumerate(pieces):
            if size and size + len(piece) > PIECE:
                self._transport.write(b"".join(pieces[first:n]))
                first, size = n, 0
            size += len(piece)
        self._transport.write(b"".join(pieces[first:]))


class Properties(spec.BasicProperties):  # type: ignore[misc]
    """What a message carries beside its body: `content_type`, `delivery_mode` 2, `message_id`,
    `timestamp` (Unix seconds of acceptance) and `app_id`; of what is marked also the header
    `test` or `replay`, true, and of what is signed the headers that say so.

    Encoded by hand: pika asks for each of the fourteen that there could be, which was an
    eighth of a delivery's CPU.
    """

    _HEADS: ClassVar[dict[str, bytes]] = {mark: _head(mark) for mark in formats.MARKS}
    """By mark: all that comes before the id."""
    _TAIL = bytes([len(_APP)]) + _APP

    def __init__(
        self, event_id: str, at: int, mark: str = "", signed: Mapping[str, str] | None = None
    ) -> None:
        # Not the base's: its fourteen fields are not looked at.
        self._id, self._at, self._mark, self._signed = event_id, at, mark, signed

    def encode(self) -> list[bytes]:
        """The pieces of the header frame, as pika joins them."""
        name = self._id.encode()
        return [
            _head(self._mark, self._signed) if self._signed else self._HEADS[self._mark],
            struct.pack("B", len(name)),
            name,
            struct.pack(">Q", self._at),
            self._TAIL,
        ]
