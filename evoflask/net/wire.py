"""Posts over kept connections, with as little between an event and its socket as there can be.

aiohttp makes the connections, so the guard, its resolver, TLS and what is raised where none
comes about are those of `net.http`. Once a connection stands, its transport gets a protocol of
ours: a request is one write of bytes that were made before, and an answer is parsed by llhttp
into a status, what is asked of its headers and the beginning of its body.

What is raised are aiohttp's own classes, for whoever translates them knows those already.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Final

import aiohttp
import httptools
from aiohttp.connector import Connection
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from evoflask.net.http import KEEPALIVE_SECONDS

CHUNK: Final = 64 * 1024
"""Bytes of a body handed to the socket at a time, so that a large one is not copied at once."""
_HEADERS: Final = 128
_HEAD: Final = 64 * 1024
"""How many headers an answer may have, and bytes of all of them together."""


class Answer:
    """What came back. `body`: its first bytes; `size`: of all that came; `whole`: it ended in
    order, within its bound."""

    __slots__ = ("body", "headers", "size", "status", "whole")

    def __init__(self) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.size = 0
        self.whole = False

    def header(self, name: bytes) -> str | None:
        """The first of that name, given in lower case."""
        for each, value in self.headers:
            if each.lower() == name:
                return value.decode("utf-8", "surrogateescape")
        return None


class Wire(asyncio.Protocol):
    """A connection, and the one request that is under way on it."""

    def __init__(self, connection: Connection) -> None:
        transport = connection.transport
        assert transport is not None
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._transport = transport
        self._parser: httptools.HttpResponseParser | None = None
        self._answer = Answer()
        self._keep = 0
        self._most = 0
        self._spare = 0
        self._head = 0
        self._unsent = False
        """The answer came before the request was sent to its end."""
        self._waiter: asyncio.Future[None] | None = None
        """Of the answer: the end of one that says 2xx, the head of another one."""
        self._end: asyncio.Future[None] | None = None
        """Of an answer whose head was told already."""
        self._writable: asyncio.Future[None] | None = None
        self._lost = False
        self._between = True
        """No request is under way, and the last one ended in order."""
        self._done = False
        """The answer is there; what follows it is nobody's."""
        self.idle_since = 0.0
        transport.set_protocol(self)

    # -- for who sends ---------------------------------------------------------------------

    @property
    def free(self) -> bool:
        """Whether another request can go over it."""
        return self._between and not self._lost and not self._transport.is_closing()

    async def post(
        self, head: bytes, content: bytes, *, keep: int, most: int, spare: int
    ) -> Answer:
        """Sends a request and answers when a 2xx was read to its end, or when the head of
        anything else is there; `rest` reads on then.

        `keep`: bytes of the answer's body that are kept; `most`: bytes after which it is
        nobody's answer any more, and the connection is closed; `spare`: both for anything but a
        2xx. Raises what aiohttp raises of a connection that breaks, or of an answer that is not
        HTTP.
        """
        self._between = self._done = False
        self._parser = httptools.HttpResponseParser(self)
        self._answer = answer = Answer()
        self._keep, self._most, self._spare, self._head = keep, most, spare, 0
        self._unsent = False
        self._end = None
        self._waiter = waiter = self._loop.create_future()
        try:
            if len(content) <= CHUNK:
                self._transport.write(head + content)
            else:
                await self._write(head, content, waiter)
            await waiter
        except BaseException:
            self.close()
            raise
        return answer

    async def rest(self, seconds: float) -> None:
        """What is left of an answer whose head is there, as far as it comes in time; the
        connection is closed when it does not."""
        if self._done or self._lost:
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
        """At once, whatever is under way. May be called twice."""
        self._between = False
        with contextlib.suppress(OSError):
            self._transport.abort()
        self._connection.close()

    async def _write(self, head: bytes, content: bytes, waiter: asyncio.Future[None]) -> None:
        """In pieces, none before the last one went; ends where the answer came before."""
        self._transport.write(head)
        view = memoryview(content)
        for start in range(0, len(view), CHUNK):
            if self._writable is not None:
                await asyncio.wait((self._writable, waiter), return_when=asyncio.FIRST_COMPLETED)
            if waiter.done():
                self._unsent = True
                return
            self._transport.write(view[start : start + CHUNK])

    # -- what asyncio calls ------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._parser is None or self._between:
            self.close()  # nobody asked
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._finish(keep=False)  # to what nobody asked for
        except httptools.HttpParserCallbackError as error:
            self._fail(_bad(str(error.__context__ or error)))
        except httptools.HttpParserError as error:
            self._fail(_bad(str(error)))

    def eof_received(self) -> None:
        """An answer that names no length ends with the connection."""
        answer = self._answer
        if self._parser is None or self._between or not answer.status or self._framed():
            return
        answer.whole = True
        self._finish(keep=False)

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = True
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        if not self._between:
            self._fail(self._ending(error))
        self._connection.close()

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    # -- what llhttp calls -------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._done:
            raise ValueError("a second answer to one request")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head += len(name) + len(value)
        self._answer.headers.append((name, value))
        if self._head > _HEAD or len(self._answer.headers) > _HEADERS:
            raise ValueError("its head is too large")

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        answer = self._answer
        answer.status = self._parser.get_status_code()
        if answer.status < 300 and answer.status != 101:
            return  # read to its end; below 200 another one follows
        self._keep = self._most = self._spare
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def on_body(self, data: bytes) -> None:
        if self._done:
            return
        answer = self._answer
        answer.size += len(data)
        missing = self._keep - len(answer.body)
        if missing > 0:
            answer.body += data[:missing]
        if answer.size > self._most:
            self._finish(keep=False)

    def on_message_complete(self) -> None:
        assert self._parser is not None
        answer = self._answer
        if answer.status < 200 and answer.status != 101:
            answer.status, self._head = 0, 0
            answer.headers.clear()
            return
        if self._done:
            return
        answer.whole = True
        sent = self._writable is None and not self._unsent
        http = answer.status != 101
        self._finish(keep=sent and http and self._parser.should_keep_alive())

    # -- ends --------------------------------------------------------------------------------

    def _finish(self, *, keep: bool) -> None:
        """The answer is there, or as much of it as anybody wants."""
        if self._done:
            return
        self._done, self._between = True, keep
        self.idle_since = self._loop.time()
        for each in (self._waiter, self._end):
            if each is not None and not each.done():
                each.set_result(None)
        if not keep:
            self._parser = None
            self._loop.call_soon(self.close)

    def _fail(self, error: Exception) -> None:
        for each in (self._end, self._waiter):
            if each is not None and not each.done():
                each.set_exception(error)
                break
        self._parser = None
        self.close()

    def _ending(self, error: Exception | None) -> Exception:
        if self._answer.status:
            return aiohttp.ClientPayloadError("the answer broke off")
        if isinstance(error, OSError):
            return aiohttp.ClientOSError(*error.args)
        return aiohttp.ServerDisconnectedError()

    def _framed(self) -> bool:
        return any(
            name.lower() in (b"content-length", b"transfer-encoding")
            for name, _ in self._answer.headers
        )


