"""What a webhook is posted over: our own kept connections, or an aiohttp session where a story is
told or a proxy stands between. Both answer in the same words.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from evoflask.net import story
from evoflask.net.wire import Answer, Wire, Wires
from evoflask.sinks._answers import KEPT
from evoflask.sinks._http import (
    MAX_FAILURE,
    Body,
    failure_body,
    failure_seconds,
    host_of,
    tell_answer,
)

MAX_ANSWER = 1024 * 1024
"""Bytes of a 2xx answer that are read."""
_HEADS = 64


class Fixed:
    """Headers that are the same for all requests of a destination."""

    __slots__ = ("_heads", "headers")

    def __init__(self, headers: CIMultiDict[str]) -> None:
        self.headers = headers
        self._heads: dict[URL, bytes] = {}

    def head(self, url: URL) -> bytes:
        """A request's first lines. Raises `ValueError` for what would be several headers."""
        found = self._heads.get(url)
        if found is None:
            first = b"POST %b HTTP/1.1\r\n" % url.raw_path_qs.encode("ascii")
            host = {} if "Host" in self.headers else {"Host": host_of(url)}
            found = first + lines(host) + lines(self.headers)
            if len(self._heads) >= _HEADS:  # redirects may name another one each time
                self._heads.clear()
            self._heads[url] = found
        return found


def lines(headers: Mapping[str, str]) -> bytes:
    """As they are sent. Raises `ValueError` for a value with an end of line in it."""
    text = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if text.count("\n") != len(headers) or text.count("\r") != len(headers) or "\0" in text:
        raise ValueError("a header with an end of line in it")
    return text.encode()


class Reply(Protocol):
    """An answer whose head is there."""

    status: int

    def header(self, name: str) -> str | None:
        """The first of that name."""

    async def success(self) -> tuple[bytes, bool]:
        """Its first `KEPT` bytes, and whether it ended within `MAX_ANSWER`. Raises where it
        broke off."""

    async def failure(self, limit: asyncio.Timeout) -> bytes:
        """What can be read of it in a moment. `limit`: the attempt's own."""

    def release(self) -> None:
        """Nobody reads on."""


class Line(Protocol):
    """Something to post over."""

    async def post(self, url: URL, fixed: Fixed, own: Mapping[str, str], body: Body) -> Reply:
        """Raises what aiohttp raises. `own`: headers of this request alone."""


class SessionLine:
    """By aiohttp."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def post(self, url: URL, fixed: Fixed, own: Mapping[str, str], body: Body) -> Reply:
        headers = fixed.headers.copy()
        headers.update(own)
        response = await self._session.post(url, data=body, headers=headers, allow_redirects=False)
        tell_answer(response)
        return _SessionReply(response)


class _SessionReply:
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self._response = response

    def header(self, name: str) -> str | None:
        return self._response.headers.get(name)

    async def success(self) -> tuple[bytes, bool]:
        size, begins, content, told = 0, b"", self._response.content, story.current()
        while not content.at_eof():
            piece = await content.readany()
            size += len(piece)
            if len(begins) < KEPT:
                begins += piece[:KEPT]
            if told is not None:
                told.hears(piece)
            if size > MAX_ANSWER:
                self._response.close()
                return begins, False
        if told is not None:
            told.step("body")
        return begins, True

    async def failure(self, limit: asyncio.Timeout) -> bytes:
        return await failure_body(self._response, limit)

    def release(self) -> None:
        self._response.release()


class WireLine:
    """By our own connections."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._wires = Wires(session)

    async def post(self, url: URL, fixed: Fixed, own: Mapping[str, str], body: Body) -> Reply:
        content = body.content
        head = b"%b%bContent-Length: %d\r\n\r\n" % (fixed.head(url), lines(own), len(content))
        origin = url.origin()
        wire = await self._wires.wire(origin)
        body.started = True
        answer = await wire.post(head, content, keep=KEPT, most=MAX_ANSWER, spare=MAX_FAILURE)
        return _WireReply(self._wires, origin, wire, answer)

    def close(self) -> None:
        """Connections that are under way are their requests'."""
        self._wires.close()


class _WireReply:
    __slots__ = ("_answer", "_origin", "_wire", "_wires", "status")

    def __init__(self, wires: Wires, origin: URL, wire: Wire, answer: Answer) -> None:
        self.status = answer.status
        self._wires, self._origin, self._wire, self._answer = wires, origin, wire, answer

    def header(self, name: str) -> str | None:
        return self._answer.header(name.lower().encode())

    async def success(self) -> tuple[bytes, bool]:
        return self._answer.body, self._answer.whole

    async def failure(self, limit: asyncio.Timeout) -> bytes:
        await self._wire.rest(failure_seconds(limit))
        return self._answer.body

    def release(self) -> None:
        self._wires.give_back(self._origin, self._wire)
