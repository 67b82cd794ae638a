"""Wire formats: what a receiver gets. Pure, and one small class each.

A format is made once per destination and joins the constant parts with each event; `data`
is never parsed again and arrives as it was given, to the byte. A second format
(`evolution`, `cloudevents`) is one class and one line in `FORMATS`.
"""

from __future__ import annotations

import abc
import base64
import functools
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import ClassVar, Protocol
from urllib.parse import urlsplit, urlunsplit

import orjson


class Event(Protocol):
    """What a format reads of a delivery."""

    @property
    def event_id(self) -> str: ...
    @property
    def event(self) -> str: ...
    @property
    def data(self) -> bytes: ...
    @property
    def at(self) -> float: ...
    @property
    def sender(self) -> str | None: ...
    @property
    def date_time(self) -> str | None: ...
    @property
    def server_url(self) -> str | None: ...
    @property
    def mark(self) -> str: ...


class Format(abc.ABC):
    """How one destination's events look.

    `server_version` given: the server is named too, as webhooks have it; its address is the
    emit's, else `server_url`. `base64`: `data` becomes the base64 of its JSON bytes.
    """

    content_type: ClassVar[str] = "application/json"

    def __init__(
        self,
        instance: str,
        *,
        server_version: str | None = None,
        server_url: str = "",
        base64: bool = False,
    ) -> None:
        self._instance = instance
        self._server_version = server_version
        self._server_url = server_url
        self._base64 = base64

    @abc.abstractmethod
    def body(self, event: Event) -> bytes:
        """The whole body."""

    @abc.abstractmethod
    def path(self, event: str) -> str:
        """What `byEvents` adds to a webhook's path, without a slash."""

    @abc.abstractmethod
    def routing_key(self, event: str) -> str:
        """What RabbitMQ's topic exchange routes by. Dots part its words."""

    @abc.abstractmethod
    def subject(self, template: str, event: str) -> str:
        """NATS' subject: the subscription's, with `{instance}` and `{event}` filled in."""

    @abc.abstractmethod
    def attributes(self, event: str) -> Mapping[str, str]:
        """SQS' message attributes."""

    @abc.abstractmethod
    def channel(self) -> str:
        """Pusher's channel."""

    @abc.abstractmethod
    def event_name(self, event: str) -> str:
        """Pusher's name of an event."""


class Standard(Format):
    """The project's own: `{event, instance, data, timestamp, sender, id}`, for webhooks
    `server: {version, url}`, and for what is marked `test: true` or `replay: true`."""

    def __init__(
        self,
        instance: str,
        *,
        server_version: str | None = None,
        server_url: str = "",
        base64: bool = False,
    ) -> None:
        super().__init__(
            instance, server_version=server_version, server_url=server_url, base64=base64
        )
        self._middle = b',"instance":' + orjson.dumps(instance) + b',"data":'
        # An instance is one word of a routing key or subject, whatever its name.
        self._word = instance.replace(".", "_")
        # Of the last event: senders and servers hardly change within an instance.
        self._tail_of: tuple[str | None, str | None] | None = None
        self._tail = b""

    def body(self, event: Event) -> bytes:
        data = event.data
        if self._base64:
            data = b'"' + base64.b64encode(data) + b'"'
        tail_of = (event.sender, event.server_url)
        if tail_of != self._tail_of:
            self._tail, self._tail_of = self._make_tail(*tail_of), tail_of
        return b"".join(
            (
                b'{"event":"',
                event.event.encode(),  # of the catalogue: nothing to escape
                b'"',
                self._middle,
                data,
                b',"timestamp":',
                _timestamp(event.date_time, event.at),
                self._tail,
                orjson.dumps(event.event_id),
                _ENDS[event.mark],
            )
        )

    def path(self, event: str) -> str:
        return event.lower()

    def routing_key(self, event: str) -> str:
        return f"evolution.{self._word}.{event.lower()}"

    def subject(self, template: str, event: str) -> str:
        return template.replace("{instance}", self._word).replace("{event}", event.lower())

    def attributes(self, event: str) -> Mapping[str, str]:
        return {"event": event, "instance": self._instance}

    def channel(self) -> str:
        return self._instance

    def event_name(self, event: str) -> str:
        return event

    def _make_tail(self, sender: str | None, server_url: str | None) -> bytes:
        parts = [b',"sender":', orjson.dumps(sender)]
        if self._server_version is not None:
            url = self._server_url if server_url is None else server_url
            server = {"version": self._server_version, "url": url}
            parts += [b',"server":', orjson.dumps(server)]
        return b"".join((*parts, b',"id":'))


MARKS = ("", "test", "replay")
"""What an event may be marked as."""
_ENDS = {mark: b',"%b":true}' % mark.encode() if mark else b"}" for mark in MARKS}

FORMATS: dict[str, type[Format]] = {"standard": Standard}
"""What a subscription's `format` may say."""


OVERSIZE_HINT = 'set "oversize": "reference" to get its id and size instead'
"""Advice that a sink adds when it rejects an event as too large."""


def reference(instance: str, event: Event, size: int) -> bytes:
    """Return the body that replaces one of `size` bytes that its sink does not take.

    A receiver fetches the event by `GET /event/<instance>/<id>` while it is retained.
    """
    marks = {event.mark: True} if event.mark else {}
    return orjson.dumps(
        {
            "event": event.event,
            "instance": instance,
            "id": event.event_id,
            "size": size,
            "oversize": True,
            "timestamp": event.date_time or utc(event.at),
            **marks,
        }
    )


def with_path(url: str, path: str) -> str:
    """`path` below the URL's own path, whatever its slashes; query kept, fragment dropped."""
    scheme, netloc, own, query, _ = urlsplit(url)
    return urlunsplit((scheme, netloc, f"{own.rstrip('/')}/{path}", query, ""))


def utc(at: float) -> str:
    """Unix seconds as `2026-01-31T12:00:00.000Z`."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def _timestamp(date_time: str | None, at: float) -> bytes:
    return b'"%b"' % utc(at).encode() if date_time is None else _dumped(date_time)


@functools.lru_cache(maxsize=1024)
def _dumped(text: str) -> bytes:
    return orjson.dumps(text)
