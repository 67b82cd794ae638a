"""Webhooks: one HTTP POST an event.

Delivered means: the receiver answered 2xx and its answer was read to the end, within the
subscription's timeout and `MAX_ANSWER` bytes. It says nothing of what the receiver did with
the event.

An answer without end or beyond the bound is AMBIGUOUS, also with a 2xx: a proxy that sends 200 and
breaks off does not prove that a receiver kept the event. The status of a failure counts as soon as
its head is read. 307 and 308 are followed, `MAX_REDIRECTS` times at most, through the guard, with
the same method and body. If the origin changes, the signature goes along, and the subscription's
own headers do not. Any other redirect would turn the POST into a GET, so it is a failure.

The header `jwt_key` is never sent. Each attempt signs an `Authorization: Bearer` with it, which
replaces any other `Authorization` and stays at its origin.

Nothing is sent twice by itself. Every failure after the first byte of the body is AMBIGUOUS, also
if the receiver closed a kept connection at the moment of our sending. So is an answer that came
before the whole request was sent: it may belong to the request before. A kept connection carries
one subscription's requests. A test has a connection of its own.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from evoflask import __version__, formats, masks, signing
from evoflask.net import guard, resolver, story
from evoflask.net import http as net_http
from evoflask.net.wire import TlsAnswered
from evoflask.schemas import GIVE_UP_ON
from evoflask.settings import Settings
from evoflask.sinks._answers import excerpt, head
from evoflask.sinks._http import (
    Body,
    failure_seconds,
    host_of,
    named,
    parse_retry_after,
    short,
    tell_redirect,
    tell_request,
    translate,
)
from evoflask.sinks._lines import MAX_ANSWER, Fixed, Line, Reply, hung_up
from evoflask.sinks._schemes import USE_HTTPS, wants_tls
from evoflask.sinks.base import Attempt, Delivery, Outcome, Sink, Target

MAX_REDIRECTS = 3
LOOK_EVERY = 60.0
"""Seconds between two looks if a server that hangs up on plain HTTP speaks TLS."""
CACHED = 20_000
"""Destinations kept prepared, some kilobytes each."""

_GIVE_UP_ON = frozenset(GIVE_UP_ON)
_FOLLOWED = frozenset({307, 308})
_AUTHORITY = re.compile(r"(?:[a-zA-Z][a-zA-Z0-9+.-]*:)?//[^/?#]*")
_DEFAULT_HEADERS = (
    ("Content-Type", "application/json"),
    ("User-Agent", "Evolution-API-Webhook"),
    ("Accept", "*/*"),
    ("Accept-Encoding", "identity"),  # answers are bounded as they come, never unpacked
)

_WORKED = Attempt(Outcome.DELIVERED)


class WebhookSink(Sink):
    """POSTs events. `ssl_context`: instead of the system's certificates."""

    def __init__(self, settings: Settings, *, ssl_context: ssl.SSLContext | None = None) -> None:
        self._settings = settings
        self._ssl_context = ssl_context
        self._door: net_http.Door | None = None
        self._line: Line | None = None
        self._destinations: dict[str, _Destination] = {}

    async def deliver(self, batch: Sequence[Delivery]) -> list[Attempt]:
        if len(batch) == 1:
            return [await self._attempt(batch[0])]
        return list(await asyncio.gather(*map(self._attempt, batch)))

    async def close(self) -> None:
        door, self._door = self._door, None
        line, self._line = self._line, None
        if line is not None:
            line.close()
        if door is not None:
            await door.close()

    async def _attempt(self, delivery: Delivery) -> Attempt:
        body: Body | None = None
        try:
            destination = self._destination(delivery.target)
            body = Body(destination.format.body(delivery))
            body.host = destination.host
            own = destination.headers_for(delivery, body.content)
            body.hidden = destination.hidden_in(own)
            async with asyncio.timeout(delivery.target.timeout) as limit:
                with resolver.asked_by(delivery.target.instance):
                    return await self._post(destination, delivery.event, own, body, limit)
        except Exception as error:
            attempt = translate(error, sent=body is not None and body.started)
            return attempt.told("" if body is None else body.host)

    async def _post(
        self,
        destination: _Destination,
        event: str,
        own: dict[str, str],
        body: Body,
        limit: asyncio.Timeout,
    ) -> Attempt:
        told = story.current()
        if told is None:
            return await self._exchange(self._usual(), destination, event, own, body, limit)
        told.hidden, told.secret_headers = body.hidden, destination.custom
        async with net_http.telling_door(
            told,
            self._settings.webhook_allow_networks,
            connect_timeout=self._settings.webhook_connect_timeout,
            ssl_context=self._ssl_context,
            proxy=self._settings.outbound_proxy,
        ) as door:
            line = Line(door)
            try:
                return await self._exchange(line, destination, event, own, body, limit)
            finally:
                line.close()

    async def _exchange(
        self,
        line: Line,
        destination: _Destination,
        event: str,
        own: dict[str, str],
        body: Body,
        limit: asyncio.Timeout,
    ) -> Attempt:
        url, fixed = destination.url_for(event), destination.fixed
        for _ in range(MAX_REDIRECTS + 1):
            body.started = False
            tell_request(url, body)
            try:
                reply = await line.post(destination.owner, url, fixed, own, body)
            except (aiohttp.ClientError, OSError) as error:
                plain = url.scheme == "http" and not self._settings.outbound_proxy
                asks = plain and body.started and hung_up(error)
                if asks and await destination.speaks_tls(line, url, failure_seconds(limit)):
                    raise TlsAnswered from error
                raise
            try:
                if reply.doubtful:
                    return _early(reply.status, body.host)
                if reply.status not in _FOLLOWED:
                    return await _read(reply, url, destination, body, limit)
                moved = _moved(url, reply, destination.give_up_on)
            finally:
                reply.release()
            if isinstance(moved, Attempt):
                return moved.told(body.host)
            tell_redirect(url, reply.status)
            if moved.origin() != url.origin():
                fixed = destination.foreign()
                own.pop("Authorization", None)
            self._check(moved)
            url, body.host = moved, host_of(moved)
        why = f"more than {MAX_REDIRECTS} redirects"
        return failed(reply.status, why, give_up_on=destination.give_up_on).told(body.host)

    def _usual(self) -> Line:
        """The kept connections."""
        if self._line is None:
            self._door = net_http.Door(
                self._settings.webhook_allow_networks,
                connect_timeout=self._settings.webhook_connect_timeout,
                ssl_context=self._ssl_context,
                proxy=self._settings.outbound_proxy,
            )
            self._line = Line(self._door)
        return self._line

    def _check(self, url: URL) -> None:
        host = url.raw_host or ""
        reason = guard.check_literal(host, self._settings.webhook_allow_networks)
        if reason is not None:
            raise resolver.ForbiddenAddress(host, reason)

    def _destination(self, target: Target) -> _Destination:
        found = self._destinations.get(target.sid)
        if found is None or found.version != target.version:
            found = _prepare(target, self._settings)
            self._check(found.url)
            self._destinations.pop(target.sid, None)
            if len(self._destinations) >= CACHED:
                del self._destinations[next(iter(self._destinations))]
            self._destinations[target.sid] = found
        return found


