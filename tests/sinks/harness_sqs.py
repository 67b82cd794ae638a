"""moto's SQS on loopback, and a second one that asks for keys."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from evoflask.dev.sqs_server import REGION, SqsServer, require_keys
from evoflask.settings import Settings
from evoflask.sinks import load
from evoflask.sinks.base import Delivery, Sink, Target
from tests.sinks.harness import ServerHarness, delivery, settings, target

OWN = {"accessKeyId": "AKIDEXAMPLE", "secretAccessKey": "not-the-operators"}
QUEUE = "contract"


def established(port: int) -> int:
    """TCP connections that a server on this port has open."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    ends = (line.split()[1:4] for line in lines)
    return sum(own.endswith(f":{port:04X}") and state == "01" for own, _, state in ends)


class SqsHarness(ServerHarness):
    name = "sqs"
    largest = 1_048_000

    def __init__(self, folder: Path) -> None:
        self.server = SqsServer(folder / "sqs")
        self._locked = SqsServer(folder / "locked")

    def settings(self) -> Settings:
        return settings(sqs_endpoint_url=self.server.endpoint, sqs_region=REGION)

    def queue(self, name: str, sid: str = "q", *, timeout: float = 10.0) -> Target:
        """A subscription to this queue."""
        url = self.server.url(name)
        return target("sqs", sid=sid, timeout=timeout, queueUrl=url, **OWN)

    def good(self, sid: str = "good", *, timeout: float = 10.0) -> Target:
        return self.queue(QUEUE, sid, timeout=timeout)

    def refused(self) -> None:
        return None  # moto never throttles; test_sqs.py has a server that does

    def rejected(self) -> Delivery:
        data = b'"' + b"x" * 1_048_576 + b'"'
        return delivery(self.good(), "rejected", data=data)

    def broken(self) -> Target:
        return target("sqs", sid="broken", queueUrl="https://169.254.169.254/123456789012/q", **OWN)

    def wrong_credentials(self) -> tuple[Sink, Target, str]:
        if self._locked.process is None:
            self._locked.start()
            self._locked.create(QUEUE)
            require_keys(self._locked.endpoint)
        secret = "not-let-in-0123456789"
        own = {"accessKeyId": "AKIDWRONG", "secretAccessKey": secret}
        locked = target("sqs", sid="locked", queueUrl=self._locked.url(QUEUE), **own)
        changed = settings(sqs_endpoint_url=self._locked.endpoint, sqs_region=REGION)
        return load(self.name)(changed), locked, secret

    def arrived(self) -> list[tuple[str, str]]:
        return self.server.accepted()

    def connections(self) -> int:
        return established(self.server.port)

    def start(self) -> None:
        """moto keeps no queue; what it had accepted is in its book."""
        self.server.start()
        self.server.create(QUEUE)

    def close(self) -> None:
        for server in (self.server, self._locked):
            server.resume()
            server.kill9()


@contextlib.contextmanager
def start(folder: Path) -> Iterator[SqsHarness]:
    """The server, running, with its queue."""
    harness = SqsHarness(folder)
    try:
        harness.start()
        yield harness
    finally:
        harness.close()
