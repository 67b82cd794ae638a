"""A house with a real server for each sink, and a watcher that tells what arrives at them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evoflask.dev.demonstration import Demonstration
from evoflask.dev.process import wait_for, whole_lines
from tests.system.house import API_KEY, Client, House

SIX = ("webhook", "websocket", "rabbitmq", "nats", "sqs", "pusher")


@dataclass(frozen=True, slots=True)
class Arrival:
    """`at`: Unix seconds."""

    at: float
    sink: str
    instance: str
    event: str
    id: str


class Six:
    """The house, its servers, and what arrived so far."""

    def __init__(self, house: House, servers: Demonstration, log: Path) -> None:
        self.house = house
        self.servers = servers
        self._log = log

    def client(self) -> Client:
        return self.house.client()

    def watching(self) -> set[str]:
        return {line["watching"] for line in self._lines() if "watching" in line}

    def arrivals(self) -> list[Arrival]:
        """In the order of their arrival."""
        return [Arrival(**line) for line in self._lines() if "sink" in line]

    def sinks_of(self, event_id: str) -> set[str]:
        """Where an event has arrived."""
        return {each.sink for each in self.arrivals() if each.id == event_id}

    def wait_for(self, ids: Sequence[str], sinks: Sequence[str] = SIX, timeout: float = 30) -> None:
        """Until all these events are at all these sinks."""
        wanted = {(event_id, sink) for event_id in ids for sink in sinks}

        def there() -> bool:
            return wanted <= {(each.id, each.sink) for each in self.arrivals()}

        try:
            wait_for(there, timeout, "the events to arrive", 0.02)
        except TimeoutError as error:
            left = wanted - {(each.id, each.sink) for each in self.arrivals()}
            raise TimeoutError(f"{error}; {len(left)} did not, as {sorted(left)[:6]}") from None

    def _lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in whole_lines(self._log) if line.startswith("{")]


@contextlib.contextmanager
def six(
    folder: Path, instances: Sequence[str], *, watch: Sequence[str] = SIX, **house: Any
) -> Iterator[Six]:
    """All of it running: each instance has all six sinks, and those of `watch` are watched."""
    servers = Demonstration(folder)
    log = folder / "watch.log"
    with contextlib.ExitStack() as stack:
        for server in servers.servers:
            stack.enter_context(server)
        at_home = folder / "house"
        at_home.mkdir()
        settings = {name.lower(): value for name, value in servers.environment().items()}
        made = stack.enter_context(House(at_home, **(settings | house)))
        client = made.client()
        for instance in instances:
            client.create(instance)
            client.good("POST", f"/event/set/{instance}", servers.sinks(instance))
        base = f"http://127.0.0.1:{made.port}"
        watcher = servers.watcher(base, API_KEY, made.env, *instances, log=log, sinks=watch)
        stack.enter_context(watcher)
        found = Six(made, servers, log)
        try:
            wait_for(lambda: set(watch) <= found.watching(), 60, "the watcher's clients", 0.05)
            yield found
        except BaseException:
            print(log.read_text()[-4000:] if log.exists() else "", made.tail())
            raise