@dataclass(slots=True)
class _Destination:
    """What stays the same from event to event of a subscription."""

    version: int
    owner: str
    """The lane that owns its kept connections."""
    url: URL
    by_events: bool
    fixed: Fixed
    custom: frozenset[str]
    """Names of the subscription's own headers, lower case."""
    keys: tuple[signing.SigningKey, ...]
    format: formats.Format
    hidden: tuple[str, ...]
    """What must not be shown when an answer repeats it."""
    host: str
    shows: bool
    """Whether what is answered to a delivery that worked is shown."""
    give_up_on: frozenset[int]
    """Statuses that end an event at once."""
    jwt_key: str
    """The key that signs a Bearer for each attempt, or ""."""
    urls: dict[str, URL] = field(default_factory=dict)
    last: tuple[int, bytes, str] = (0, b"", "")
    """What `worked` was of: receivers answer the same every time."""
    worked: Attempt = _WORKED
    abroad: Fixed | None = None
    looked_at: float = 0.0
    """When a server that hung up was last asked if it speaks TLS, by the monotonic clock."""
    tls: URL | None = None
    """The origin that does, though its scheme is http."""

    async def speaks_tls(self, line: Line, url: URL, seconds: float) -> bool:
        """Return True if the server of a plain URL speaks TLS. It is asked once a minute, as long
        as nothing was delivered."""
        now = time.monotonic()
        if self.last[0]:
            return False
        if not self.looked_at or now - self.looked_at >= LOOK_EVERY:
            self.looked_at = now
            self.tls = url.origin() if await line.speaks_tls(url, seconds) else None
        return self.tls == url.origin()

    def url_for(self, event: str) -> URL:
        if not self.by_events:
            return self.url
        url = self.urls.get(event)
        if url is None:
            path = self.format.path(event)
            url = self.urls[event] = _url(formats.with_path(str(self.url), path))
        return url

    def headers_for(self, delivery: Delivery, body: bytes) -> dict[str, str]:
        """Those of one delivery alone."""
        headers = {"webhook-id": delivery.event_id}
        if delivery.mark:
            headers[f"webhook-{delivery.mark}"] = "true"
        now = int(time.time())
        headers.update(signing.headers(self.keys, delivery.event_id, now, body))
        if self.jwt_key:
            headers["Authorization"] = signing.bearer(self.jwt_key, now)
        return headers

    def hidden_in(self, own: Mapping[str, str]) -> tuple[str, ...]:
        """Return the words that an attempt with these headers of its own must not show."""
        bearer = own.get("Authorization")
        return self.hidden if bearer is None else (bearer.partition(" ")[2], *self.hidden)

    def delivered(self, status: int, answer: bytes, url: URL, body: Body) -> Attempt:
        """Return the attempt that worked, with an excerpt of the answer."""
        if self.last != (status, answer, body.host):
            hidden = (*body.hidden, url.raw_query_string, url.query_string)
            self.last = (status, answer, body.host)
            self.worked = classify(status).told(body.host, head(answer, hidden))
        return self.worked

    def foreign(self) -> Fixed:
        """The headers for another origin: the subscription's own may be keys to this one."""
        if self.abroad is None:
            kept = [(k, v) for k, v in self.fixed.headers.items() if k.lower() not in self.custom]
            present = {k.lower() for k, _ in kept}
            kept += [(k, v) for k, v in _DEFAULT_HEADERS if k.lower() not in present]
            self.abroad = Fixed(CIMultiDict(kept), absolute=self.fixed.absolute)
        return self.abroad


