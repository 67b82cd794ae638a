"""Post over kept connections, with little work between an event and its socket.

`net.http` makes the connections, with the guard, its resolver and TLS. A connection's transport
then gets a protocol of ours. A request is one write of prepared bytes, and `net.answers` reads the
answer.

A kept connection carries the requests of one owner (a subscription) to one origin. Bytes that a
server sends unasked look like the answer to the next request, and no check of the client can
exclude that. So no other owner uses the connection. A connection is closed in four cases: bytes
wait on it before a request is written, bytes follow an answer, the answer came before the whole
request was sent, or the answer was a failure (400 and more). The last keeps a late unasked 200
behind a failure from counting as the success of the next request.

Errors are aiohttp's own classes, which `sinks._http.translate` knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import ssl
from typing import Final

import aiohttp
from aiohttp.connector import Connection
from yarl import URL

from evoflask.net import tls
from evoflask.net.answers import Answer, BadAnswer, Reading, TlsRecord

CHUNK: Final = 64 * 1024
"""Bytes of a body handed to the socket at a time, so that a large one is not copied at once."""
_WAITING: Final = select.POLLIN | select.POLLPRI | getattr(select, "POLLRDHUP", 0)


class NotHttp(aiohttp.ClientError):
    """The answer is not HTTP, or cannot prove success. The text quotes nothing of the answer."""


class TlsAnswered(NotHttp):
    """The server speaks TLS, and was sent plain HTTP."""


class Wire(asyncio.Protocol):
    """A connection, and the one request that is under way on it."""

    def __init__(
        self, connection: Connection, owner: str, origin: URL, proxy_authorization: str = ""
    ) -> None:
        transport = connection.transport
        assert transport is not None
        self.owner = owner
        self.origin = origin
        self.proxy_authorization = proxy_authorization
        """Value of the header for requests through a proxy, or "" if the proxy needs none."""
        self.requests = 0
        """Requests that were begun on it."""
        self.idle_since = 0.0
        self.secured: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._poll = select.poll()
        self._poll.register(_descriptor(transport), _WAITING)
        self._reading: Reading | None = None
        """Reads the answer to the request under way. None between requests."""
        self._sending = False
        self._waiter: asyncio.Future[None] | None = None
        """Done at the end of a 2xx, or at the head of another answer."""
        self._end: asyncio.Future[None] | None = None
        """Done at the end of an answer whose head was returned already."""
        self._writable: asyncio.Future[None] | None = None
        self._usable = True
        transport.set_protocol(self)
        # From now on only this protocol learns of the end. aiohttp's own would wait for it.
        if (handler := connection.protocol) is not None:
            handler.connection_lost(None)
        connection.close()

    # -- for the sender --------------------------------------------------------------------

    @property
    def free(self) -> bool:
        """Return True if another request can go over it."""
        return self._usable and self._reading is None and not self._transport.is_closing()

    @property
    def quiet(self) -> bool:
        """Return True if nothing waits to be read: no bytes, no end, in the kernel or in TLS."""
        if isinstance(self.secured, tls.Tls) and self.secured.received.pending:
            return False
        return not self._poll.poll(0)

    async def post(
        self, head: bytes, content: bytes, *, keep: int, most: int, spare: int
    ) -> Answer:
        """Send a request. Return at the end of a 2xx, or at the head of another answer.

        `rest` reads the rest of the latter. `keep`: bytes of the answer's body that are kept.
        `most`: bytes after which reading ends and the connection is closed. `spare`: both bounds
        for an answer that is no 2xx. Raises aiohttp's errors for a connection that breaks, and
        `NotHttp`.
        """
        self.requests += 1
        self._reading = reading = Reading(keep=keep, most=most, spare=spare)
        self._end = None
        self._waiter = waiter = self._loop.create_future()
        self._sending = True
        try:
            if len(content) <= CHUNK:
                self._transport.write(head + content)
                self._sending = False
            else:
                await self._write(head, content, waiter)
            await waiter
        except BaseException:
            self.close()
            raise
        return reading.answer

    async def rest(self, seconds: float) -> None:
        """Read the rest of an answer. Close the connection if it does not end within `seconds`."""
        if self._reading is None or not self._usable:
            return
        self._end = self._loop.create_future()
        try:
            async with asyncio.timeout(seconds):
                await self._end
        except (TimeoutError, aiohttp.ClientError, OSError):
            self.close()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close at once, also during a request. May be called twice."""
        self._usable = False
        with contextlib.suppress(OSError):
            self._transport.abort()

    async def _write(self, head: bytes, content: bytes, waiter: asyncio.Future[None]) -> None:
        """Send in pieces, each after the one before has left. Stop when the answer is there."""
        self._transport.write(head)
        view = memoryview(content)
        for start in range(0, len(view), CHUNK):
            if self._writable is not None:
                await asyncio.wait((self._writable, waiter), return_when=asyncio.FIRST_COMPLETED)
            if waiter.done():
                return
            self._transport.write(view[start : start + CHUNK])
        self._sending = False

    # -- for asyncio -------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        reading = self._reading
        if reading is None or not self._usable:
            self.close()  # bytes that no request asked for
            return
        try:
            reading.feed(data)
        except BadAnswer as error:
            self._look(reading)  # the status of a failure counts without its body
            in_tls = isinstance(error, TlsRecord) and self.secured is None
            self._fail(TlsAnswered() if in_tls else NotHttp(str(error)))
            return
        self._look(reading)

    def eof_received(self) -> None:
        """End an answer that names no length; the transport closes itself."""
        if self._reading is not None:
            self._reading.end()
            self._look(self._reading)

    def connection_lost(self, error: Exception | None) -> None:
        self._usable = False
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        if self._reading is not None:
            self._fail(self._ending(error))

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    # -- ends --------------------------------------------------------------------------------

    def _look(self, reading: Reading) -> None:
        """Wake the sender if the part of the answer that it waits for is there."""
        answer, waiter = reading.answer, self._waiter
        if reading.done:
            self._finish(reading)
        elif (
            waiter is not None
            and reading.has_head
            and not 200 <= answer.status < 300
            and not waiter.done()
        ):
            answer.early = self._is_early
            waiter.set_result(None)

    def _finish(self, reading: Reading) -> None:
        answer = reading.answer
        answer.early = answer.early or self._is_early
        self._reading = None
        self.idle_since = self._loop.time()
        for each in (self._waiter, self._end):
            if each is not None and not each.done():
                each.set_result(None)
        if not reading.kept_alive or answer.early or answer.status >= 400:
            self._usable = False
            self._loop.call_soon(self.close)

    @property
    def _is_early(self) -> bool:
        return self._sending or self._transport.get_write_buffer_size() > 0

    def _fail(self, error: Exception) -> None:
        for each in (self._end, self._waiter):
            if each is not None and not each.done():
                each.set_exception(error)
                break
        self._reading = None
        self.close()

    def _ending(self, error: Exception | None) -> Exception:
        if self._reading is not None and self._reading.has_head:
            return aiohttp.ClientPayloadError("the answer broke off")
        if isinstance(error, OSError):
            return aiohttp.ClientOSError(*error.args)
        return aiohttp.ServerDisconnectedError()


def _descriptor(transport: asyncio.BaseTransport) -> int:
    found = transport.get_extra_info("socket")
    assert isinstance(found, socket.socket) or hasattr(found, "fileno")
    return int(found.fileno())
