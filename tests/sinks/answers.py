"""A table of answers, and servers that send them to the byte: plain, with TLS, behind a proxy.

docs/sinks.md has this table too; `test_answers.py` compares the two.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BOTH = b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Row:
    """An answer and its outcome.

    `holds`: the server keeps the connection open after the answer. `slow`: it sends byte by byte.
    """

    name: str
    answer: bytes
    outcome: str = "delivered"
    code: str = "200"
    retry_after: float | None = None
    holds: bool = True
    slow: bool = False


def _head(*lines: bytes, status: bytes = b"200 OK") -> bytes:
    return b"\r\n".join((b"HTTP/1.1 " + status, *lines, b"", b""))


def _padded(size: int) -> bytes:
    """Return a 200 with a head of about `size` bytes."""
    line = b"X-Pad: " + b"y" * 1_000
    return _head(*[line] * (size // (len(line) + 2)), b"Content-Length: 2") + b"ok"


LENGTH = b"Content-Length: 2"
DELIVERED = (
    Row("a Content-Length", OK),
    Row("no reason phrase", OK.replace(b" OK", b"")),
    Row("a reason phrase in Latin-1", OK.replace(b"OK", b"Gar\xe7on", 1)),
    Row("two spaces in the status line", OK.replace(b" 200 ", b"  200  ")),
    Row("`http/1.1` in lower case", OK.replace(b"HTTP", b"http", 1)),
    Row("`HTTP/2` in the status line", OK.replace(b"HTTP/1.1", b"HTTP/2", 1)),
    Row("HTTP/1.0 with a length", OK.replace(b"1.1", b"1.0", 1)),
    Row("HTTP/1.0 to the end of the connection", b"HTTP/1.0 200 OK\r\n\r\nall", holds=False),
    Row("HTTP/1.1 to the end of the connection", _head() + b"all", holds=False),
    Row("lines that end with LF", OK.replace(b"\r\n", b"\n")),
    Row("lines that end with LF, the last with CRLF", b"HTTP/1.1 200 OK\nContent-Length: 0\n\r\n"),
    Row("an empty line before the status line", b"\r\n" + OK),
    Row("100 Continue before it", b"HTTP/1.1 100 Continue\r\n\r\n" + OK),
    Row("three Early Hints before it", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 3 + OK),
    Row("byte by byte", OK, slow=True),
    Row("a folded header value", _head(b"X-A: one", b" two", b"\tthree", LENGTH) + b"ok"),
    Row("a folded first header", _head(b" lost", LENGTH) + b"ok"),
    Row("0x01 in a header value", _head(b"X-A: a\x01b", LENGTH) + b"ok"),
    Row("0x7f and 0x80 in a header value", _head(b"X-A: \x7f\x80", LENGTH) + b"ok"),
    Row("a lone CR in a header value", _head(b"X-A: a\rb", LENGTH) + b"ok"),
    Row("Latin-1 in a header value", _head(b"X-A: f\xf8r", LENGTH) + b"ok"),
    Row("UTF-8 in a header value", _head("X-A: för €".encode(), LENGTH) + b"ok"),
    Row("an empty header value", _head(b"X-A:", b"X-B: ", LENGTH) + b"ok"),
    Row("no space behind the colon", _head(b"X-A:b", b"Content-Length:2") + b"ok"),
    Row("space before the colon", _head(b"X-A : b", b"Content-Length : 2") + b"ok"),
    Row("a header without a colon", _head(b"nonsense", LENGTH) + b"ok"),
    Row("a header without a name", _head(b": x", LENGTH) + b"ok"),
    Row("a header name with odd characters", _head(b"X (a) [b]@\xe9: x", LENGTH) + b"ok"),
    Row("a head of 9 kB", _padded(9_000)),
    Row("a head of 70 kB", _padded(70_000)),
    Row("a head of 250 kB", _padded(250_000)),
    Row("one header of 70 kB", _head(b"X-A: " + b"y" * 70_000, LENGTH) + b"ok"),
    Row("1,500 headers", _head(*[b"X: y"] * 1_500, LENGTH) + b"ok"),
    Row("two equal lengths", _head(LENGTH, LENGTH) + b"ok"),
    Row("two equal lengths in one header", _head(b"Content-Length: 2, 2") + b"ok"),
    Row("a length with zeros before it", _head(b"Content-Length: 0002") + b"ok"),
    Row("a length with space around it", _head(b"Content-Length: \t 2 \t") + b"ok"),
    Row("chunks", CHUNKED + b"2\r\nok\r\n0\r\n\r\n"),
    Row("no chunk but the last", CHUNKED + b"0\r\n\r\n"),
    Row("chunk sizes padded with space", CHUNKED + b"2  \r\nok\r\n 0 \r\n\r\n"),
    Row("chunk sizes padded with zeros", CHUNKED + b"00000002\r\nok\r\n00000000\r\n\r\n"),
    Row("chunk sizes in capitals", CHUNKED + b"A\r\n0123456789\r\n0\r\n\r\n"),
    Row("chunk extensions", CHUNKED + b'2;a=b;c="d"\r\nok\r\n0 ; last\r\n\r\n'),
    Row("chunks whose lines end with LF", CHUNKED + b"2\nok\n0\n\n"),
    Row("trailers", CHUNKED + b"2\r\nok\r\n0\r\nX-Sum: 1\r\nX-B: 2\r\n\r\n"),
    Row("`Chunked` with a capital", CHUNKED.replace(b"chunked", b"Chunked") + b"0\r\n\r\n"),
    Row("chunked said twice", _head(*[b"Transfer-Encoding: chunked"] * 2) + b"0\r\n\r\n"),
    Row("gzip and chunked", _head(b"Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n"),
    Row("HTTP/1.0 with chunks", CHUNKED.replace(b"1.1", b"1.0", 1) + b"0\r\n\r\n"),
    Row("Transfer-Encoding: identity and a length",
        _head(b"Transfer-Encoding: identity", LENGTH) + b"ok"),
    Row("Transfer-Encoding: gzip to the end", _head(b"Transfer-Encoding: gzip") + b"x",
        holds=False),
    Row("a compressed body that is none", _head(b"Content-Encoding: gzip", LENGTH) + b"ok"),
    Row("Connection: close and an open connection", _head(b"Connection: close", LENGTH) + b"ok"),
    Row("more than its length", OK + b"more"),
    Row("an empty line behind it", OK + b"\r\n"),
    Row("a second answer behind it", OK + b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"),
    Row("a body of 1 MiB",
        _head(b"Content-Length: 1048576") + b"x" * 1_048_576),
    Row("201", OK.replace(b"200", b"201"), code="201"),
    Row("202 in chunks", CHUNKED.replace(b"200", b"202") + b"0\r\n\r\n", code="202"),
    Row("204", _head(status=b"204 No Content"), code="204"),
    Row("204 with a body", _head(status=b"204 No Content") + b"a body", code="204"),
    Row("204 with a length and a body",
        _head(b"Content-Length: 6", status=b"204 No Content") + b"a body", code="204"),
    Row("204 with chunks",
        _head(b"Transfer-Encoding: chunked", status=b"204 No") + b"0\r\n\r\n", code="204"),
    Row("299", OK.replace(b"200", b"299"), code="299"),
)  # fmt: skip
FAILED = (
    Row("503 with Retry-After", _head(b"Retry-After: 7", b"Content-Length: 0", status=b"503 No"),
        "refused", "503", 7.0),
    Row("503 with both lengths and Retry-After",
        _head(b"Retry-After: 7", status=b"503 No")[:-2] + BOTH, "refused", "503", 7.0),
    Row("429 with both lengths, Retry-After behind them",
        _head(b"Transfer-Encoding: chunked", LENGTH, b"Retry-After: 9", status=b"429 No"),
        "refused", "429", 9.0),
    Row("410 with both lengths", _head(status=b"410 Gone")[:-2] + BOTH, "rejected", "410"),
    Row("500 with two lengths",
        _head(LENGTH, b"Content-Length: 3", status=b"500 No") + b"ok", "refused", "500"),
    Row("503 with Retry-After, lines that end with LF",
        b"HTTP/1.1 503 No\nRetry-After: 7\nContent-Length: 0\n\n", "refused", "503", 7.0),
    Row("503 with a folded Retry-After",
        _head(b"Retry-After:", b" 7", b"Content-Length: 0", status=b"503 No"),
        "refused", "503", 7.0),
    Row("400 with a NUL in its head",
        _head(b"X: \0", b"Content-Length: 0", status=b"400 No"), "rejected", "400"),
    Row("500 with a head of 70 kB", _padded(70_000).replace(b"200 OK", b"500 No"),
        "refused", "500"),
    Row("500 without the end of its body", _head(b"Content-Length: 9", status=b"500 No"),
        "refused", "500", holds=False),
    Row("500 with a chunk that has no size",
        _head(b"Transfer-Encoding: chunked", status=b"500 No") + b"x\r\n", "refused", "500"),
    Row("500 with a body of 1 MiB",
        _head(b"Content-Length: 1048576", status=b"500 No") + b"x" * 1_048_576, "refused", "500"),
    Row("101", _head(b"Upgrade: x", status=b"101 Switching") + b"raw", "refused", "101"),
    Row("301", _head(b"Location: /x", b"Content-Length: 0", status=b"301 Moved"),
        "refused", "301"),
    Row("304 with a body", _head(b"Content-Length: 2", status=b"304 Same") + b"ok",
        "refused", "304"),
    Row("307 without a Location", _head(b"Content-Length: 0", status=b"307 Moved"),
        "refused", "307"),
    Row("999", OK.replace(b"200", b"999"), "refused", "999"),
)  # fmt: skip


def _bad(name: str, answer: bytes, *, holds: bool = True) -> Row:
    return Row(name, answer, "ambiguous", "bad-answer", holds=holds)


DOUBTFUL = (
    _bad("200 with both lengths", _head()[:-2] + BOTH),
    _bad("200 with both lengths, the other way round",
         _head(b"Transfer-Encoding: chunked", LENGTH) + b"2\r\nok\r\n0\r\n\r\n"),
    _bad("204 with both lengths", _head(status=b"204 No")[:-2] + BOTH),
    _bad("200 with two lengths", _head(LENGTH, b"Content-Length: 3") + b"ok"),
    _bad("a length that is no number", _head(b"Content-Length: two") + b"ok"),
    _bad("a length below zero", _head(b"Content-Length: -1") + b"ok"),
    _bad("an empty length", _head(b"Content-Length:") + b"ok"),
    _bad("a NUL in the head", _head(b"X: \0", LENGTH) + b"ok"),
    _bad("the greeting of an SSH server", b"SSH-2.0-OpenSSH_9.2\r\n"),
    _bad("a body without a head", b"<html>it works</html>"),
    _bad("a status of four digits", OK.replace(b"200", b"2000")),
    _bad("a status below 100", OK.replace(b"200", b"099")),
    _bad("a status line without a status", b"HTTP/1.1 OK\r\nContent-Length: 0\r\n\r\n"),
    _bad("a status line of 9 kB", OK.replace(b"OK", b"y" * 9_000, 1)),
    _bad("a status line without end", b"HTTP/1.1 200 " + b"y" * 100_000),
    _bad("a head of 300 kB", _padded(300_000)),
    _bad("a head without end", b"HTTP/1.1 200 OK\r\nX-A: " + b"y" * 300_000),
    _bad("2,100 headers", _head(*[b"X: y"] * 2_100, LENGTH) + b"ok"),
    _bad("100 Continue without end", b"HTTP/1.1 100 Continue\r\n\r\n" * 200),
    _bad("a chunk without a size", CHUNKED + b"two\r\nok\r\n"),
    _bad("a chunk of another size", CHUNKED + b"2\r\nlonger\r\n0\r\n\r\n"),
    Row("less than its length", _head(b"Content-Length: 9") + b"ok", "ambiguous", "reset",
        holds=False),
    Row("chunks without the last one", CHUNKED + b"2\r\nok\r\n", "ambiguous", "reset",
        holds=False),
    Row("half a head", b"HTTP/1.1 200 OK\r\nContent-Le", "ambiguous", "reset", holds=False),
    Row("nothing", b"", "ambiguous", "reset", holds=False),
    Row("a body above 1 MiB", _head(b"Content-Length: 1048577") + b"x" * 1_048_577,
        "ambiguous", "answer-too-large"),
    Row("60,000 chunks of one byte", CHUNKED + b"1\r\nx\r\n" * 60_000 + b"0\r\n\r\n",
        "ambiguous", "answer-too-large"),
)  # fmt: skip
ROWS = (*DELIVERED, *FAILED, *DOUBTFUL)

Talk = Callable[[socket.socket], None]


@contextlib.contextmanager
def server(talk: Talk) -> Iterator[int]:
    """Run a server that calls `talk` in a thread for each connection. Yield its port."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:

        def one(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):
                connection.settimeout(60)
                talk(connection)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    threading.Thread(target=one, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def read_request(connection: socket.socket) -> bytes:
    """Read one request to its end. Raises `OSError` if none comes."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _some(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += _some(connection)
    return head


def _some(connection: socket.socket) -> bytes:
    data = connection.recv(65_536)
    if not data:
        raise ConnectionError
    return data


def answering(connection: socket.socket) -> None:
    """Answer the request for `/n` with the n-th row."""
    target = read_request(connection).split(b" ")[1]
    row = ROWS[int(target.rpartition(b"/")[2])]
    if row.slow:
        for n in range(len(row.answer)):
            connection.sendall(row.answer[n : n + 1])
    else:
        connection.sendall(row.answer)
    if row.holds:
        while connection.recv(65_536):
            pass


def answering_with_tls(context: ssl.SSLContext) -> Talk:
    """Return `answering` over TLS."""

    def talk(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secured:
            answering(secured)
            with contextlib.suppress(OSError):
                secured.unwrap()

    return talk


def proxying(connection: socket.socket) -> None:
    """Be a proxy for one connection: relay it to the host of its first request."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _some(connection)
    method, target = data.split(b" ", 2)[:2]
    place = target if method == b"CONNECT" else target.split(b"/")[2]
    host, _, port = place.partition(b":")
    with socket.create_connection((host.decode(), int(port)), 60) as upstream:
        if method == b"CONNECT":
            connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            upstream.sendall(data)
        back = threading.Thread(target=_relay, args=(upstream, connection), daemon=True)
        back.start()
        _relay(connection, upstream)
        back.join(60)


def _relay(source: socket.socket, to: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            to.sendall(data)
    with contextlib.suppress(OSError):
        to.shutdown(socket.SHUT_WR)
