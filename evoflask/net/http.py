"""Connections that obey the guard, and an aiohttp session of such connections.

`Door` makes the connections of webhooks, for deliveries and tests, with and without a proxy.
`net.wire` speaks HTTP over them. `session` is for sinks whose server the operator chooses. aiohttp
gets no proxies or passwords from the environment and keeps no cookies. It decompresses nothing: a
kilobyte can become a gigabyte.

The guard stands in two places. The resolver refuses names with an address that may not be
reached. The connection goes to the address that it returned, and the name is not resolved again. So
a name cannot change in between. The socket factory asks once more for each socket, which also
covers hosts that are addresses already: those never get to a resolver.

A test of a subscription has a `Door` or a session of its own. So its story shows name, connection
and TLS, and no kept connection hides them.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
from aiohttp.connector import Connection
from yarl import URL

from evoflask.net import guard, resolver, story, tls
from evoflask.net.guard import Network
from evoflask.net.resolver import ForbiddenAddress, GuardedResolver
from evoflask.net.story import Story

KEEPALIVE_SECONDS = 4.0
"""How long an idle connection is kept. Many servers close theirs after 5 s (Node's default):
a request that crosses that close is ambiguous, so ours end first."""


def _connector(
    names: GuardedResolver,
    allow: tuple[Network, ...],
    *,
    limit: int,
    ssl_context: ssl.SSLContext | None,
    proxy: str,
) -> aiohttp.TCPConnector:
    def guarded_socket(info: Any) -> socket.socket:
        if proxy:  # its own address, which the operator chose
            return socket.socket(info[0], info[1], info[2])
        reason = guard.allowed(str(info[4][0]), allow)
        if reason is not None:
            raise ForbiddenAddress(str(info[4][0]), reason)
        if (told := story.current()) is not None:
            told.address = str(info[4][0])
        return socket.socket(info[0], info[1], info[2])

    return aiohttp.TCPConnector(
        resolver=aiohttp.ThreadedResolver() if proxy else names,
        socket_factory=guarded_socket,
        ssl=tls.prepared(ssl_context),
        use_dns_cache=bool(proxy),  # the guarded resolver has its own
        ttl_dns_cache=int(resolver.CACHE_SECONDS),
        keepalive_timeout=KEEPALIVE_SECONDS,
        limit=limit,
        limit_per_host=0,
    )


class Door:
    """Makes connections for one loop; the caller closes it. It keeps none.

    `proxy`: the URL of the operator's HTTP proxy, which then makes all connections. The proxy
    looks names up by itself, so known addresses and names are checked before it is used.
    `connect_timeout`: seconds for name, connection and TLS together.
    """

    def __init__(
        self,
        allow_networks: Sequence[Network],
        *,
        connect_timeout: float,
        ssl_context: ssl.SSLContext | None = None,
        proxy: str = "",
    ) -> None:
        self._allow = tuple(allow_networks)
        self._resolver = GuardedResolver(self._allow)
        self._proxy = URL(proxy) if proxy else None
        self._timeout = aiohttp.ClientTimeout(total=None, connect=connect_timeout)
        self._loop = asyncio.get_running_loop()
        self._connector = _connector(
            self._resolver, self._allow, limit=0, ssl_context=ssl_context, proxy=proxy
        )

    async def connect(
        self, origin: URL, resumed: ssl.SSLSession | None = None
    ) -> tuple[Connection, str]:
        """Return a new connection, and the value of `Proxy-Authorization` for requests on it.

        `resumed`: a TLS session of this door. Raises what aiohttp's connector raises.
        """
        if self._proxy is not None:
            await _check_first(self._resolver, self._allow, origin)
        request = aiohttp.ClientRequest(
            "POST", origin, loop=self._loop, ssl=True, proxy=self._proxy
        )
        try:
            with tls.resuming(resumed):
                made = await self._connector.connect(request, traces=[], timeout=self._timeout)
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError("no connection in time") from error
        if (told := story.current()) is not None:
            told.step("connect" if told.tls is None else "tls")
        return made, request.headers.get("Proxy-Authorization", "")

    async def close(self) -> None:
        """Cancel connections that are being made. May be called twice.

        A finished connection belongs to its request.
        """
        await self._connector.close()


def session(
    allow_networks: Sequence[Network],
    *,
    connect_timeout: float,
    limit: int,
    ssl_context: ssl.SSLContext | None = None,
    traces: Sequence[aiohttp.TraceConfig] = (),
    proxy: str = "",
) -> aiohttp.ClientSession:
    """Return a session for the running loop; the caller closes it. Its connections are shared by
    all requests to a host: only for hosts that no tenant controls.

    `proxy`, `connect_timeout`: as for a `Door`. There is no other timeout: the caller sets one.
    `limit`: connections in use at a time. It must exceed the requests under way, because waiting
    for a connection counts as connecting.
    """
    allow = tuple(allow_networks)
    names = GuardedResolver(allow)
    return aiohttp.ClientSession(
        connector=_connector(names, allow, limit=limit, ssl_context=ssl_context, proxy=proxy),
        timeout=aiohttp.ClientTimeout(total=None, connect=connect_timeout),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        requote_redirect_url=False,
        trace_configs=list(traces),
        proxy=proxy or None,
        middlewares=[functools.partial(_look_first, names, allow)] if proxy else [],
    )


class NotAsked(aiohttp.ClientError):
    """Wraps what the guard said, as aiohttp wraps an error of the system: one that is raised as
    it is loses its class there."""

    def __init__(self, error: ForbiddenAddress) -> None:
        super().__init__(str(error))
        self.os_error = error


async def _check_first(names: GuardedResolver, allow: tuple[Network, ...], url: URL) -> None:
    """Check a URL before it goes to a proxy. Raises `NotAsked`.

    A name that is unknown here passes, because the proxy looks it up.
    """
    host = url.raw_host or ""
    if (refused := guard.check_literal(host, allow)) is not None:
        raise NotAsked(ForbiddenAddress(host, refused))
    try:
        await names.resolve(host, url.port or 0)
    except ForbiddenAddress as error:
        raise NotAsked(error) from error
    except OSError:
        pass


async def _look_first(
    names: GuardedResolver,
    allow: tuple[Network, ...],
    request: aiohttp.ClientRequest,
    handler: aiohttp.ClientHandlerType,
) -> aiohttp.ClientResponse:
    await _check_first(names, allow, request.url)
    return await handler(request)


# A session that reports to a story


@contextlib.asynccontextmanager
async def telling(
    told: Story,
    allow_networks: Sequence[Network],
    *,
    connect_timeout: float,
    ssl_context: ssl.SSLContext | None = None,
    proxy: str = "",
) -> AsyncIterator[aiohttp.ClientSession]:
    """Make a session for one request that reports each step to a story.

    Errors pass. A refused certificate is looked at first.
    """
    await asyncio.to_thread(tls.system)  # reads files
    traces = aiohttp.TraceConfig()
    traces.on_connection_create_end.append(_on_connected)
    traces.on_request_headers_sent.append(_on_sent)
    made = session(
        allow_networks,
        connect_timeout=connect_timeout,
        limit=0,
        ssl_context=ssl_context,
        traces=[traces],
        proxy=proxy,
    )
    async with made, tls.looking(told):
        told.start()
        yield made


@contextlib.asynccontextmanager
async def telling_door(
    told: Story,
    allow_networks: Sequence[Network],
    *,
    connect_timeout: float,
    ssl_context: ssl.SSLContext | None = None,
    proxy: str = "",
) -> AsyncIterator[Door]:
    """Make a door for one request that reports each step to a story, like `telling`."""
    await asyncio.to_thread(tls.system)
    door = Door(
        allow_networks, connect_timeout=connect_timeout, ssl_context=ssl_context, proxy=proxy
    )
    try:
        async with tls.looking(told):
            told.start()
            yield door
    finally:
        await door.close()


async def _on_connected(*_: Any) -> None:
    if (told := story.current()) is not None:
        told.step("connect" if told.tls is None else "tls")


async def _on_sent(_: Any, __: Any, sent: aiohttp.TraceRequestHeadersSentParams) -> None:
    if (told := story.current()) is not None and told.request is not None:
        told.request["headers"] = told.headers(sent.headers)