def _bad(why: str) -> aiohttp.ClientError:
    about = aiohttp.RequestInfo(URL(), "POST", CIMultiDictProxy(CIMultiDict()), URL())
    return aiohttp.ClientResponseError(about, (), message=why)


class Wires:
    """Connections of a session's connector that wait for their next request, by origin."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        connector = session.connector
        assert connector is not None
        self._session = session
        self._connector = connector
        self._timeout = session.timeout
        self._loop = asyncio.get_running_loop()
        self._free: dict[URL, deque[Wire]] = {}
        self._sweep: asyncio.TimerHandle | None = None

    async def wire(self, origin: URL) -> Wire:
        """One that is free, the last that was used first; else a new one. Raises as aiohttp."""
        free = self._free.get(origin)
        while free:
            found = free.pop()
            if found.free and self._loop.time() - found.idle_since < KEEPALIVE_SECONDS:
                return found
            found.close()
        request = aiohttp.ClientRequest("POST", origin, loop=self._loop, ssl=True)
        try:
            connection = await self._connector.connect(request, traces=[], timeout=self._timeout)
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError("no connection in time") from error
        return Wire(connection)

    def give_back(self, origin: URL, wire: Wire) -> None:
        """After its request; one that cannot be used again is let go of."""
        if not wire.free:
            wire.close()
            return
        self._free.setdefault(origin, deque()).append(wire)
        if self._sweep is None:
            self._sweep = self._loop.call_later(KEEPALIVE_SECONDS, self._let_go)

    def close(self) -> None:
        """All that are free."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for free in self._free.values():
            for each in free:
                each.close()
        self._free.clear()

    def _let_go(self) -> None:
        """Those that have not been used for too long: the oldest stand first."""
        self._sweep = None
        limit = self._loop.time() - KEEPALIVE_SECONDS
        for origin, free in list(self._free.items()):
            while free and (free[0].idle_since <= limit or not free[0].free):
                free.popleft().close()
            if not free:
                del self._free[origin]
        if self._free:
            self._sweep = self._loop.call_later(KEEPALIVE_SECONDS / 4, self._let_go)
