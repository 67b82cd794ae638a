"""What the contract suite needs of each sink: a real destination that ends as told.

Each sink's own is in `harness_<sink>.py`, which has `start(folder)`: a context manager that
yields a `Harness` with its server running.
"""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import importlib
import ipaddress
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar, cast

from evoflask.dev.server import Server
from evoflask.errors import Misconfigured
from evoflask.formats import Standard
from evoflask.settings import Settings
from evoflask.signing import SigningKey
from evoflask.sinks import load
from evoflask.sinks.base import Delivery, Outcome, Sink, Target
from tests.conftest import missing

LOOPBACK = ipaddress.ip_network("127.0.0.0/8")
DATA = (
    '{"key": {"remoteJid":"1@s"}, "text":"ü \\u00fc 1.0 1e3" , "n": 12345678901234567890}'.encode()
)


def settings(**changes: Any) -> Settings:
    """Return settings that may reach loopback, with patience for a busy machine's connections."""
    base = Settings(webhook_allow_networks=(LOOPBACK,), webhook_connect_timeout=10.0)
    return dataclasses.replace(base, **changes)


def target(sink: str, sid: str = "a1", timeout: float = 10.0, **config: Any) -> Target:
    """A subscription; `secret`, `version` and `instance` are its own, the rest are the sink's
    settings (`settings_secret` for a setting of that name)."""
    own = {
        key: config.pop(key) for key in ("secret", "keys", "version", "instance") if key in config
    }
    if "settings_secret" in config:
        config["secret"] = config.pop("settings_secret")
    return Target(
        sid=sid,
        version=own.get("version", 1),
        instance=own.get("instance", "demo"),
        sink=sink,
        format="standard",
        timeout=timeout,
        settings=config,
        keys=(SigningKey(own["secret"]),) if own.get("secret") else own.get("keys", ()),
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
    """A destination of one sink, on a server of its own that can be killed and paused."""

    name: ClassVar[str]
    largest: ClassVar[int] = 1_000_000
    """Bytes of `data` that surely fit."""
    kept: ClassVar[int] = 1
    """Connections that two lanes with equal credentials leave open.

    0 for a server that closes each after its answer; the sink's own test then shows the sharing.
    """

    @abc.abstractmethod
    def settings(self) -> Settings:
        """With the server's address."""

    def sink(self) -> Sink:
        return load(self.name)(self.settings())

    @abc.abstractmethod
    def good(self, sid: str = "good", *, timeout: float = 10.0) -> Target:
        """A subscription whose events arrive while the server is up."""

    @abc.abstractmethod
    def refused(self) -> Target | None:
        """One that is said no to, for now; None: this sink has no such thing to show here."""

    @abc.abstractmethod
    def rejected(self) -> Delivery:
        """An event that is said no to for good."""

    @abc.abstractmethod
    def broken(self) -> Target:
        """One whose settings cannot work: nothing is sent."""

    @abc.abstractmethod
    def wrong_credentials(self) -> tuple[Sink, Target, str] | None:
        """A sink and a target that are not let in, and the secret that they used; None: this
        sink's server knows no credentials."""

    @abc.abstractmethod
    def arrived(self) -> list[tuple[str, str]]:
        """Id and SHA-256 of the body of all that ever arrived, in order, repeats included; also
        what arrived before the server was killed."""

    def body_of(self, delivery: Delivery) -> bytes:
        """What should arrive."""
        return Standard(delivery.target.instance).body(delivery)

    def hash_of(self, delivery: Delivery) -> str:
        """The SHA-256 of `body_of`."""
        return hashlib.sha256(self.body_of(delivery)).hexdigest()

    @abc.abstractmethod
    def connections(self) -> int:
        """How many connections of the sink the server has now."""

    @abc.abstractmethod
    def kill(self) -> None:
        """As a crash: at once, in the middle of whatever it does."""

    @abc.abstractmethod
    def start(self) -> None:
        """Again, after `kill`, on the same address, with what it kept on disk."""

    @abc.abstractmethod
    def pause(self) -> None:
        """It answers nothing, and its connections stay open."""

    @abc.abstractmethod
    def resume(self) -> None: ...

    def outcomes_of_a_kill(self) -> set[Outcome]:
        """How deliveries may end when the server is killed in their middle."""
        return {Outcome.DELIVERED, Outcome.AMBIGUOUS, Outcome.UNREACHABLE}


class ServerHarness(Harness):
    """With one of our private servers."""

    server: Server

    def kill(self) -> None:
        self.server.kill9()

    def start(self) -> None:
        self.server.start()

    def pause(self) -> None:
        self.server.pause()

    def resume(self) -> None:
        self.server.resume()


Start = Callable[[Path], AbstractContextManager[Harness]]


def start_of(sink: str) -> Start:
    """The sink's own harness. Raises `ModuleNotFoundError` where there is none."""
    return cast("Start", importlib.import_module(f"tests.sinks.harness_{sink}").start)


@contextmanager
def running(sink: str, folder: Path) -> Iterator[Any]:
    """The sink's own harness, running. A server that is missing ends the test."""
    with ExitStack() as stack:
        try:
            harness = stack.enter_context(start_of(sink)(folder))
        except Misconfigured as error:
            missing(str(error))
        yield harness
