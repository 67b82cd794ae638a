"""Webhooks: one HTTP POST an event.

Delivered means: the receiver answered 2xx and its answer was read to the end, within the
subscription's timeout and `MAX_ANSWER` bytes. It says nothing of what the receiver did with
the event.

An answer without end or beyond the bound is AMBIGUOUS whatever its status said: a proxy that
sends 200 and breaks off is not a receiver that has kept the event. A status that is a
failure stands as soon as its head is read. 307 and 308 are followed, `MAX_REDIRECTS` times
at most, through the guard, with the same method and body; the subscription's own headers
stay behind when the origin changes, the signature goes along. Any other redirect would turn
the POST into a GET, so it is a failure that says so.

Nothing is sent twice by itself. A kept connection that the receiver closed at the moment of
our sending is AMBIGUOUS, as everything that broke after the first byte of the body.
"""

from __future__ import annotations

import asyncio
import email.utils
import errno
import http
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from multidict import CIMultiDict
from yarl import URL

from evoflask import __version__, formats, signing
from evoflask.net import guard
from evoflask.net import http as net_http
from evoflask.settings import Settings
from evoflask.sinks.base import Attempt, Delivery, Outcome, Sink, Target

MAX_ANSWER = 1024 * 1024
"""Bytes of a 2xx answer that are read."""
MAX_FAILURE = 64 * 1024
"""Bytes of any other answer that are read; beyond, the connection is closed instead."""
FAILURE_SECONDS = 2.0
"""How long the body of a failure is waited for: only the excerpt depends on it."""
MAX_REDIRECTS = 3
MAX_DETAIL = 300
"""Characters of an attempt's detail."""
MAX_RETRY_AFTER = 366 * 86400.0
"""Seconds; more is taken for this."""
CHUNK = 64 * 1024
"""Bytes of a body handed to the socket at a time, so that 3.7 MB are not copied at once."""
CACHED = 20_000
"""Destinations kept prepared, some kilobytes each."""

_REJECTED = frozenset({400, 401, 403, 404, 410, 413, 422})
_FOLLOWED = frozenset({307, 308})
_DEFAULT_HEADERS = (
    ("Content-Type", "application/json"),
    ("User-Agent", "Evolution-API-Webhook"),
    ("Accept", "*/*"),
    ("Accept-Encoding", "identity"),  # answers are bounded as they come, never unpacked
)


