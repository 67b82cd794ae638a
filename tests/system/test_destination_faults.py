"""Destinations that reset, stall, drip, answer a gigabyte or nonsense, hang up; names that
cannot be resolved. Beside each of them a healthy tenant, who must not notice."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from evoflask.dev.process import wait_for
from evoflask.dev.receiver import Receiver
from tests.system.conftest import MakeHouse
from tests.system.house import Client, House, Threads, message
from tests.system.ledger import Faults, Ledger
from tests.system.reliability import Table

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

EVENTS, CHATS = 200, 5
TIMEOUT = 2
SCHEDULE = ",".join(["0.5"] * 100)
"""Longer than any fault lasts."""
NOTICED = 3.0
"""Seconds that the healthy tenant's events may take, on a machine that others load."""
ANSWERS = {
    "/reset": ("The destination resets", "the connection is reset instead of an answer"),
    "/hang": ("The destination is silent", "it reads the event and never answers"),
    "/stall/200": ("The destination stalls", "the head of a 200, then nothing"),
    "/drip/1000": ("The destination drips", "a 200 with a byte a second"),
    "/big/1000000000": ("The destination answers 1 GB", "a 200 with so large a body"),
    "/garbage": ("The destination answers nonsense", "bytes that are not HTTP"),
    "/half": ("The destination breaks off", "half an answer, then the end"),
    "/hangup": (
        "The destination closes kept connections",
        "at the second event of each, unanswered",
    ),
}


def emit(client: Client, ledger: Ledger, instance: str, path: str, numbers: range) -> None:
    events = [{"event": "MESSAGES_UPSERT", "data": message(n, f"chat{n % CHATS}")} for n in numbers]
    for n, row in zip(numbers, client.emit_many(instance, events).json()["results"], strict=True):
        ledger.promise(row["id"], path, f"chat{n % CHATS}", n)


class Healthy:
    """A tenant beside the others: an event every tenth of a second."""

    def __init__(self, house: House, receiver: Receiver) -> None:
        self._house, self._receiver = house, receiver
        self.ledger = Ledger()
        self._sent: dict[str, float] = {}
        self._over = False
        client = house.client()
        client.create("healthy")
        client.set_webhook("healthy", receiver.url("/healthy"))
        self._thread = Threads([self._pour])

    def _pour(self) -> None:
        client, n = self._house.client(), 0
        while not self._over:
            began = time.time()
            event_id = client.emit("healthy", data=message(n)).json()["id"]
            self._sent[event_id] = began
            self.ledger.promise(event_id, "/healthy", "1", n)
            n += 1
            time.sleep(0.1)  # its pace

    def end(self) -> float:
        """No more events; the seconds that the slowest one took."""
        self._over = True
        self._thread.join()
        self._house.wait_quiet(60)
        arrived = {one.id: one.at for one in self._receiver.received() if one.path == "/healthy"}
        assert set(arrived) == set(self._sent)
        return max(arrived[event_id] - at for event_id, at in self._sent.items())


def test_what_a_destination_does_wrong_loses_nothing_and_delays_nobody_else(
    make_house: MakeHouse, receiver: Receiver, table: Table
) -> None:
    house = make_house(retry_schedule=SCHEDULE)
    client = house.client()
    healthy = Healthy(house, receiver)
    tenants = {path: f"t{n}" for n, path in enumerate(ANSWERS)}
    ledgers, faults = {path: Ledger() for path in ANSWERS}, Faults()
    for path, name in tenants.items():
        client.create(name)
        client.subscribe(name, "webhook", receiver.url(f"/{name}"), timeout=TIMEOUT)
        receiver.control(path=f"/{name}", as_=path)
    before = house.rss("worker", peak=True)

    with faults.during("all of it"):
        for at in range(0, EVENTS, 50):
            for path, name in tenants.items():
                emit(client, ledgers[path], name, f"/{name}", range(at, at + 50))
        answered = len(ANSWERS) * 10
        wait_for(lambda: receiver.count() > answered, 60, "the faults to be met", 0.1)
        began = time.monotonic()
        wait_for(lambda: time.monotonic() > began + 8, 20, "faults that last", 0.1)
        grown = house.rss("worker", peak=True) - before
        for name in tenants.values():
            receiver.control(path=f"/{name}", as_=None)
    slowest = healthy.end()

    for path, (fault, done) in ANSWERS.items():
        mine = [one for one in receiver.received() if one.path == f"/{tenants[path]}"]
        why = "each answer that was no answer is asked for again"
        table.check(fault, done, ledgers[path], mine, faults, why)
    table.check("A neighbour of all these", "nothing is wrong with it", healthy.ledger, receiver)
    print(f"the slowest event took {slowest:.2f} s; the worker grew by {grown / 1e6:.0f} MB")
    assert slowest < NOTICED
    assert grown < 100e6
    assert house.query("SELECT count(*) FROM dead_letter") == [(0,)]
    assert house.audit()[0] == 0


NAMES = """
import pathlib, socket

DOWN = pathlib.Path(__file__).with_name("names-fail")
resolve = socket.getaddrinfo


def getaddrinfo(host, *args, **named):
    # `*.example` is this machine, as long as somebody can be asked for names.
    if str(host).endswith(".example"):
        if DOWN.exists():
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        host = "127.0.0.1"
    return resolve(host, *args, **named)


socket.getaddrinfo = getaddrinfo
"""
"""As `sitecustomize`: the system's resolver, with names of ours that fail when told to."""


def test_names_that_cannot_be_resolved_for_a_while_cost_time_and_no_event(
    make_house: MakeHouse, receiver: Receiver, tmp_path: Path, table: Table
) -> None:
    (tmp_path / "sitecustomize.py").write_text(NAMES)
    down = tmp_path / "names-fail"
    house = make_house(workers=0, retry_schedule=SCHEDULE)
    house.env["PYTHONPATH"] = str(tmp_path)
    house.start("worker")
    client, healthy, faults = house.client(), Healthy(house, receiver), Faults()
    ledgers = {"pass": Ledger(), "wait": Ledger()}
    for name in ledgers:
        url = f"http://{name}.example:{receiver.port}/{name}"
        client.create(name)
        client.subscribe(name, "webhook", url, timeout=TIMEOUT, onFailure=name)

    down.touch()

    with faults.during("names fail"):
        for name, ledger in ledgers.items():
            emit(client, ledger, name, f"/{name}", range(EVENTS))
        wait_for(lambda: all(failed(house, name) for name in ledgers), 30, "names to fail")
        began = time.monotonic()
        wait_for(lambda: time.monotonic() > began + 8, 20, "a fault that lasts", 0.1)
        assert set(receiver.counts()["paths"]) == {"/healthy"}
        down.unlink()
    slowest = healthy.end()

    done = "the system's resolver says EAI_AGAIN"
    for name, ledger in ledgers.items():
        mine = [one for one in receiver.received() if one.path == f"/{name}"]
        fault = f"Names cannot be resolved, `onFailure: {name}`"
        table.check(fault, done, ledger, mine, faults, ordered=name == "wait")
    print(f"the slowest event of the healthy one took {slowest:.2f} s")
    assert slowest < NOTICED
    assert house.query("SELECT count(*) FROM dead_letter") == [(0,)]
    assert house.audit()[0] == 0


def failed(house: House, name: str) -> bool:
    """Whether the lane says why nothing is sent."""
    return "resolved" in str(house.lane(name).facts.get("error"))
