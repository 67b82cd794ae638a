"""A receiver on loopback."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from evoflask import __version__
from evoflask.dev.process import whole_lines
from evoflask.dev.receiver import Receiver
from evoflask.formats import Standard
from evoflask.settings import Settings
from evoflask.sinks.base import Delivery, Sink, Target
from tests.sinks.harness import Harness, delivery, settings, target


class WebhookHarness(Harness):
    name = "webhook"
    largest = 4_000_000
    kept = 2  # one for each lane: no connection carries the requests of two

    def __init__(self, folder: Path) -> None:
        self._file = folder / "arrived"
        self._receiver = Receiver(self._file)

    def settings(self) -> Settings:
        return settings()

    def good(self, sid: str = "good", *, timeout: float = 10.0) -> Target:
        return target("webhook", sid=sid, timeout=timeout, url=self._receiver.url("/ok"))

    def refused(self) -> Target:
        return target("webhook", sid="refused", url=self._receiver.url("/status/503"))

    def rejected(self) -> Delivery:
        gone = target("webhook", sid="rejected", url=self._receiver.url("/status/410"))
        return delivery(gone, "rejected")

    def broken(self) -> Target:
        return target("webhook", sid="broken", url="http://[::1")

    def wrong_credentials(self) -> tuple[Sink, Target, str]:
        secret = "Bearer not-let-in"
        url = self._receiver.url("/status/401")
        locked = target("webhook", sid="locked", url=url, headers={"Authorization": secret})
        return self.sink(), locked, secret.partition(" ")[2]

    def arrived(self) -> list[tuple[str, str]]:
        return [(event_id, sha) for event_id, sha in map(str.split, whole_lines(self._file))]

    def body_of(self, delivery: Delivery) -> bytes:
        return Standard("demo", server_version=__version__).body(delivery)

    def connections(self) -> int:
        return int(self._receiver.counts()["connections"])

    def kill(self) -> None:
        self._receiver.close()

    def start(self) -> None:
        self._receiver.start()

    def pause(self) -> None:
        os.kill(self._receiver.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self._receiver.pid, signal.SIGCONT)

    def close(self) -> None:
        self._receiver.close()


@contextlib.contextmanager
def start(folder: Path) -> Iterator[Harness]:
    """The receiver, running."""
    harness = WebhookHarness(folder)
    try:
        yield harness
    finally:
        harness.close()