class WebhookSink(Sink):
    """POSTs events. `ssl_context`: instead of the system's certificates."""

    def __init__(self, settings: Settings, *, ssl_context: ssl.SSLContext | None = None) -> None:
        self._settings = settings
        self._ssl_context = ssl_context
        self._session: aiohttp.ClientSession | None = None
        self._destinations: dict[str, _Destination] = {}

    async def deliver(self, batch: Sequence[Delivery]) -> list[Attempt]:
        if len(batch) == 1:
            return [await self._attempt(batch[0])]
        return list(await asyncio.gather(*map(self._attempt, batch)))

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _attempt(self, delivery: Delivery) -> Attempt:
        body: _Body | None = None
        try:
            destination = self._destination(delivery.target)
            body = _Body(destination.format.body(delivery))
            async with asyncio.timeout(delivery.target.timeout) as limit:
                return await self._post(destination, delivery, body, limit)
        except Exception as error:
            return translate(error, sent=body is not None and body.started)

    async def _post(
        self, destination: _Destination, delivery: Delivery, body: _Body, limit: asyncio.Timeout
    ) -> Attempt:
        session = self._session or self._connect()
        url = destination.url_for(delivery.event)
        headers = destination.headers_for(delivery, body.content)
        for _ in range(MAX_REDIRECTS + 1):
            body.started = False
            response = await session.post(url, data=body, headers=headers, allow_redirects=False)
            try:
                if response.status not in _FOLLOWED:
                    return await _read(response, destination, limit)
                moved = _moved(url, response)
            finally:
                response.release()
            if isinstance(moved, Attempt):
                return moved
            if moved.origin() != url.origin():
                headers = destination.foreign(headers)
            self._check(moved)
            url = moved
        return Attempt(
            Outcome.REFUSED, str(response.status), f"more than {MAX_REDIRECTS} redirects"
        )

    def _connect(self) -> aiohttp.ClientSession:
        self._session = net_http.session(
            self._settings.webhook_allow_networks,
            connect_timeout=self._settings.webhook_connect_timeout,
            limit=0,  # the drain's slots are the limit
            ssl_context=self._ssl_context,
        )
        return self._session

    def _check(self, url: URL) -> None:
        host = url.raw_host or ""
        reason = guard.check_literal(host, self._settings.webhook_allow_networks)
        if reason is not None:
            raise net_http.ForbiddenAddress(host, reason)

    def _destination(self, target: Target) -> _Destination:
        found = self._destinations.get(target.sid)
        if found is None or found.version != target.version:
            found = _prepare(target, self._settings.server_url)
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
    url: URL
    by_events: bool
    headers: CIMultiDict[str]
    custom: frozenset[str]
    """Names of the subscription's own headers, lower case."""
    secret: str | None
    format: formats.Format
    hidden: tuple[str, ...]
    """What must not be shown when an answer repeats it."""
    urls: dict[str, URL] = field(default_factory=dict)

    def url_for(self, event: str) -> URL:
        if not self.by_events:
            return self.url
        url = self.urls.get(event)
        if url is None:
            path = self.format.path(event)
            url = self.urls[event] = _url(formats.with_path(str(self.url), path))
        return url

    def headers_for(self, delivery: Delivery, body: bytes) -> CIMultiDict[str]:
        headers = self.headers.copy()
        headers["webhook-id"] = delivery.event_id
        if self.secret is not None:
            now = int(time.time())
            headers["webhook-timestamp"] = str(now)
            headers["webhook-signature"] = signing.sign(self.secret, delivery.event_id, now, body)
        return headers

    def foreign(self, headers: CIMultiDict[str]) -> CIMultiDict[str]:
        """The headers for another origin: the subscription's own may be keys to this one."""
        kept = [(k, v) for k, v in headers.items() if k.lower() not in self.custom]
        present = {k.lower() for k, _ in kept}
        kept += [(k, v) for k, v in _DEFAULT_HEADERS if k.lower() not in present]
        return CIMultiDict(kept)


