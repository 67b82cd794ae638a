"""An aiohttp session that obeys the guard.

aiohttp is kept from everything that would reach further than it was told, or remember
more than one request: no proxies and passwords from the environment, no cookies, no
decompression (a kilobyte can become a gigabyte).

The guard stands in two places. The resolver refuses names with an address that may not be
reached, and what it answers is what is connected to (nobody resolves a second time, so a name
cannot change its mind in between). The socket factory asks once more for each socket, which also
covers hosts that are addresses already: those never get to a resolver.

Where a story is told (a test of a subscription), `telling` makes a session for that alone, so
that name, connection and TLS are part of it and no kept connection hides them.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from evoflask.net import certificate, guard, story
from evoflask.net.certificate import Certificate
from evoflask.net.guard import Network
from evoflask.net.story import Story

KEEPALIVE_SECONDS = 4.0
"""How long an idle connection is kept. Many servers close theirs after 5 s (Node's default):
a request that crosses that close is ambiguous, so ours end first."""
DNS_CACHE_SECONDS = 10
DNS_LOOKUPS = 256
"""How many names are looked up at a time. Each has a thread of its own, for up to 20 s when
the name's servers do not answer: the loop's small pool would be full of such names, and a
pool's threads are waited for when the process ends."""


class ForbiddenAddress(OSError):
    """The guard said no. The text names host and reason."""

    def __init__(self, host: str, reason: str) -> None:
        super().__init__(f"{host} may not be reached: {reason}")


class GuardedResolver(AbstractResolver):
    """The system's resolver, for names whose addresses may all be reached."""

    def __init__(self, allow_networks: Sequence[Network]) -> None:
        self._allow = tuple(allow_networks)
        self._slots = asyncio.Semaphore(DNS_LOOKUPS)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Raises ForbiddenAddress where one of its addresses may not be reached, OSError where
        there is none."""
        async with self._slots:
            infos = await _in_thread(lambda: _look_up(host, port, family))
        reasons = {str(info[4][0]): guard.allowed(str(info[4][0]), self._allow) for info in infos}
        if (told := story.current()) is not None:
            told.addresses = [{"address": a, "refused": why} for a, why in reasons.items()]
            told.step("resolve")
        # One of them is enough to refuse the name: whoever controls it has no business inside.
        refused = next(filter(None, reasons.values()), None if reasons else "no address")
        if refused is not None:
            raise ForbiddenAddress(host, refused)
        return [_result(host, port, info) for info in infos]

    async def close(self) -> None:
        """Nothing to let go of: a thread under way ends by itself, and is a daemon."""


async def _in_thread(call: Callable[[], list[Any]]) -> list[Any]:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[list[Any]] = loop.create_future()

    def settle(result: list[Any] | None, error: BaseException | None) -> None:
        if future.done():  # cancelled meanwhile
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result or [])

    def run() -> None:
        result, error = None, None
        try:
            result = call()
        except Exception as caught:
            error = caught
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name="dns", daemon=True).start()
    return await future


def _look_up(host: str, port: int, family: int) -> list[Any]:
    return socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)


def _result(host: str, port: int, info: Any) -> ResolveResult:
    return ResolveResult(
        hostname=host,
        host=str(info[4][0]),
        port=port,
        family=info[0],
        proto=info[2],
        flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
    )


def session(
    allow_networks: Sequence[Network],
    *,
    connect_timeout: float,
    limit: int,
    ssl_context: ssl.SSLContext | None = None,
    traces: Sequence[aiohttp.TraceConfig] = (),
    proxy: str = "",
) -> aiohttp.ClientSession:
    """A session for the running loop; the caller closes it.

    `proxy`: the URL of an HTTP proxy, the operator's, that all of it goes through. It looks names
    up by itself, so what is known of them here is checked before it is asked, and what counts in
    the end is what the proxy lets pass.

    `connect_timeout`: seconds for name, connection and TLS together. There is no other
    timeout: whoever sends sets one. `limit`: connections in use at a time; it must be above
    what the caller has under way, for waiting in line counts as connecting.
    """
    allow = tuple(allow_networks)

    resolver = GuardedResolver(allow)

    def guarded_socket(info: Any) -> socket.socket:
        if proxy:  # its own address, which the operator chose
            return socket.socket(info[0], info[1], info[2])
        reason = guard.allowed(str(info[4][0]), allow)
        if reason is not None:
            raise ForbiddenAddress(str(info[4][0]), reason)
        if (told := story.current()) is not None:
            told.address = str(info[4][0])
        return socket.socket(info[0], info[1], info[2])

    connector = aiohttp.TCPConnector(
        resolver=aiohttp.ThreadedResolver() if proxy else resolver,
        socket_factory=guarded_socket,
        ssl=ssl_context if ssl_context is not None else True,
        ttl_dns_cache=DNS_CACHE_SECONDS,
        keepalive_timeout=KEEPALIVE_SECONDS,
        limit=limit,
        limit_per_host=0,
    )
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None, connect=connect_timeout),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        requote_redirect_url=False,
        trace_configs=list(traces),
        proxy=proxy or None,
        middlewares=[functools.partial(_look_first, resolver, allow)] if proxy else [],
    )


class NotAsked(aiohttp.ClientError):
    """Wraps what the guard said, as aiohttp wraps an error of the system: one that is raised as
    it is loses its class there."""

    def __init__(self, error: ForbiddenAddress) -> None:
        super().__init__(str(error))
        self.os_error = error


async def _look_first(
    resolver: GuardedResolver,
    allow: tuple[Network, ...],
    request: aiohttp.ClientRequest,
    handler: aiohttp.ClientHandlerType,
) -> aiohttp.ClientResponse:
    """Before a proxy is asked. A name that nobody knows here is the proxy's to look up."""
    host = request.url.raw_host or ""
    if (refused := guard.check_literal(host, allow)) is not None:
        raise NotAsked(ForbiddenAddress(host, refused))
    try:
        await resolver.resolve(host, request.url.port or 0)
    except ForbiddenAddress as error:
        raise NotAsked(error) from error
    except OSError:
        pass
    return await handler(request)


# A story that is told


LOOK_SECONDS = 3.0
"""How long a certificate that was not accepted is looked at."""


@contextlib.asynccontextmanager
async def telling(
    told: Story,
    allow_networks: Sequence[Network],
    *,
    connect_timeout: float,
    ssl_context: ssl.SSLContext | None = None,
    proxy: str = "",
) -> AsyncIterator[aiohttp.ClientSession]:
    """A session for one request, that tells its story and keeps no connection. What is raised
    within passes; a certificate that was not accepted is looked at before."""
    context = await asyncio.to_thread(_context) if ssl_context is None else ssl_context
    context.sslobject_class = _Told
    traces = aiohttp.TraceConfig()
    traces.on_connection_create_end.append(_on_connected)
    traces.on_request_headers_sent.append(_on_sent)
    made = session(
        allow_networks,
        connect_timeout=connect_timeout,
        limit=0,
        ssl_context=context,
        traces=[traces],
        proxy=proxy,
    )
    async with made:
        try:
            told.start()
            yield made
        except aiohttp.ClientConnectorCertificateError as error:
            told.tls = await _refused(told, error)
            raise


@functools.cache
def _context() -> ssl.SSLContext:
    """As aiohttp makes its own. Reads the system's certificates: some milliseconds, once."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(("http/1.1",))
    return context


async def _on_connected(*_: Any) -> None:
    if (told := story.current()) is not None:
        told.step("connect" if told.tls is None else "tls")


async def _on_sent(_: Any, __: Any, sent: aiohttp.TraceRequestHeadersSentParams) -> None:
    if (told := story.current()) is not None and told.request is not None:
        told.request["headers"] = told.headers(sent.headers)


class _Told(ssl.SSLObject):
    """TLS that tells when it began and what came of it, where somebody listens."""

    def do_handshake(self) -> None:
        told = story.current()
        if told is not None and "connect" not in told.timing:
            told.step("connect")
        super().do_handshake()
        if told is not None:
            der = self.getpeercert(binary_form=True)
            told.tls = _tls(self.version(), certificate.read(der) if der else None)


async def _refused(told: Story, error: aiohttp.ClientConnectorCertificateError) -> dict[str, Any]:
    found = await certificate.fetch(
        told.address, error.port or 443, error.host, seconds=LOOK_SECONDS
    )
    why = getattr(error.certificate_error, "verify_message", "") or "it was not accepted"
    return {**_tls(None, found), "refused": why}


def _tls(version: str | None, found: Certificate | None) -> dict[str, Any]:
    if found is None:
        return {"version": version, "certificate": None}
    return {
        "version": version,
        "certificate": {
            "subject": found.subject,
            "issuer": found.issuer,
            "names": list(found.names),
            "notBefore": found.not_before.isoformat(),
            "notAfter": found.not_after.isoformat(),
        },
    }
