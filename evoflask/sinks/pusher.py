"""Pusher Channels, and servers that speak its HTTP API: up to ten events a call.

Delivered means: the server accepted the call (200 or 202 and a JSON object without an error)
and broadcasts the event to whoever is subscribed at that moment. Pusher keeps nothing: a
client that is away misses it, and delivered says nothing of how many were there.

The pusher library signs each request; it is sent by a session of ours, for the library's own
backends open a session a call or block a thread, know no bound for an answer and take a 200
for success whatever its body says. soketi answers every failure that way: HTTP 200 and
`{"error": ..., "code": 401}`.

A server takes or refuses a call as a whole, so one event must not spoil nine: what is too
large or has no proper name is found before. Should a call of several be refused for good all
the same, nothing of it was broadcast, and its events are sent once more each in a call of
its own, within the same timeout, to find the one that cannot go.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import re
import ssl
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import aiohttp
import orjson
from pusher.http import Request
from pusher.pusher_client import PusherClient
from yarl import URL

from evoflask import __version__, formats
from evoflask.net import guard, story
from evoflask.net import http as net_http
from evoflask.plurals import counted
from evoflask.settings import Settings
from evoflask.sinks._answers import excerpt, head
from evoflask.sinks._http import (
    Body,
    failure_body,
    named,
    retry_after,
    short,
    tell_answer,
    tell_request,
    translate,
)
from evoflask.sinks._schemes import PLAIN, wants_tls
from evoflask.sinks.base import Attempt, Delivery, Outcome, Sink, Target

MAX_BATCH = 10
"""Events of one call; Pusher's shared clusters and soketi take no more."""
MAX_DATA = 10_240
"""Bytes of one event's `data`, encoded; Pusher answers 413 above."""
MAX_CHANNEL = 164
MAX_EVENT_NAME = 200
"""Characters."""
MAX_ANSWER = 64 * 1024
"""Bytes of an answer that are read; Pusher's own are `{}`."""
BUSY_SECONDS = 5.0
"""How long to wait after a 429 that does not say."""
QUOTA_SECONDS = 60.0
"""The same after a 403: an app that was switched off, or used up its messages."""
CACHED = 20_000
"""Destinations kept prepared."""
APPS = 5_000
"""Apps kept prepared. None has a connection of its own."""

_CHANNEL = re.compile(r"[-A-Za-z0-9_=@,.;]+", re.ASCII)
_ACCEPTED = frozenset({200, 202})
_REJECTED = frozenset({400, 413})
_ANYWHERE = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
_HEADERS = {
    "User-Agent": f"evoflask/{__version__}",
    "Accept": "application/json",
    "Accept-Encoding": "identity",  # answers are bounded as they come, never unpacked
}

Event = dict[str, str]
"""As the HTTP API has it: channel, name, data."""