def _prepare(target: Target, server_url: str) -> _Destination:
    settings = target.settings
    url = _url(str(settings["url"]))
    custom: Mapping[str, str] = settings.get("headers") or {}
    headers = CIMultiDict(_DEFAULT_HEADERS)
    if url.user or url.password:
        login, password = url.user or "", url.password or ""
        headers["Authorization"] = aiohttp.encode_basic_auth(login, password)
    for name, value in custom.items():
        if name.lower() not in guard.RESERVED_HEADERS:
            headers[name] = str(value)
    own = {name.lower() for name in custom} | {"authorization"}
    return _Destination(
        version=target.version,
        url=url.with_user(None),
        by_events=bool(settings.get("byEvents")),
        headers=headers,
        custom=frozenset(own),
        secret=target.secret,
        format=formats.FORMATS[target.format](
            target.instance,
            server_version=__version__,
            server_url=server_url,
            base64=bool(settings.get("base64")),
        ),
        hidden=_hidden(url, headers, custom, target.secret),
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


def _hidden(
    url: URL, headers: Mapping[str, str], custom: Mapping[str, str], secret: str | None
) -> tuple[str, ...]:
    found = {str(value) for value in custom.values()} | set(url.query.values())
    found |= {url.raw_query_string, url.query_string, url.password or "", secret or ""}
    found.add(headers.get("Authorization", ""))
    words = {word for text in found for word in (text, text.rpartition(" ")[2])}
    return tuple(sorted((w for w in words if len(w) >= 4), key=len, reverse=True))


class _Body(aiohttp.Payload):
    """A body that knows whether any of it was handed to a connection."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content, content_type="application/json")
        self._size = len(content)
        self.content = content
        self.started = False

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self.content.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        await self.write_with_length(writer, None)

    async def write_with_length(
        self, writer: AbstractStreamWriter, content_length: int | None
    ) -> None:
        """All of it: its length is what Content-Length was made from."""
        self.started = True
        if len(self.content) <= CHUNK:
            await writer.write(self.content)
            return
        view = memoryview(self.content)
        for start in range(0, len(view), CHUNK):
            await writer.write(view[start : start + CHUNK])


async def _read(
    response: aiohttp.ClientResponse, destination: _Destination, limit: asyncio.Timeout
) -> Attempt:
    status = response.status
    if not 200 <= status < 300:
        return await _read_failure(response, destination, limit)
    size, content = 0, response.content
    while not content.at_eof():
        size += len(await content.readany())
        if size > MAX_ANSWER:
            response.close()
            return Attempt(
                Outcome.AMBIGUOUS,
                "answer-too-large",
                f"answered {status}, but the answer too large: over {MAX_ANSWER} bytes",
            )
    return _DELIVERED[status]


async def _read_failure(
    response: aiohttp.ClientResponse, destination: _Destination, limit: asyncio.Timeout
) -> Attempt:
    """The status stands; what can be read of the body in a moment goes into the detail."""
    body = b""
    end = limit.when() or 0.0
    left = end - asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout(min(FAILURE_SECONDS, left * 0.8)):
            while not response.content.at_eof() and len(body) <= MAX_FAILURE:
                body += await response.content.readany()
    except (TimeoutError, aiohttp.ClientError, OSError):
        response.close()
    asked = parse_retry_after(response.headers.get("Retry-After"), time.time())
    hidden = (*destination.hidden, response.url.raw_query_string, response.url.query_string)
    return classify(response.status, asked, excerpt(body, hidden))


def _moved(url: URL, response: aiohttp.ClientResponse) -> URL | Attempt:
    """Where a 307 or 308 points to, or why it is a failure."""
    code = str(response.status)
    location = response.headers.get("Location", "")
    if not location:
        return Attempt(Outcome.REFUSED, code, "redirect without a Location")
    try:
        moved = _url(str(url.join(_parsed(location)))).with_user(None)
    except (ValueError, aiohttp.InvalidURL):
        return Attempt(Outcome.REFUSED, code, "redirect to something that is no http(s) URL")
    if url.scheme == "https" and moved.scheme == "http":
        return Attempt(Outcome.REFUSED, code, "redirect from https to http")
    return moved


# What an ending means


def classify(status: int, retry_after: float | None = None, answer: str = "") -> Attempt:
    """What an answer's status means. `answer`: an excerpt of its body. Pure."""
    if 200 <= status < 300:
        return Attempt(Outcome.DELIVERED, str(status))
    detail = f"answered {_named(status)}"
    if status in (301, 302, 303):
        detail += ": the URL moved; set the new one, a POST does not follow this redirect"
    if answer:
        detail += f": {answer}"
    detail = _short(detail)
    if status in _REJECTED:
        return Attempt(Outcome.REJECTED, str(status), detail)
    return Attempt(Outcome.REFUSED, str(status), detail, retry_after)


_DELIVERED = {status: classify(status) for status in range(200, 300)}


def _named(status: int) -> str:
    try:
        return f"{status} {http.HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Seconds from `now` that a Retry-After asks for: a number, or an HTTP date. None: it
    asks for nothing, or cannot be read. Pure."""
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:12]), MAX_RETRY_AFTER)
    try:
        date = email.utils.parsedate_to_datetime(text)
        return min(max(date.timestamp() - now, 0.0), MAX_RETRY_AFTER)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def excerpt(body: bytes, hidden: Sequence[str] = ()) -> str:
    """The beginning of an answer as one printable line, without what is `hidden`. Pure."""
    text = body.decode("utf-8", "replace")
    for secret in filter(None, hidden):
        text = text.replace(secret, "…")
    text = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(text.split())[:MAX_DETAIL]


def _short(text: str) -> str:
    return text if len(text) <= MAX_DETAIL else text[: MAX_DETAIL - 1] + "…"


class _Ending(NamedTuple):
    kind: type[BaseException]
    code: str
    sentence: str
    sendable: bool
    """Whether this can happen after the request was sent, too."""


# The first that fits. A test walks aiohttp's exceptions and finds each of them here.
_ENDINGS = (
    _Ending(net_http.ForbiddenAddress, "forbidden-address", "", False),
    _Ending(aiohttp.ConnectionTimeoutError, "connect-timeout", "no connection in time", False),
    _Ending(aiohttp.ClientConnectorDNSError, "dns", "the name cannot be resolved", False),
    _Ending(aiohttp.ClientSSLError, "tls", "no TLS connection", False),
    _Ending(aiohttp.ServerFingerprintMismatch, "tls", "the certificate is another", False),
    _Ending(aiohttp.ClientConnectorError, "connect", "no connection", False),
    _Ending(aiohttp.InvalidURL, "url", "the URL cannot be used", False),
    _Ending(aiohttp.NonHttpUrlClientError, "url", "the URL is not http or https", False),
    _Ending(aiohttp.RedirectClientError, "url", "the redirect cannot be followed", False),
    _Ending(TimeoutError, "timeout", "no answer in time", True),
    _Ending(aiohttp.ServerTimeoutError, "timeout", "no answer in time", True),
    _Ending(aiohttp.ClientPayloadError, "reset", "the answer broke off", True),
    _Ending(aiohttp.UploadAbortedError, "reset", "the connection broke while sending", True),
    _Ending(aiohttp.ClientConnectionError, "reset", "the connection broke before the answer", True),
    _Ending(aiohttp.ClientResponseError, "bad-answer", "the answer is not HTTP", True),
    _Ending(aiohttp.ClientError, "client", "the request failed", True),
    _Ending(OSError, "reset", "the connection broke", True),
    _Ending(ValueError, "settings", "the subscription's settings cannot be sent", True),
    _Ending(Exception, "internal", "the request failed in this process", True),
)
_ERRNO = {
    errno.ECONNREFUSED: ("refused", "connection refused"),
    errno.EHOSTUNREACH: ("no-route", "no route to the host"),
    errno.ENETUNREACH: ("no-route", "no route to the network"),
    errno.EMFILE: ("local", "this process has no file descriptor left"),
    errno.ENFILE: ("local", "this machine has no file descriptor left"),
    errno.EADDRNOTAVAIL: ("local", "this machine has no port left"),
}


def translate(error: BaseException, *, sent: bool) -> Attempt:
    """The one door for what aiohttp, asyncio, sockets and TLS raise. Never shows the error's
    own text, which may hold the URL, but where it is known not to. Pure."""
    inner = _inner(error)
    if isinstance(inner, net_http.ForbiddenAddress):
        return Attempt(Outcome.UNREACHABLE, "forbidden-address", _short(str(inner)))
    ending = next(one for one in _ENDINGS if isinstance(error, one.kind))
    ambiguous = sent and ending.sendable
    code, sentence = ending.code, ending.sentence
    if ending.code == "connect":
        code, sentence = _ERRNO.get(getattr(inner, "errno", None) or 0, (code, sentence))
    elif ending.code == "timeout" and not ambiguous:
        code, sentence = "connect-timeout", "no connection in time"
    elif ending.code == "internal":
        sentence += f": {type(error).__name__}"
    why = _why(inner)
    outcome = Outcome.AMBIGUOUS if ambiguous else Outcome.UNREACHABLE
    return Attempt(outcome, code, _short(f"{sentence}: {why}" if why else sentence))


def _inner(error: BaseException) -> BaseException:
    """What aiohttp wrapped."""
    inner = getattr(error, "certificate_error", None) or getattr(error, "os_error", None)
    return inner if isinstance(inner, BaseException) else error


def _why(error: BaseException) -> str:
    """What the system says, and nothing that came from a URL."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return str(getattr(error, "verify_message", ""))
    if isinstance(error, ssl.SSLError):
        return (getattr(error, "reason", None) or "").replace("_", " ").lower()
    if isinstance(error, OSError) and error.errno in _ERRNO:
        return ""
    return error.strerror or "" if isinstance(error, OSError) else ""
