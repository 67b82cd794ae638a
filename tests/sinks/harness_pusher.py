"""soketi on loopback.

What arrived is what the server accepted and began to broadcast, written down inside its own
process by a script that node loads before it (soketi_recorder.js). A subscriber would not do:
Pusher keeps nothing, so an event that was answered with 200 in the moment of a kill may be
lost between server and subscriber, which no sink can know or mend. Nothing of the server is
replaced: signatures, limits, answers and broadcasts are its own, and that what is written
down here reaches a subscribed client is shown in test_pusher.py.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

from evoflask.dev.process import whole_lines
from evoflask.dev.soketi_server import SoketiServer
from evoflask.settings import Settings
from evoflask.sinks.base import Delivery, Sink, Target
from tests.sinks.harness import ServerHarness, delivery, settings, target

APP = "1001"
KEY = "app-key"
SECRET = "app-secret-of-the-tests"
OTHER = {"id": "1002", "key": "other-key", "secret": "other-secret"}
SLOW = {"id": "1003", "key": "slow-key", "secret": "slow-secret", "maxBackendEventsPerSecond": 5}
SINGLE = {"id": "1004", "key": "single-key", "secret": "single-secret", "maxEventBatchSize": 1}
SMALL = {"id": "1005", "key": "small-key", "secret": "small-secret", "maxEventPayloadInKb": 1}
APPS: tuple[dict[str, Any], ...] = (OTHER, SLOW, SINGLE, SMALL)
RECORDER = Path(__file__).with_name("soketi_recorder.js")


def credentials(**changes: Any) -> dict[str, Any]:
    """A subscription's own settings; `settings_secret` for the app's secret."""
    usual = {"appId": APP, "key": KEY, "settings_secret": SECRET, "cluster": "eu", "useTLS": False}
    return usual | changes


def of(app: Mapping[str, Any]) -> dict[str, Any]:
    """The same of another app."""
    return credentials(appId=app["id"], key=app["key"], settings_secret=app["secret"])


@contextlib.contextmanager
def subscriber(server: SoketiServer, channel: str) -> Iterator[Callable[[], dict[str, Any]]]:
    """A client as browsers have it, subscribed; what it yields answers the next message of the
    channel, or raises `TimeoutError`."""
    url = f"ws://{server.host}:{server.port}/app/{server.key}?protocol=7&client=test&version=1"
    with connect(url, proxy=None) as socket:

        def read() -> dict[str, Any]:
            message: dict[str, Any] = json.loads(socket.recv(timeout=10))
            return message

        assert read()["event"] == "pusher:connection_established"
        order = {"event": "pusher:subscribe", "data": {"channel": channel}}
        socket.send(json.dumps(order))
        assert read()["event"] == "pusher_internal:subscription_succeeded"
        yield read


class PusherHarness(ServerHarness):
    name = "pusher"
    largest = 10_000
    kept = 0  # soketi answers `Connection: close`, Pusher does not

    def __init__(self, folder: Path) -> None:
        self.server = SoketiServer(folder, APP, KEY, SECRET, apps=APPS, preload=[RECORDER])

    def settings(self) -> Settings:
        return settings(pusher_host=self.server.host, pusher_port=str(self.server.port))

    def good(self, sid: str = "good", *, timeout: float = 10.0, **changes: Any) -> Target:
        return target("pusher", sid=sid, timeout=timeout, **credentials(**changes))

    def refused(self) -> Target:
        return self.good("refused", appId="4040")

    def rejected(self) -> Delivery:
        return delivery(self.good("good"), "rejected", data=b'"' + b"x" * 20_000 + b'"')

    def broken(self) -> Target:
        return self.good("broken", appId="not-digits")

    def wrong_credentials(self) -> tuple[Sink, Target, str]:
        secret = "not-the-secret-of-the-app"
        return self.sink(), self.good("locked", settings_secret=secret), secret

    def arrived(self) -> list[tuple[str, str]]:
        lines = whole_lines(self.server.data / "accepted")
        return [(event_id, sha) for event_id, sha in map(str.split, lines)]

    def connections(self) -> int:
        local = f":{self.server.port:04X}"
        rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
        established = "01"
        return sum(row[1].endswith(local) and row[3] == established for row in rows)


@contextlib.contextmanager
def start(folder: Path) -> Iterator[PusherHarness]:
    """The server, running."""
    harness = PusherHarness(folder)
    with harness.server:
        yield harness