def _prepare(target: Target, server: Settings) -> _Destination:
    settings = target.settings
    url = _url(str(settings["url"]))
    custom: Mapping[str, str] = settings.get("headers") or {}
    headers = CIMultiDict(_DEFAULT_HEADERS)
    if url.user or url.password:
        login, password = url.user or "", url.password or ""
        headers["Authorization"] = aiohttp.encode_basic_auth(login, password)
    for name, value in custom.items():
        if name.lower() not in guard.RESERVED_HEADERS and name.lower() != signing.JWT_KEY:
            headers[name] = str(value)
    give_up_on = settings.get("giveUpOn")  # rows stored before this field have none
    jwt_key = signing.jwt_key_of(custom)
    if jwt_key:
        headers.pop("Authorization", None)
    own = {name.lower() for name in custom} | {"authorization"}
    return _Destination(
        version=target.version,
        owner=target.sid,
        url=url.with_user(None),
        by_events=bool(settings.get("byEvents")),
        fixed=Fixed(headers, absolute=bool(server.outbound_proxy)),
        custom=frozenset(own),
        keys=target.keys,
        format=formats.FORMATS[target.format](
            target.instance,
            server_version=__version__,
            server_url=server.server_url,
            base64=bool(settings.get("base64")),
        ),
        hidden=_hidden(url, headers, custom, target.keys),
        host=host_of(url),
        shows=server.attempts_log == "all",
        give_up_on=_GIVE_UP_ON if give_up_on is None else frozenset(give_up_on),
        jwt_key=jwt_key,
    )


def _url(text: str) -> URL:
    """As it was given, where that can be sent; else quoted. A signature in a query must not
    be quoted in another way than its maker did."""
    url = _parsed(text)
    if url.scheme not in ("http", "https") or not url.raw_host:
        raise aiohttp.InvalidURL("")
    return url.with_fragment(None)


def _parsed(text: str) -> URL:
    return URL(text, encoded=text.isascii() and text.isprintable() and " " not in text)


