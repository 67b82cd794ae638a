"""Make the server's own answers, and count the bytes of the application's answers."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, Final

from gunicorn import http

from evoflask.errors import ProcessFull
from evoflask.reading import HOLD
from evoflask.serving.account import SMALL
from evoflask.serving.visitor import Visitor

RETRY_AFTER: Final = ProcessFull.retry_after
MALFORMED: Final = (
    (http.errors.LimitRequestLine, 414, "The request's line is too long."),
    (http.errors.LimitRequestHeaders, 431, "There are too many headers, or one is too long."),
    (http.errors.ExpectationFailed, 417, "Only 100-continue can be expected."),
    (
        http.errors.UnsupportedTransferCoding,
        501,
        "The only supported transfer coding is chunked.",
    ),
    (http.errors.ParseException, 400, "The request is not well-formed HTTP."),
)
"""Status and sentence for an error of the parser. The first matching class counts."""
OURS: Final = (http.errors.InvalidResponseHeader, http.errors.InvalidResponseHeaderName)
"""Errors of the parser's family that are about an answer of the application."""


def say(sock: socket.socket, data: bytes) -> None:
    """Send a few bytes. They fit into the socket's buffer unless it is full."""
    with contextlib.suppress(OSError):
        sock.send(data)


def refusal(status: int, sentence: str) -> bytes:
    """Return an answer in the contract's shape, after which the connection ends."""
    phrase, body = _shape(status, sentence)
    later = f"Retry-After: {RETRY_AFTER}\r\n" if status == 503 else ""
    head = (
        f"HTTP/1.1 {status} {phrase}\r\nConnection: close\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n{later}\r\n"
    )
    return head.encode() + body


def _shape(status: int, sentence: str) -> tuple[str, bytes]:
    phrase = HTTPStatus(status).phrase
    shape = {"status": status, "error": phrase, "response": {"message": [sentence]}}
    return phrase, json.dumps(shape).encode()


class Accounted:
    """A WSGI application whose large answers count until the client has taken them.

    An answer without a length is a stream, and does not count. gunicorn sends a piece before it
    asks for the next one, so a thread holds one piece, also if the client does not read.

    503 replaces an answer to GET that does not fit. Other answers report an action, so they are
    always sent.
    """

    def __init__(
        self,
        inner: Callable[..., Iterable[bytes]],
        visitor: Callable[[], Visitor],
        charge: Callable[[Visitor, int, bool], bool],
    ) -> None:
        self._inner = inner
        self._visitor = visitor
        self._charge = charge

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        conn = self._visitor()
        begun: list[Any] = []
        environ[HOLD] = lambda size: self._charge(conn, size, True)

        def note(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            begun[:] = [status, headers]
            # A view that streams writes before it returns.
            size = next((v for n, v in headers if n.lower() == "content-length"), "")
            if exc_info is None and size.isdigit() and int(size) > SMALL:
                may_refuse = environ["REQUEST_METHOD"] == "GET" and status.startswith("200")
                if not self._charge(conn, int(size), may_refuse):
                    begun[:] = [None]
                    return None
            return start_response(status, headers, exc_info)

        answer = self._inner(environ, note)
        conn.sending = time.monotonic()
        if begun != [None]:
            return answer
        with contextlib.suppress(AttributeError):
            answer.close()  # type: ignore[attr-defined]
        _, body = _shape(503, ProcessFull.words)
        start_response(
            "503 SERVICE UNAVAILABLE",
            [
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(body))),
                ("Retry-After", str(RETRY_AFTER)),
            ],
        )
        return [body]
