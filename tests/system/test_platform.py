"""As a platform runs it: each line of the Procfile under its own `honcho start`, Redis and
database started apart, and a rolling restart of each kind under traffic."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests

from evoflask.dev.process import Process, wait_for
from evoflask.dev.receiver import Receiver
from tests.system.house import ROOT, Client, House, Threads, message
from tests.system.ledger import Ledger

TENANTS = 6


class Platform(House):
    """A house whose processes are started by honcho."""

    def _launch(self, name: tuple[str, int]) -> Process:
        kind, _ = name
        command = ["honcho", "start", "--no-prefix", kind]
        process = Process(command, name=kind, env=self.env, cwd=ROOT, log=self._log(kind))
        self._processes[name] = process.start()
        return process

    def close(self) -> None:
        """What honcho starts has a group of its own and outlives it."""
        honchos = [psutil.Process(each.pid) for each in self._processes.values() if each.alive]
        started = [child for each in honchos for child in each.children(recursive=True)]
        super().close()
        for process in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    """Two web processes on one port, two workers, a clock."""
    # A platform says where to listen; honcho would count it up from there.
    with Platform(tmp_path, web=2, workers=2, hold_seconds=5) as made:
        yield made
        print(made.tail())


def pour(house: House, ledger: Ledger, tenant: int, ended: threading.Event) -> list[str]:
    """One event after the other; answers what was refused twice."""
    client, refused, n = house.client(), [], 0
    while not ended.is_set():
        event = {"event": "MESSAGES_UPSERT", "id": f"t{tenant}-{n}", "data": message(n)}
        for attempt in (1, 2):
            try:
                answer = client.call("POST", f"/event/emit/t{tenant}", event)
                why = f"{answer.status_code} {answer.text}"
            except requests.RequestException as error:
                answer, why = None, str(error)
            if answer is not None and answer.ok:
                ledger.promise(str(event["id"]), f"/t{tenant}", "1", n)
                n += 1
                break
            if attempt == 2:
                refused.append(f"{event['id']}: {why}")
            time.sleep(0.1)
    return refused


@pytest.mark.timeout(120)
def test_a_rolling_restart_of_each_kind_under_traffic_loses_and_refuses_nothing(
    platform: Platform, receiver: Receiver
) -> None:
    client: Client = platform.client()
    for tenant in range(TENANTS):
        client.create(f"t{tenant}")
        client.set_webhook(f"t{tenant}", receiver.url(f"/t{tenant}"))
    ledger, ended, refused = Ledger(), threading.Event(), list[str]()
    emitters = Threads(
        [
            lambda t=tenant: refused.extend(pour(platform, ledger, t, ended))
            for tenant in range(TENANTS)
        ]
    )

    took = {}
    for kind, n in [("web", 0), ("web", 1), ("worker", 0), ("worker", 1), ("clock", 0)]:
        seen = len(ledger)
        wait_for(lambda seen=seen: len(ledger) > seen + 100, 30)
        began = time.monotonic()
        status = platform.stop(kind, n)
        took[kind, n] = time.monotonic() - began
        platform.start(kind, n)
        assert status == 128 + signal.SIGTERM, platform.tail()
        # honcho waits five seconds, and says so when it kills.
        assert "SIGKILL" not in platform.tail(10_000), took
        arrived = receiver.count()
        receiver.wait_for(arrived + 50, 30)
    ended.set()
    emitters.join()

    platform.wait_quiet(60)
    print(f"{len(ledger)} events, seconds to stop: {took}")
    assert refused == []
    received = ledger.check(receiver)
    repeats = len(received) - len({one.id for one in received})
    # Whoever is told to end gives back what it has: nothing is sent twice.
    assert repeats == 0
    assert "the drain failed" not in platform.tail(10_000)
    assert platform.off() == {}
    status, said = platform.audit()
    assert status == 0, said