def _quoted(location: str) -> str:
    """Return a Location that can be sent. Bytes that a URL cannot carry become `%F8` and the like.

    A host beyond ASCII is read as UTF-8. Raises `ValueError` if it is not UTF-8. Pure.
    """
    place = _AUTHORITY.match(location)
    if place is not None and not place[0].isascii():
        return location.encode("latin-1").decode()
    return "".join(c if "!" <= c <= "~" else f"%{ord(c):02X}" for c in location)


def _hidden(
    url: URL,
    headers: Mapping[str, str],
    custom: Mapping[str, str],
    keys: Sequence[signing.SigningKey],
) -> tuple[str, ...]:
    found = {str(value) for value in custom.values()} | set(url.query.values())
    found |= {url.raw_query_string, url.query_string, url.password or ""}
    found |= {key.text for key in keys}
    found.add(headers.get("Authorization", ""))
    bare = {word for text in found for word in (text, text.rpartition(" ")[2])}
    words = {each for word in bare for each in masks.spellings(word)}
    return tuple(sorted((w for w in words if len(w) >= 4), key=len, reverse=True))


async def _read(
    reply: Reply, url: URL, destination: _Destination, body: Body, limit: asyncio.Timeout
) -> Attempt:
    status = reply.status
    if not 200 <= status < 300:
        return await _read_failure(reply, url, destination, body, limit)
    begins, whole = reply.success()
    if not whole:
        return Attempt(
            Outcome.AMBIGUOUS,
            "answer-too-large",
            f"answered {status}, but the answer too large: over {MAX_ANSWER} bytes",
            host=body.host,
        )
    return destination.delivered(status, begins if destination.shows else b"", url, body)


def _early(status: int, host: str) -> Attempt:
    detail = f"answered {status} before the whole request was sent"
    return Attempt(Outcome.AMBIGUOUS, "early-answer", detail, host=host)


async def _read_failure(
    reply: Reply, url: URL, destination: _Destination, body: Body, limit: asyncio.Timeout
) -> Attempt:
    """Return the failed attempt. The detail has the part of the answer that arrives soon."""
    answer = await reply.failure(limit)
    hidden = (*body.hidden, url.raw_query_string, url.query_string)
    asked = parse_retry_after(reply.header("Retry-After"), time.time())
    told = excerpt(answer, hidden)
    if wants_tls(url.scheme, told):
        told = f"{USE_HTTPS}: {told}"
    attempt = classify(reply.status, asked, told, give_up_on=destination.give_up_on)
    return attempt.told(body.host, head(answer, hidden))


def _moved(url: URL, reply: Reply, give_up_on: frozenset[int]) -> URL | Attempt:
    """Where a 307 or 308 points to, or why it is a failure."""
    location = reply.header("Location") or ""
    if not location:
        return failed(reply.status, "redirect without a Location", give_up_on=give_up_on)
    try:
        moved = _url(str(url.join(_parsed(_quoted(location))))).with_user(None)
    except (ValueError, aiohttp.InvalidURL):
        why = "redirect to something that is no http(s) URL"
        return failed(reply.status, why, give_up_on=give_up_on)
    if url.scheme == "https" and moved.scheme == "http":
        return failed(reply.status, "redirect from https to http", give_up_on=give_up_on)
    return moved


# What an ending means


def classify(
    status: int,
    asked: float | None = None,
    answer: str = "",
    *,
    give_up_on: frozenset[int] = _GIVE_UP_ON,
) -> Attempt:
    """Return the attempt that a status ends. Pure.

    `asked`: Retry-After in seconds. `answer`: an excerpt of the body.
    """
    if 200 <= status < 300:
        return Attempt(Outcome.DELIVERED, str(status))
    detail = f"answered {named(status)}"
    if status in (301, 302, 303):
        detail += ": the URL moved; set the new one, a POST does not follow this redirect"
    if answer:
        detail += f": {answer}"
    return failed(status, short(detail), asked, give_up_on=give_up_on)


def failed(
    status: int, detail: str, asked: float | None = None, *, give_up_on: frozenset[int]
) -> Attempt:
    """Return the attempt that a status other than 2xx ends. Pure."""
    if status in give_up_on:
        return Attempt(Outcome.REJECTED, str(status), detail)
    return Attempt(Outcome.REFUSED, str(status), detail, asked)