class PusherSink(Sink):
    """Triggers events. `ssl_context`: instead of the system's certificates."""

    batch_size = MAX_BATCH

    def __init__(self, settings: Settings, *, ssl_context: ssl.SSLContext | None = None) -> None:
        self._settings = settings
        self._ssl_context = ssl_context
        self._session: aiohttp.ClientSession | None = None
        self._destinations: dict[str, _Destination] = {}
        self._apps: OrderedDict[Hashable, _App] = OrderedDict()
        self._shows = settings.attempts_log == "all"

    def batch_key(self, target: Target) -> Hashable:
        """The app and how it is spoken to: who has these in common has everything."""
        get = target.settings.get
        return (
            get("appId"),
            get("key"),
            get("secret"),
            get("cluster"),
            get("useTLS"),
            target.timeout,
        )

    async def deliver(self, batch: Sequence[Delivery]) -> list[Attempt]:
        attempts: list[Attempt | None] = [None] * len(batch)
        calls: dict[tuple[_App, float], list[tuple[int, Event]]] = {}
        for n, delivery in enumerate(batch):
            found = self._prepare(delivery)
            if isinstance(found, Attempt):
                attempts[n] = found
            else:
                app, event = found
                calls.setdefault((app, delivery.target.timeout), []).append((n, event))
        # One, as batches are made; any other batch is right too.
        sends = [
            self._send(app, [event for _, event in events], timeout)
            for (app, timeout), events in calls.items()
        ]
        ended = [await sends[0]] if len(sends) == 1 else await asyncio.gather(*sends)
        for events, results in zip(calls.values(), ended, strict=True):
            for (n, _), attempt in zip(events, results, strict=True):
                attempts[n] = attempt
        return cast("list[Attempt]", attempts)

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _prepare(self, delivery: Delivery) -> tuple[_App, Event] | Attempt:
        """The event as it is sent, or why it cannot be."""
        try:
            destination = self._destination(delivery.target)
            return _event(destination, delivery)
        except Exception as error:
            return translate(error, sent=False)

    async def _send(self, app: _App, events: Sequence[Event], seconds: float) -> list[Attempt]:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        attempt = await self._call(app, events, seconds)
        if len(events) == 1 or attempt.outcome is not Outcome.REJECTED:
            return [attempt] * len(events)
        left = end - loop.time()
        return list(await asyncio.gather(*(self._call(app, [each], left) for each in events)))

    async def _call(self, app: _App, events: Sequence[Event], seconds: float) -> Attempt:
        body: Body | None = None
        try:
            async with asyncio.timeout(seconds) as limit:
                request = _Signed(app.client, events)
                body = Body(request.body)
                told = story.current()
                if told is None:
                    session = self._session or self._connect()
                    return await _post(session, request, body, app, self._shows, limit)
                told.hidden = app.hidden
                async with net_http.telling(
                    told,
                    self._reachable,
                    connect_timeout=self._settings.webhook_connect_timeout,
                    ssl_context=self._ssl_context,
                    proxy=self._proxy,
                ) as session:
                    return await _post(session, request, body, app, self._shows, limit)
        except Exception as error:
            attempt = translate(error, sent=body is not None and body.started)
            return _with_scheme(attempt, app.client.ssl).told(app.host)

    @property
    def _reachable(self) -> Sequence[guard.Network]:
        """A server of the operator's own may be anywhere; Pusher's is outside, whatever its
        name is made to stand for."""
        return _ANYWHERE if self._settings.pusher_host else ()

    @property
    def _proxy(self) -> str:
        return "" if self._settings.pusher_host else self._settings.outbound_proxy

    def _connect(self) -> aiohttp.ClientSession:
        self._session = net_http.session(
            self._reachable,
            connect_timeout=self._settings.webhook_connect_timeout,
            limit=0,  # the drain's slots are the limit
            ssl_context=self._ssl_context,
            proxy=self._proxy,
        )
        return self._session

    def _destination(self, target: Target) -> _Destination:
        found = self._destinations.get(target.sid)
        if found is None or found.version != target.version:
            found = _Destination(
                version=target.version,
                app=self._app(target.settings),
                format=formats.FORMATS[target.format](target.instance),
                instance=target.instance,
                reference=target.settings.get("oversize") == "reference",
            )
            self._destinations.pop(target.sid, None)
            if len(self._destinations) >= CACHED:
                del self._destinations[next(iter(self._destinations))]
            self._destinations[target.sid] = found
        return found

    def _app(self, settings: Mapping[str, Any]) -> _App:
        key = tuple(settings.get(name) for name in ("appId", "key", "secret", "cluster", "useTLS"))
        found = self._apps.pop(key, None) or self._make_app(settings)
        self._apps[key] = found
        if len(self._apps) > APPS:
            self._apps.popitem(last=False)
        return found

    def _make_app(self, settings: Mapping[str, Any]) -> _App:
        host, port = self._settings.pusher_host, self._settings.pusher_port
        client = PusherClient(
            app_id=str(settings["appId"]),
            key=str(settings["key"]),
            secret=str(settings["secret"]),
            cluster=str(settings["cluster"]),
            ssl=settings.get("useTLS") is not False,
            host=host or None,
            port=int(port) if host and port else None,
            backend=_Unsent,
        )
        usual = client.port in (80, 443)
        shown = str(client.host) if usual else f"{client.host}:{client.port}"
        return _App(client, (client.secret,), shown)


class _Signed(Request):  # type: ignore[misc]  # the library carries no types
    """A call of the library's making and signing, with a body of our making: its own escapes
    all that is not ASCII and takes nine times as long, half of what a signed call costs."""

    def __init__(self, client: PusherClient, events: Sequence[Event]) -> None:
        self.client, self.method = client, "POST"
        self.path = f"/apps/{client.app_id}/batch_events"
        self.body = orjson.dumps({"batch": events})
        self.query_params: dict[str, str] = {}
        self._generate_auth()


