"""Many sockets at once: order, a server that is killed, a client that does not read."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.gateway.conftest import MakeHouse, make_tenant
from tests.system.house import API_KEY, House, Threads, message

pytestmark = pytest.mark.slow
WaitFor = Callable[..., Any]
TENANTS = 200


class Crowd:
    """A client an instance and one on `*`, all in one loop, each coming back by its cursor."""

    def __init__(self, house: House, names: list[str]) -> None:
        self.got: dict[str, list[int]] = defaultdict(list)
        self.everything: dict[str, list[int]] = defaultdict(list)
        self.gaps: list[Any] = []
        self.joined = 0
        self._url = f"ws://127.0.0.1:{house.port}/ws"
        self._names = names
        self._cursors: dict[str, str] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        self._end = asyncio.Event()
        tasks = [asyncio.create_task(self._client(name)) for name in [*self._names, "*"]]
        await self._end.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(20)

    async def _client(self, name: str) -> None:
        while True:
            try:
                headers = {"apikey": API_KEY}
                async with connect(self._url, additional_headers=headers, max_size=None) as ws:
                    await self._follow(name, ws)
            except (OSError, ConnectionClosed, InvalidHandshake, TimeoutError):
                await asyncio.sleep(random.uniform(0.05, 0.3))

    async def _follow(self, name: str, ws: Any) -> None:
        join = {"action": "join-instance", "instance": name}
        if name in self._cursors:
            join["after"] = self._cursors[name]
        await ws.send(json.dumps(join))
        async for raw in ws:
            heard = json.loads(raw)
            if heard["type"] == "joined":
                self.joined += 1
                if name != "*":
                    self._cursors.setdefault(name, heard["cursor"])
            elif heard["type"] == "global-event":
                self.everything[heard["instance"]].append(heard["data"]["n"])
            elif heard["type"] == "evolution-event":
                self.got[name].append(heard["data"]["n"])
                self._cursors[name] = heard["cursor"]
            else:
                self.gaps.append(heard)


def emit_all(house: House, names: list[str], first: int, last: int) -> None:
    """Events `first` to `last` of each instance, as a producer that repeats until answered."""
    client = house.client()
    for at in range(first, last, 5):
        for name in names:
            events = [
                {"event": "MESSAGES_UPSERT", "id": f"{name}-{n}", "data": message(n, x="y" * 800)}
                for n in range(at, min(at + 5, last))
            ]
            client.insist(f"/event/emit/{name}", events)


@pytest.mark.beside
@pytest.mark.timeout(300)
def test_two_hundred_clients_hear_all_in_order_and_resume_after_a_kill(
    make_house: MakeHouse, wait_for: WaitFor
) -> None:
    house = make_house(websocket_max_clients=250)
    names = [make_tenant(house).name for _ in range(TENANTS)]
    crowd = Crowd(house, names)
    wait_for(lambda: crowd.joined == TENANTS + 1, 30)

    began = time.monotonic()
    Threads([lambda n=n: emit_all(house, names[n::4], 0, 100) for n in range(4)]).join()
    emitted = time.monotonic() - began
    wait_for(lambda: sum(map(len, crowd.everything.values())) >= 100 * TENANTS, 60)
    wait_for(lambda: sum(map(len, crowd.got.values())) >= 100 * TENANTS, 60)
    heard = time.monotonic() - began
    print(f"{100 * TENANTS} events emitted in {emitted:.1f} s, all heard by {heard:.1f} s")
    assert all(crowd.everything[name] == list(range(100)) for name in names)
    assert all(crowd.got[name] == list(range(100)) for name in names)

    emitters = Threads([lambda n=n: emit_all(house, names[n::4], 100, 150) for n in range(4)])
    for _ in range(2):
        wait_for(lambda: sum(map(len, crowd.got.values())) > 103 * TENANTS, 60)
        house.kill9("web")
        house.start("web")
    emitters.join()
    try:
        wait_for(lambda: sum(map(len, crowd.got.values())) >= 150 * TENANTS, 60)
    finally:
        crowd.stop()

    assert all(crowd.got[name] == list(range(150)) for name in names)
    assert not [gap for gap in crowd.gaps if gap["instance"] != "*"]
    for heard_of in crowd.everything.values():  # live only: what came while it was away is not
        assert heard_of == sorted(set(heard_of))


@pytest.mark.timeout(180)
def test_a_client_that_does_not_read_slows_nobody(make_house: MakeHouse) -> None:
    house = make_house(websocket_stall_seconds=2)
    good, crowded = make_tenant(house), make_tenant(house)
    stop = threading.Event()

    def noise() -> None:
        client = house.client()
        for n in itertools.count():
            if stop.wait(0.01):
                return
            client.emit(crowded.name, data=message(n, x="y" * 30_000))

    def measure() -> list[float]:
        took = []
        with good.socket() as ws:
            ws.join(good.name)
            for n in range(250):
                began = time.monotonic()
                good.emit(n)
                ws.event()
                took.append(time.monotonic() - began)
        return took

    background = Threads([noise])
    with_, without = [], []
    for _ in range(4):
        without += measure()
        with crowded.socket(max_queue=1) as slow, crowded.socket(max_queue=1) as another:
            slow.join(crowded.name)
            another.join(crowded.name)
            with_ += measure()
    stop.set()
    background.join()

    p99 = [statistics.quantiles(each, n=100)[98] * 1000 for each in (without, with_)]
    print(f"p99 without {p99[0]:.1f} ms, beside two clients that do not read {p99[1]:.1f} ms")
    assert p99[1] < p99[0] * 4 + 50
