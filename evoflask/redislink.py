"""The way to a Redis by its URL: TCP, TLS, a Unix socket, or whichever server Sentinels name.

    redis://[user[:password]@]host[:port][/db]
    rediss://[user[:password]@]host[:port][/db][?ssl_ca_certs=/path]
    unix://[user[:password]@]/path/of/the/socket
    redis+sentinel://[user[:password]@]host[:port][,host[:port]...]/service[/db]
    rediss+sentinel://... TLS, to the servers and to the Sentinels

Hosts of a Sentinel URL are Sentinels; user and password are those of the servers, the options
`sentinel_username` and `sentinel_password` those of the Sentinels. Options are a closed list: the
URL must not change a time-out or a bound that the caller relies on.

Nothing here retries: redis-py would repeat a command whose answer is late up to ten times.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

import redis
import redis.asyncio
from redis import sentinel
from redis.asyncio import sentinel as async_sentinel
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

PORT: Final = 6379
SENTINEL_PORT: Final = 26379
SENTINEL_TIMEOUT: Final = 1.0
"""Seconds for one Sentinel's answer; the next one is asked then."""

_TLS = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname"})
_OF_SENTINELS = {"sentinel_username": "username", "sentinel_password": "password"}
_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
_HOST = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[^\s,:\[\]/?#@]+))(?::(?P<port>\d+))?")
_URL: Final = re.compile(r"([^:/?#]+)://([^/?#]*)([^?#]*)(?:\?([^#]*))?")
_SERVICE = re.compile(r"[A-Za-z0-9._-]+")

Options = tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Link:
    """What a URL says. Hashable, so that one process asks the Sentinels by one client."""

    nodes: tuple[tuple[str, int], ...]
    """One server, or the Sentinels; none: a Unix socket."""
    service: str
    """The master's name at the Sentinels; empty: no Sentinels."""
    tls: bool
    server: Options
    """redis-py's arguments for the servers, credentials among them."""
    sentinels: Options
    """The same for the Sentinels."""


def parse(url: str) -> Link:
    """Raises `ValueError` with a sentence's end that repeats nothing of the URL: it may carry a
    password."""
    scheme, netloc, path, query = _split(url)
    if scheme not in _SCHEMES:
        raise ValueError("must be a URL that begins with " + ", ".join(f"{s}://" for s in _SCHEMES))
    tls, watched = scheme.startswith("rediss"), scheme.endswith("+sentinel")
    server, sentinels = _options(query, tls, watched)
    login, _, hosts = netloc.rpartition("@")
    user, _, password = login.partition(":")
    server |= {"username": unquote(user)} if user else {}
    server |= {"password": unquote(password)} if password else {}
    if scheme == "unix":
        if hosts or not path:
            raise ValueError("must name a socket's path, unix:///path/of/the/socket")
        return Link((), "", False, _frozen(server | {"path": unquote(path)}), ())
    service, _, db = path.strip("/").rpartition("/") if watched else ("", "", path.strip("/"))
    if watched and not service:
        service, db = db, ""
    if watched and not _SERVICE.fullmatch(service):
        raise ValueError("must name the service after the Sentinels, .../mymaster/0")
    server["db"] = _db(db)
    names = hosts.split(",") if watched else [hosts]
    nodes = tuple(_node(name, SENTINEL_PORT if watched else PORT) for name in names)
    return Link(nodes, service, tls, _frozen(server), _frozen(sentinels))


def check(url: str) -> str:
    """A reader of a setting: the URL, or `ValueError` as `parse` raises it."""
    parse(url)
    return url


def secrets(url: str) -> set[str]:
    """What must never be printed, as written and decoded."""
    _, netloc, _, query = _split(url)
    found = {netloc.rpartition("@")[0].partition(":")[2]}
    for option in query.split("&"):
        if option.startswith("sentinel_password="):
            found.add(option.partition("=")[2])
    return {text for each in found for text in (each, unquote(each)) if text}


def _split(url: str) -> tuple[str, str, str, str]:
    """Scheme, authority, path and query, by RFC 3986, appendix B; empty where it is no URL. The
    library's `urlsplit` refuses, since its releases of 2025, brackets that do not begin the
    host: several Sentinels are no URL to it."""
    found = _URL.match(url)
    if not found:
        return "", "", "", ""
    scheme, netloc, path, query = found.groups(default="")
    return scheme.lower(), netloc, path, query


_AOF_ERROR = re.compile(
    r"Errors writing to the AOF file: ([A-Za-z][A-Za-z /-]*?)(?: script\b|[^A-Za-z /-]|$)"
)
"""Redis appends the script's name, and redis-py the command."""


def refuses_writes(error: BaseException) -> bool:
    """Return True if a command was refused because Redis cannot write to its disk."""
    return "MISCONF" in str(error)


def disk_words(error: BaseException) -> str:
    """Return why Redis refuses writes, from its MISCONF answer, without host, key or command."""
    found = _AOF_ERROR.search(str(error))
    if found is None:
        return "its snapshots fail; its log says why, often the disk is full"
    text = found[1].strip()[:100]
    # strerror(3) of ENOSPC, EDQUOT and EFBIG.
    if text in ("No space left on device", "Disk quota exceeded"):
        return f"disk full ({text})"
    if text == "File too large":
        return f"disk full, or the largest size of a file is reached ({text})"
    return f"its disk fails ({text})"


def connect(
    url: str,
    *,
    timeout: float,
    connect_timeout: float,
    connections: int,
    wait: float | None = None,
    **more: Any,
) -> redis.Redis:
    """A client that connects at its first command and tries each one once.

    `timeout`, `connect_timeout`: seconds for an answer and for a connection. `wait`: seconds that
    a caller beyond `connections` waits for one; None: it fails at once. `more` is for redis-py's
    connections. Raises `ValueError` as `parse` does.
    """
    link = parse(url)
    arguments = dict(link.server) | more
    arguments |= {
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": timeout,
        "socket_connect_timeout": connect_timeout,
        "max_connections": connections,
    }
    if link.service:
        kind: type = sentinel.SentinelManagedConnection
        if link.tls:
            kind = sentinel.SentinelManagedSSLConnection
        arguments["connection_pool"] = _Master(_asked(link), link.service)
    elif link.nodes:
        kind = redis.SSLConnection if link.tls else redis.Connection
        arguments["host"], arguments["port"] = link.nodes[0]
    else:
        kind = redis.UnixDomainSocketConnection
    arguments["connection_class"] = kind
    if wait is None:
        return redis.Redis.from_pool(redis.ConnectionPool(**arguments))
    return redis.Redis.from_pool(redis.BlockingConnectionPool(timeout=wait, **arguments))


def connect_async(
    url: str, *, timeout: float, connections: int, **more: Any
) -> redis.asyncio.Redis:
    """The same for one event loop; callers beyond `connections` wait for `timeout`."""
    link = parse(url)
    arguments = dict(link.server) | more
    arguments |= {
        "retry": AsyncRetry(NoBackoff(), 0),
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "max_connections": connections,
    }
    if link.service:
        kind: type = async_sentinel.SentinelManagedConnection
        if link.tls:
            kind = async_sentinel.SentinelManagedSSLConnection
        known = async_sentinel.Sentinel(
            list(link.nodes), sentinel_kwargs=_sentinel_arguments(link, AsyncRetry(NoBackoff(), 0))
        )
        arguments["connection_pool"] = _AsyncMaster(known, link.service)
    elif link.nodes:
        kind = redis.asyncio.SSLConnection if link.tls else redis.asyncio.Connection
        arguments["host"], arguments["port"] = link.nodes[0]
    else:
        kind = redis.asyncio.UnixDomainSocketConnection
    arguments["connection_class"] = kind
    return redis.asyncio.Redis.from_pool(
        redis.asyncio.BlockingConnectionPool(timeout=timeout, **arguments)
    )


class _Master:
    """What redis-py's connections ask their pool for. Its own pool has no bound at which callers
    wait; any pool will do with these connections, which ask anew at each connect and part from a
    server that says it is a replica now."""

    is_master = True
    check_connection = False

    def __init__(self, known: sentinel.Sentinel, service_name: str) -> None:
        self._known = known
        self.service_name = service_name

    def get_master_address(self) -> tuple[str, int]:
        """Raises redis-py's `MasterNotFoundError`, a `ConnectionError`."""
        found: tuple[str, int] = self._known.discover_master(self.service_name)
        return found


class _AsyncMaster:
    """The same for the drain."""

    is_master = True
    check_connection = False

    def __init__(self, known: async_sentinel.Sentinel, service_name: str) -> None:
        self._known = known
        self.service_name = service_name

    async def get_master_address(self) -> tuple[str, int]:
        """Raises redis-py's `MasterNotFoundError`, a `ConnectionError`."""
        found: tuple[str, int] = await self._known.discover_master(self.service_name)
        return found


@functools.lru_cache(maxsize=8)
def _asked(link: Link) -> sentinel.Sentinel:
    return sentinel.Sentinel(
        list(link.nodes), sentinel_kwargs=_sentinel_arguments(link, Retry(NoBackoff(), 0))
    )


def _sentinel_arguments(link: Link, retry: Retry | AsyncRetry) -> dict[str, Any]:
    return dict(link.sentinels) | {
        "retry": retry,
        "socket_timeout": SENTINEL_TIMEOUT,
        "socket_connect_timeout": SENTINEL_TIMEOUT,
        "ssl": link.tls,
    }


def _options(query: str, tls: bool, watched: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """For the servers and for the Sentinels."""
    server: dict[str, Any] = {}
    sentinels: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in _TLS and tls:
            text: Any = value
            if name == "ssl_check_hostname":
                if value not in ("true", "false"):
                    raise ValueError("must have true or false as ssl_check_hostname")
                text = value == "true"
            server[name] = sentinels[name] = text
        elif name in _OF_SENTINELS and watched:
            sentinels[_OF_SENTINELS[name]] = value
        else:
            raise ValueError("has an option that is not known there; see docs/operations.md")
    return server, sentinels


def _node(text: str, port: int) -> tuple[str, int]:
    found = _HOST.fullmatch(text)
    if found is None or not 0 < int(found["port"] or port) < 65_536:
        raise ValueError("must name a host, host:port or [::1]:port")
    return found["six"] or unquote(found["name"]), int(found["port"] or port)


def _db(text: str) -> int:
    if not text:
        return 0
    if not re.fullmatch(r"[0-9]{1,4}", text):
        raise ValueError("must have the number of a database, or nothing, at its end")
    return int(text)


def _frozen(options: dict[str, Any]) -> Options:
    return tuple(sorted(options.items()))
