"""What sinks that speak HTTP have in common: a body that knows whether it was sent, reading an
answer within bounds, and the one door for what aiohttp raises.

Nothing here knows what a status means: that is each sink's own `classify`.
"""

from __future__ import annotations

import asyncio
import email.utils
import errno
import http
import ssl
import time
from typing import NamedTuple

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from yarl import URL

from evoflask.net import http as net_http
from evoflask.net import resolver, story
from evoflask.net.wire import CHUNK, NotHttp, TlsAnswered
from evoflask.sinks._answers import MAX_DETAIL
from evoflask.sinks._schemes import PLAIN, USE_HTTPS, is_plain_port
from evoflask.sinks.base import Attempt, Outcome

MAX_FAILURE = 64 * 1024
"""Bytes of a failure's answer that are read; beyond, the connection is closed instead."""
FAILURE_SECONDS = 2.0
"""How long the body of a failure is waited for: only the excerpt depends on it."""
MAX_RETRY_AFTER = 366 * 86400.0
"""Seconds; more is taken for this."""


class Body(aiohttp.Payload):
    """A body that knows whether any of it was handed to a connection."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content, content_type="application/json")
        self._size = len(content)
        self.content = content
        self.started = False
        self.host = ""
        """Where it goes; after a redirect that is another one."""
        self.hidden: tuple[str, ...] = ()
        """Words that this attempt must not show; those of its own headers are among them."""

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


async def failure_body(response: aiohttp.ClientResponse, limit: asyncio.Timeout) -> bytes:
    """What can be read of a failure's body in a moment; its status stands without. `limit` is
    the attempt's own."""
    body = b""
    try:
        async with asyncio.timeout(failure_seconds(limit)):
            while not response.content.at_eof() and len(body) <= MAX_FAILURE:
                body += await response.content.readany()
    except (TimeoutError, aiohttp.ClientError, OSError):
        response.close()
    if (told := story.current()) is not None:
        told.hears(body)
        told.step("body")
    return body


def failure_seconds(limit: asyncio.Timeout) -> float:
    """How long a failure's body is waited for, within an attempt's time."""
    left = (limit.when() or 0.0) - asyncio.get_running_loop().time()
    return min(FAILURE_SECONDS, left * 0.8)


def shown_url(url: URL) -> str:
    """A URL without what may be a key in it: the password, and the values of its query."""
    query = "&".join(f"{name}={story.SECRET}" for name in url.query)
    bare = url.with_user(None).with_query(None).with_fragment(None).human_repr()
    return f"{bare}?{query}" if query else bare


def tell_request(url: URL, body: Body) -> None:
    """What is about to be posted, to who listens; its headers are told once they are sent."""
    if (told := story.current()) is not None:
        told.server = f"{url.host}:{url.port}"
        told.sends(method="POST", url=shown_url(url), headers={}, body=body.content)


def tell_answer(response: aiohttp.ClientResponse) -> None:
    """Report the head of an answer to a story, if there is one."""
    if (told := story.current()) is not None:
        told.step("answer")
        told.answers(status=response.status, headers=told.headers(response.headers))


def tell_redirect(url: URL, status: int) -> None:
    """That the answer sends it on."""
    if (told := story.current()) is not None:
        told.turns(shown_url(url), status)


def retry_after(response: aiohttp.ClientResponse) -> float | None:
    """Seconds that the answer asks to wait; None: it does not ask."""
    return parse_retry_after(response.headers.get("Retry-After"), time.time())


def named(status: int) -> str:
    """The status with its phrase."""
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


def host_of(url: URL) -> str:
    """Host and, where it is not the scheme's own, port. Nothing else of a URL."""
    return url.host_port_subcomponent or ""


def short(text: str) -> str:
    """Cut to what a detail may have."""
    return text if len(text) <= MAX_DETAIL else text[: MAX_DETAIL - 1] + "…"


class Ending(NamedTuple):
    """What an exception says of an attempt."""

    kind: type[BaseException]
    code: str
    sentence: str
    sendable: bool
    """Whether this can happen after the request was sent, too."""


# The first that fits. A test walks aiohttp's exceptions and finds each of them here.
ENDINGS = (
    Ending(resolver.ForbiddenAddress, "forbidden-address", "", False),
    Ending(net_http.NotAsked, "forbidden-address", "", False),
    Ending(aiohttp.ConnectionTimeoutError, "connect-timeout", "no connection in time", False),
    Ending(aiohttp.ClientConnectorDNSError, "dns", "the name cannot be resolved", False),
    Ending(aiohttp.ClientSSLError, "tls", "no TLS connection", False),
    Ending(aiohttp.ServerFingerprintMismatch, "tls", "the certificate is another", False),
    Ending(aiohttp.ClientProxyConnectionError, "proxy", "no connection to the proxy", False),
    Ending(aiohttp.ClientHttpProxyError, "proxy", "the proxy refuses", False),
    Ending(aiohttp.ClientConnectorError, "connect", "no connection", False),
    Ending(aiohttp.InvalidURL, "url", "the URL cannot be used", False),
    Ending(aiohttp.NonHttpUrlClientError, "url", "the URL is not http or https", False),
    Ending(aiohttp.RedirectClientError, "url", "the redirect cannot be followed", False),
    Ending(TimeoutError, "timeout", "no answer in time", True),
    Ending(aiohttp.ServerTimeoutError, "timeout", "no answer in time", True),
    Ending(aiohttp.ClientPayloadError, "reset", "the answer broke off", True),
    Ending(aiohttp.UploadAbortedError, "reset", "the connection broke while sending", True),
    Ending(aiohttp.ClientConnectionError, "reset", "the connection broke before the answer", True),
    Ending(TlsAnswered, "plain-http", USE_HTTPS, False),
    Ending(NotHttp, "bad-answer", "the answer is not valid", True),
    Ending(aiohttp.ClientResponseError, "bad-answer", "the answer is not HTTP", True),
    Ending(aiohttp.ClientError, "client", "the request failed", True),
    Ending(OSError, "reset", "the connection broke", True),
    Ending(ValueError, "settings", "the subscription's settings cannot be sent", True),
    Ending(Exception, "internal", "the request failed in this process", True),
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
    if isinstance(inner, resolver.ForbiddenAddress):
        return Attempt(Outcome.UNREACHABLE, "forbidden-address", short(str(inner)))
    ending = next(one for one in ENDINGS if isinstance(error, one.kind))
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
    return Attempt(outcome, code, short(f"{sentence}: {why}" if why else sentence))


def _inner(error: BaseException) -> BaseException:
    """What aiohttp wrapped."""
    inner = getattr(error, "certificate_error", None) or getattr(error, "os_error", None)
    return inner if isinstance(inner, BaseException) else error


def _why(error: BaseException) -> str:
    """Return the reason of the system or of our own reader, without text from a URL."""
    if isinstance(error, TlsAnswered):
        return ""
    if isinstance(error, NotHttp):
        return str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return str(getattr(error, "verify_message", ""))
    if isinstance(error, ssl.SSLError):
        words = (getattr(error, "reason", None) or "").replace("_", " ").lower()
        return f"{words}; {PLAIN}" if is_plain_port(error) else words
    if isinstance(error, OSError) and error.errno in _ERRNO:
        return ""
    return error.strerror or "" if isinstance(error, OSError) else ""