class _Unsent:
    """A backend for the library, which would else make a session an app. Sends nothing."""

    def __init__(self, client: PusherClient) -> None:
        """Connects to nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class _App:
    """One app and its credentials."""

    client: PusherClient
    hidden: tuple[str, ...]
    """What must not be shown when an answer repeats it."""
    host: str = ""


@dataclass(frozen=True, slots=True)
class _Destination:
    """What stays the same from event to event of a subscription."""

    version: int
    app: _App
    format: formats.Format
    instance: str
    reference: bool
    """Send a reference to an event that is too large, instead of rejecting it."""


def _event(destination: _Destination, delivery: Delivery) -> tuple[_App, Event] | Attempt:
    channel, name = destination.format.channel(), destination.format.event_name(delivery.event)
    if wrong := fault(channel, name):
        return Attempt(Outcome.REJECTED, "name", short(wrong))
    body = destination.format.body(delivery)
    if len(body) > MAX_DATA:
        if not destination.reference:
            return _too_large(len(body))
        body = formats.reference(destination.instance, delivery, len(body))
        if len(body) > MAX_DATA:
            return _too_large(len(body))
    return destination.app, {"channel": channel, "name": name, "data": body.decode()}


def _too_large(size: int) -> Attempt:
    return Attempt(
        Outcome.REJECTED,
        "too-large",
        f"the event has {counted(size, 'byte')} and Pusher takes {MAX_DATA}; "
        f"{formats.OVERSIZE_HINT}",
    )


def _with_scheme(attempt: Attempt, secure: bool) -> Attempt:
    """Name `useTLS` in a failure that a wrong value of it may cause. Pure."""
    detail = attempt.detail
    if secure:
        detail = detail.replace(PLAIN, "the port may not speak TLS: set useTLS to false")
    elif attempt.code in ("bad-answer", "reset") or wants_tls("http", detail):
        detail = f"{detail}; if the port speaks TLS, set useTLS to true"
    return replace(attempt, detail=short(detail))


@functools.lru_cache(maxsize=8192)
def fault(channel: str, name: str) -> str:
    """What is wrong with the names of a channel and an event; "": nothing. Pure."""
    if not _CHANNEL.fullmatch(channel) or len(channel) > MAX_CHANNEL:
        return (
            f"Pusher has no such channel: its name must be 1 to {MAX_CHANNEL} letters, digits "
            "or -_=@,.;"
        )
    if not 0 < len(name) <= MAX_EVENT_NAME:
        return f"Pusher has no such event: its name must have 1 to {MAX_EVENT_NAME} characters"
    return ""


async def _post(
    session: aiohttp.ClientSession,
    request: _Signed,
    body: Body,
    app: _App,
    shows: bool,
    limit: asyncio.Timeout,
) -> Attempt:
    url = URL(request.url, encoded=True)
    tell_request(url, body)
    response = await session.post(
        url, data=body, headers={**request.headers, **_HEADERS}, allow_redirects=False
    )
    tell_answer(response)
    try:
        return await _read(response, app, shows, limit)
    finally:
        response.release()


async def _read(
    response: aiohttp.ClientResponse, app: _App, shows: bool, limit: asyncio.Timeout
) -> Attempt:
    status = response.status
    if status not in _ACCEPTED:
        body = await failure_body(response, limit)
        attempt = classify(status, body, retry_after(response), app.hidden)
        attempt = _with_scheme(attempt, app.client.ssl)
        return attempt.told(app.host, head(body, app.hidden))
    body, content = b"", response.content
    while not content.at_eof():
        body += await content.readany()
        if len(body) > MAX_ANSWER:
            response.close()
            return Attempt(
                Outcome.AMBIGUOUS,
                "answer-too-large",
                f"answered {status}, but the answer too large: over {MAX_ANSWER} bytes",
                host=app.host,
            )
    if (told := story.current()) is not None:
        told.hears(body)
        told.step("body")
    attempt = classify(status, body, retry_after(response), app.hidden)
    shown = shows or attempt.outcome is not Outcome.DELIVERED
    return attempt.told(app.host, head(body, app.hidden) if shown else "")


# What an answer means

_SENTENCES = {
    400: "the server found the event malformed",
    401: "the server does not accept these credentials",
    403: "the app is switched off or has no messages left",
    404: "the server has no such app",
    413: "the server found the event too large",
    429: "the app sends too much for now",
}


def classify(
    status: int, answer: bytes = b"", asked: float | None = None, hidden: Sequence[str] = ()
) -> Attempt:
    """What an answer means. `asked`: its Retry-After. Pure.

    Credentials, quota and an unknown app are refusals, not rejections: an operator mends
    them, and until then the lane waits instead of turning a day's events into letters.
    """
    said = _object(answer)
    if status in _ACCEPTED:
        if said is None:
            detail = f"answered {status}, but not as Pusher does: {excerpt(answer, hidden)}"
            return Attempt(Outcome.AMBIGUOUS, "bad-answer", short(detail))
        if "error" not in said:
            return Attempt(Outcome.DELIVERED, str(status))
        status = _code(said)
    outcome = Outcome.REJECTED if status in _REJECTED else Outcome.REFUSED
    wait = None if outcome is Outcome.REJECTED else _wait(status, asked)
    return Attempt(outcome, str(status), _detail(status, said, answer, hidden), wait)


def _object(answer: bytes) -> dict[str, Any] | None:
    try:
        said = orjson.loads(answer)
    except orjson.JSONDecodeError:
        return None
    return said if isinstance(said, dict) else None


def _code(said: Mapping[str, Any]) -> int:
    """The status that a 200 with an error means; 500 where it does not say."""
    code = said.get("code")
    known = isinstance(code, int) and 400 <= code <= 599
    return int(cast("int", code)) if known else 500


def _wait(status: int, asked: float | None) -> float | None:
    if asked is not None:
        return asked
    return {403: QUOTA_SECONDS, 429: BUSY_SECONDS}.get(status)


def _detail(
    status: int, said: Mapping[str, Any] | None, answer: bytes, hidden: Sequence[str]
) -> str:
    sentence = _SENTENCES.get(status, "the server failed" if status >= 500 else "")
    told = str(said["error"]).encode() if said and "error" in said else answer
    parts = [f"answered {named(status)}", sentence, excerpt(told, hidden)]
    return short(": ".join(part for part in parts if part))
