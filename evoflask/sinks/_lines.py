"""Post webhooks: one HTTP client for deliveries, tests and proxies.

Header values are Latin-1, out and in, as for Node, Java and the header schema.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Mapping

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from evoflask.net import story
from evoflask.net.answers import Answer
from evoflask.net.http import Door
from evoflask.net.pool import Wires
from evoflask.net.wire import Wire
from evoflask.sinks._answers import KEPT
from evoflask.sinks._http import MAX_FAILURE, Body, failure_seconds, host_of

MAX_ANSWER = 1024 * 1024
"""Bytes of a 2xx answer that are read."""
_HEADS = 64


class Fixed:
    """Headers that all requests of a destination share.

    `absolute`: a proxy gets the requests to `http` URLs, with the whole URL in the first line.
    """

    __slots__ = ("_heads", "absolute", "headers")

    def __init__(self, headers: CIMultiDict[str], *, absolute: bool = False) -> None:
        self.headers = headers
        self.absolute = absolute
        self._heads: dict[URL, bytes] = {}

    def head(self, url: URL) -> bytes:
        """Return a request's first lines. Raises `ValueError` as `lines` does."""
        found = self._heads.get(url)
        if found is None:
            whole = self.absolute and url.scheme == "http"
            target = f"http://{host_of(url)}{url.raw_path_qs}" if whole else url.raw_path_qs
            first = b"POST %b HTTP/1.1\r\n" % target.encode("ascii")
            found = first + lines(self.host(url)) + lines(self.headers)
            if len(self._heads) >= _HEADS:  # redirects may name another one each time
                self._heads.clear()
            self._heads[url] = found
        return found

    def host(self, url: URL) -> dict[str, str]:
        """Return the `Host` header, unless it is among the others."""
        return {} if "Host" in self.headers else {"Host": host_of(url)}


def lines(headers: Mapping[str, str]) -> bytes:
    """Return headers as bytes. Raises `ValueError` for an end of line in a value, or a value
    beyond Latin-1."""
    text = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if text.count("\n") != len(headers) or text.count("\r") != len(headers) or "\0" in text:
        raise ValueError("a header with an end of line in it")
    return text.encode("latin-1")


def hung_up(error: Exception) -> bool:
    """Return True if a connection that had been made ended before an answer. Pure."""
    ended = isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError)
    return ended and not isinstance(error, aiohttp.ClientConnectorError)


class Line:
    """Posts over connections that each belong to one owner."""

    def __init__(self, door: Door) -> None:
        self._wires = Wires(door)

    async def post(
        self, owner: str, url: URL, fixed: Fixed, own: Mapping[str, str], body: Body
    ) -> Reply:
        """Post, and return the answer. `own`: headers of this request alone.

        Raises what aiohttp raises.
        """
        content = body.content
        head = b"%b%bContent-Length: %d\r\n\r\n" % (fixed.head(url), lines(own), len(content))
        wire = await self._wires.wire(owner, url.origin())
        try:
            if wire.proxy_authorization:
                words = lines({"Proxy-Authorization": wire.proxy_authorization})
                head = head[:-2] + words + b"\r\n"
            told = story.current()
            if told is not None and told.request is not None:
                length = {"Content-Length": str(len(content))}
                sent = {**fixed.host(url), **fixed.headers, **own, **length}
                told.request["headers"] = told.headers(sent)
            body.started = True
            keep = KEPT if told is None else MAX_FAILURE
            answer = await wire.post(head, content, keep=keep, most=MAX_ANSWER, spare=MAX_FAILURE)
        except BaseException:
            self._wires.give_back(wire)
            raise
        if told is not None:
            told.step("answer")
            told.answers(status=answer.status, headers=told.headers(_shown(answer)))
        return Reply(self._wires, wire, answer)

    async def speaks_tls(self, url: URL, seconds: float) -> bool:
        """Return `Wires.speaks_tls`. The handshake is not part of a test's story."""
        look = self._wires.speaks_tls(url.origin(), seconds)
        return await asyncio.create_task(look, context=contextvars.Context())

    def close(self) -> None:
        """Close the free connections. The others belong to their requests."""
        self._wires.close()


def _shown(answer: Answer) -> dict[str, str]:
    found: CIMultiDict[str] = CIMultiDict()
    for name, value in answer.headers:
        found.add(name.decode("latin-1"), value.decode("latin-1"))
    return dict(found)


class Reply:
    """An answer whose head is there."""

    __slots__ = ("_answer", "_wire", "_wires", "status")

    def __init__(self, wires: Wires, wire: Wire, answer: Answer) -> None:
        self.status = answer.status
        self._wires, self._wire, self._answer = wires, wire, answer

    @property
    def doubtful(self) -> bool:
        """Return True if this may not be the answer to the request.

        It came before all of the request was sent. It also claims success, or follows another
        answer on its connection.
        """
        reused = self._wire.requests > 1
        return self._answer.early and (reused or 200 <= self.status < 300)

    def header(self, name: str) -> str | None:
        """Return the first header of that name."""
        return self._answer.header(name.lower().encode())

    def success(self) -> tuple[bytes, bool]:
        """Return its first `KEPT` bytes, and True if it ended within `MAX_ANSWER` bytes."""
        self._tell()
        return self._answer.body[:KEPT], self._answer.whole

    async def failure(self, limit: asyncio.Timeout) -> bytes:
        """Return the bytes that arrive within a moment. `limit`: the attempt's timeout."""
        await self._wire.rest(failure_seconds(limit))
        self._tell()
        return self._answer.body

    def release(self) -> None:
        """Give the connection back."""
        self._wires.give_back(self._wire)

    def _tell(self) -> None:
        if (told := story.current()) is not None:
            told.hears(self._answer.body)
            told.step("body")
