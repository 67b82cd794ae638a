"""What the contract suite needs of each sink: a real destination that ends as told."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import hashlib
import ipaddress
import json
import socket
from collections.abc import Iterator
from typing import Any, ClassVar

from evoflask.dev.receiver import Receiver
from evoflask.settings import Settings
from evoflask.sinks import load
from evoflask.sinks.base import Delivery, Outcome, Sink, Target

LOOPBACK = ipaddress.ip_network("127.0.0.0/8")
DATA = (
    '{"key": {"remoteJid":"1@s"}, "text":"ü \\u00fc 1.0 1e3" , "n": 12345678901234567890}'.encode()
)


def settings(**changes: Any) -> Settings:
    """Settings that may reach loopback, and give a connection half a second."""
    base = Settings(webhook_allow_networks=(LOOPBACK,), webhook_connect_timeout=0.5)
    return dataclasses.replace(base, **changes)


def target(sink: str, sid: str = "a1", timeout: float = 5.0, **config: Any) -> Target:
    """A subscription; `secret` and `version` are its own, the rest are the sink's settings."""
    own = {key: config.pop(key) for key in ("secret", "version") if key in config}
    return Target(
        sid=sid,
        version=own.get("version", 1),
        instance="demo",
        sink=sink,
        format="standard",
        timeout=timeout,
        settings=config,
        secret=own.get("secret"),
    )


def delivery(target: Target, event_id: str = "e-1", **changes: Any) -> Delivery:
    """One event for it."""
    base = Delivery(
        target=target,
        event_id=event_id,
        event="MESSAGES_UPSERT",
        data=DATA,
        at=1_700_000_000.123,
        tries=0,
        key="1@s",
        sender="me",
    )
    return dataclasses.replace(base, **changes)


def closed_port() -> int:
    """A loopback port where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Harness(abc.ABC):
    """A destination of one sink. `targets`: per outcome, subscriptions that end so."""

    name: ClassVar[str]

    def sink(self) -> Sink:
        return load(self.name)(settings())  # type: ignore[call-arg]

    @abc.abstractmethod
    def target(self, outcome: Outcome) -> Target: ...

    @abc.abstractmethod
    def broken(self) -> Target:
        """One whose settings cannot work."""

    @abc.abstractmethod
    def arrived(self) -> list[tuple[str, str]]:
        """Id and SHA-256 of the body of what arrived, in order."""

    @abc.abstractmethod
    def body_hash(self, delivery: Delivery) -> str: ...


class WebhookHarness(Harness):
    name = "webhook"

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def target(self, outcome: Outcome) -> Target:
        url, timeout = {
            Outcome.DELIVERED: (self._receiver.url("/ok"), 5.0),
            Outcome.REFUSED: (self._receiver.url("/status/503"), 5.0),
            Outcome.REJECTED: (self._receiver.url("/status/410"), 5.0),
            Outcome.UNREACHABLE: (f"http://127.0.0.1:{closed_port()}/", 5.0),
            Outcome.AMBIGUOUS: (self._receiver.url("/hang"), 0.3),
        }[outcome]
        return target("webhook", sid=outcome.value, timeout=timeout, url=url)

    def broken(self) -> Target:
        return target("webhook", sid="broken", url="http://[::1")

    def arrived(self) -> list[tuple[str, str]]:
        return [(one.id, one.sha256) for one in self._receiver.received()]

    def body_hash(self, delivery: Delivery) -> str:
        from evoflask import __version__

        server = json.dumps({"version": __version__, "url": ""}, separators=(",", ":"))
        body = (
            f'{{"event":"{delivery.event}","instance":"demo","data":{delivery.data.decode()},'
            f'"timestamp":"2023-11-14T22:13:20.123Z","sender":"me","server":{server},'
            f'"id":"{delivery.event_id}"}}'
        )
        return hashlib.sha256(body.encode()).hexdigest()


@contextlib.contextmanager
def webhook() -> Iterator[Harness]:
    with Receiver() as receiver:
        yield WebhookHarness(receiver)


HARNESSES = {"webhook": webhook}
"""One for every sink that is built; the suite fails for one without."""
