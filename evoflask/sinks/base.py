"""The one interface between the drain and the world outside."""

from __future__ import annotations

import abc
import enum
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import urlsplit

from evoflask.settings import Settings
from evoflask.signing import SigningKey

MAX_ANSWER = 1024
"""Characters of an answer that an attempt shows."""


class Outcome(enum.StrEnum):
    """What is known about one attempt. A fact, not a decision."""

    DELIVERED = "delivered"
    """The destination proved it."""
    REFUSED = "refused"
    """It said no, but may change its mind: 429, 5xx, nack."""
    REJECTED = "rejected"
    """It said no for good: 410, unroutable, too large."""
    UNREACHABLE = "unreachable"
    """Nothing was sent: no name, no connection, no TLS."""
    AMBIGUOUS = "ambiguous"
    """It was sent, at least in part, and the answer was lost."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try. `code` is the destination's own (an HTTP status) or a word of ours
    (`timeout`, `dns`); `detail` is a sentence without secrets, at most 300 characters;
    `retry_after` is what the destination asked for, in seconds. `host` is where it went, with
    its port where that is not the usual one; `answer` is how what came back begins, one line
    without secrets of at most `MAX_ANSWER` characters. Of deliveries that worked, `answer` is
    there only where `ATTEMPTS_LOG` is `all`."""

    outcome: Outcome
    code: str = ""
    detail: str = ""
    retry_after: float | None = None
    # What is shown of it, not what it is.
    host: str = field(default="", compare=False)
    answer: str = field(default="", compare=False)

    def told(self, host: str, answer: str = "") -> Attempt:
        """The same, with where it went and what was answered."""
        return Attempt(self.outcome, self.code, self.detail, self.retry_after, host, answer)


def host_in(uri: str) -> str:
    """Host and port of a server's URI, never its credentials; "" where it cannot be read. Pure."""
    try:
        place = urlsplit(uri).netloc
    except ValueError:
        return ""
    if "@" in uri and "@" not in place:
        return ""  # a password that is not quoted ended it early
    return place.rpartition("@")[2]


@dataclass(frozen=True, slots=True)
class Target:
    """A subscription as a sink sees it. `settings` were validated by the sink's schema."""

    sid: str
    """The lane's id: random, never given twice."""
    version: int
    """Raised by every change of the subscription: a sink's cache key."""
    instance: str
    """The instance's name, for payloads."""
    sink: str
    format: str
    timeout: float
    """Seconds for one attempt as a whole."""
    settings: Mapping[str, Any]
    keys: tuple[SigningKey, ...] = ()
    """What its requests are signed with."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event on its way to one destination."""

    target: Target
    event_id: str
    event: str
    """Name in the catalogue's spelling, `MESSAGES_UPSERT`."""
    data: bytes
    """The caller's own JSON, to the byte."""
    at: float
    """When it was accepted, Unix seconds."""
    tries: int
    """How many attempts failed before this one."""
    key: str
    """The order key."""
    sender: str | None = None
    date_time: str | None = None
    """The emit's own `dateTime`; None: `at`."""
    server_url: str | None = None
    """The emit's own `serverUrl`; None: the server's."""
    origin: str | None = None
    mark: str = ""
    """What receivers are told it is: `test`, `replay`; "": an event like any other."""
    again: str = ""
    """Which replay it belongs to: a broker that drops repeats must not take it for one."""
    traceparent: str | None = None
    """The span that accepted it, where traces are on."""


class Sink(abc.ABC):
    """A connection to one kind of destination.

    Reports facts, decides nothing: no retries, no sleeping, no metrics, no database, no
    knowledge of lanes or routes. The constructor connects to nothing. One object serves
    all subscriptions of its kind in a process, on one event loop.
    """

    batch_size: ClassVar[int] = 1
    """How many deliveries one call may carry."""
    depth: ClassVar[int] = 1
    """How many times `QUICK_SLOTS` deliveries may be under way at once: more than 1 where they
    share a connection, cost the destination nothing while they wait, and are confirmed late."""

    @abc.abstractmethod
    def __init__(self, settings: Settings) -> None: ...

    def batch_key(self, target: Target) -> Hashable:
        """Deliveries share a call only where this is the same for their targets: they end
        together, so they must have a destination, and its fate, in common. Not asked for
        where `batch_size` is 1."""
        return target.sid

    @abc.abstractmethod
    async def deliver(self, batch: Sequence[Delivery]) -> list[Attempt]:
        """One attempt per delivery, in order. Never raises for a failed delivery, never
        takes much longer than the target's timeout."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Let go of connections. May be called twice."""
