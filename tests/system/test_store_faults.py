"""Redis that takes no writes or goes back by a second, RQ's Redis emptied, the database locked
and its disk full; and a web process that dies in mid-request."""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from evoflask.dev.process import free_port, wait_for
from evoflask.dev.receiver import Receiver
from evoflask.dev.redis_server import RedisServer
from tests.system.conftest import MakeHouse
from tests.system.house import Client, House, Threads, message
from tests.system.ledger import Faults, Ledger
from tests.system.reliability import Table
from tests.system.store import NAMES, Postgres, Sqlite, Store, usual

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TENANTS = 4
LOCKED = 30
"""Seconds that somebody else has the database for himself."""


def rest(seconds: float) -> None:
    """A fault lasts."""
    end = time.monotonic() + seconds
    wait_for(lambda: time.monotonic() > end, seconds + 10, "time to pass", 0.05)


class Producers:
    """One for each tenant, who repeats until it is answered; `refusals` are the answers that
    were none. `stop` ends them all."""

    def __init__(self, house: House, receiver: Receiver, pause: float = 0.01) -> None:
        self.ledger = Ledger()
        self.accepted: dict[str, float] = {}
        self.refusals: list[object] = []
        self._house, self._pause, self._over = house, pause, False
        client = house.client()
        for n in range(TENANTS):
            client.create(f"t{n}")
            client.set_webhook(f"t{n}", receiver.url(f"/t{n}"))
        self._threads = Threads([lambda n=n: self._pour(f"t{n}") for n in range(TENANTS)])

    def _pour(self, name: str) -> None:
        client, n = self._house.client(), 0
        while not self._over:
            self.emit(client, f"{name}-{n}", self.refusals.append)
            self.ledger.promise(f"{name}-{n}", f"/{name}", "1", n)
            n += 1
            time.sleep(self._pause)  # its pace

    def emit(self, client: Client, id: str, note: Callable[[object], None]) -> None:
        """Again, where it was accepted before."""
        name, _, n = id.partition("-")
        event = {"event": "MESSAGES_UPSERT", "id": id, "data": message(int(n))}
        client.insist(f"/event/emit/{name}", event, note=note)
        self.accepted[id] = time.time()

    def wait_for(self, more: int, timeout: float = 60) -> None:
        """Until so many more were accepted."""
        wanted = len(self.ledger) + more
        wait_for(lambda: len(self.ledger) >= wanted, timeout, f"{more} events more", 0.05)

    def stop(self) -> None:
        self._over = True
        self._threads.join()


@pytest.mark.beside
def test_a_redis_that_takes_no_writes_answers_503_and_costs_no_event(
    make_house: MakeHouse, receiver: Receiver, table: Table
) -> None:
    house, faults = make_house(workers=2), Faults()
    producers = Producers(house, receiver)
    producers.wait_for(200)

    for put, end in (
        ("CONFIG SET min-replicas-to-write 3", "CONFIG SET min-replicas-to-write 0"),
        (f"REPLICAOF 127.0.0.1 {free_port()}", "REPLICAOF NO ONE"),
    ):
        seen = len(producers.refusals)
        with faults.during(put):
            house.raw.execute_command(*put.split())
            wait_for(lambda n=seen: len(producers.refusals) > n + 20, 30, "refusals", 0.05)
            rest(3)
            house.raw.execute_command(*end.split())
        producers.wait_for(200)
    producers.stop()

    house.wait_quiet(60)
    answers = [each for each in producers.refusals if isinstance(each, requests.Response)]
    assert len(answers) == len(producers.refusals)
    assert {answer.status_code for answer in answers} == {503}
    done = "it lacks replicas, then is made a replica, for 3 s each, under load"
    table.check("Redis read-only", done, producers.ledger, receiver, faults)
    assert house.audit()[0] == 0


def test_a_redis_that_goes_back_by_a_second_loses_that_second_and_a_repeat_brings_it_back(
    make_house: MakeHouse, receiver: Receiver, table: Table, tmp_path: Path
) -> None:
    house, faults = make_house(workers=2), Faults()
    client, copy = house.client(), tmp_path / "copy"
    client.create("letters")
    client.set_webhook("letters", receiver.url("/status/410"))
    for n in range(5):
        client.emit("letters", data=message(n))
    wait_for(lambda: house.query("SELECT count(*) FROM dead_letter") == [(5,)], 30)
    producers = Producers(house, receiver)
    producers.wait_for(400)

    with faults.during("the second that Redis forgets"):
        begin = time.time()
        # What waits is lost with the second; what was delivered in it is delivered again.
        client.good("POST", "/lane/t0/webhook/pause")
        shutil.copytree(house.redis.data, copy)
        client.set_webhook("letters", receiver.url("/letters"))
        ((letter,),) = house.query("SELECT id FROM dead_letter ORDER BY id LIMIT 1")
        client.good("POST", f"/deadletter/{letter}/requeue")
        rest(1)
        house.redis.kill9()
        end = time.time()
        shutil.rmtree(house.redis.data)
        shutil.copytree(copy, house.redis.data)
        house.redis.start()
        producers.wait_for(100)
    producers.stop()
    client.good("POST", "/lane/t0/webhook/resume")
    house.wait_quiet(60)

    # What its producer was told in that second may be lost, and nothing else.
    lost = producers.ledger.missing(receiver.received())
    assert all(begin - 0.5 < producers.accepted[id] < end + 0.5 for id in lost)
    for id in sorted(lost, key=lambda each: int(each.partition("-")[2])):
        producers.emit(client, id, producers.refusals.append)
    house.wait_quiet(60)
    done = "killed under load, started on a copy of its files that is a second old"
    why = "all lost were accepted in that second, and arrived when their producers repeated them"
    told, n = producers.ledger, len(lost)
    fault = "Redis rolled back by a second"
    table.check(fault, done, told, receiver, faults, why, ordered=False, lost=n)
    wait_for(lambda: house.audit()[0] == 0, 30, "the audit to find nothing", 0.5)


@pytest.mark.beside
def test_an_emptied_redis_of_rq_costs_seconds_at_most(
    make_house: MakeHouse, receiver: Receiver, table: Table, tmp_path: Path
) -> None:
    with RedisServer(tmp_path / "rq") as rq, rq.client() as bells:
        house, faults = make_house(workers=2, rq_redis_url=rq.url), Faults()
        producers = Producers(house, receiver)
        for _ in range(3):
            producers.wait_for(150)
            faults.strike("emptied")
            bells.flushall()
        producers.stop()
        house.wait_quiet(30)
        # Nobody is awake, and then the bell for the next event is lost.
        client, late = house.client(), 0.0
        wait_for(lambda: not house.raw.keys("evo:*awake*"), 30, "the workers to sleep", 0.1)
        bells.flushall()
        for n in range(5):
            began, id = time.time(), f"t0-{100_000 + n}"
            producers.emit(client, id, producers.refusals.append)
            producers.ledger.promise(id, "/t0", "1", 100_000 + n)
            bells.flushall()
            house.wait_quiet(40)
            late = max(late, time.time() - began)
        done = "FLUSHALL three times under load, then five times over a bell"
        table.check("RQ's Redis emptied", done, producers.ledger, receiver, faults)
        print(f"the latest took {late:.1f} s")
        assert late < 20
        assert house.audit()[0] == 0


def letters(house: House) -> int:
    return int(house.query("SELECT count(*) FROM dead_letter")[0][0])


def refuse(house: House, receiver: Receiver, client: Client) -> None:
    """A tenant whose events all become letters."""
    client.create("letters")
    client.set_webhook("letters", receiver.url("/status/410"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.beside
def test_a_database_that_somebody_locks_for_30_seconds_holds_up_letters_and_no_event(
    make_house: MakeHouse, receiver: Receiver, table: Table, tmp_path: Path, name: str
) -> None:
    house, faults = make_house(workers=1, store=usual(tmp_path, name)), Faults()
    client = house.client()
    refuse(house, receiver, client)
    producers = Producers(house, receiver, 0.1)
    producers.wait_for(20)

    with house.store.locked(), faults.during("locked"):
        began = time.monotonic()
        for n in range(20):
            assert client.emit("letters", data=message(n)).status_code == 202
        answer = client.call("POST", "/webhook/set/t0", {"webhook": {"url": receiver.url("/no")}})
        assert answer.status_code == 503
        seen = len(receiver.ids())
        producers.wait_for(100)
        wait_for(lambda: len(receiver.ids()) > seen + 50, 30, "deliveries meanwhile", 0.2)
        wait_for(lambda: house.lane("letters").dying == 20, 30, "events given up", 0.2)
        assert letters(house) == 0
        rest(max(0.0, began + LOCKED - time.monotonic()))
    wait_for(lambda: letters(house) == 20, 20, "the letters", 0.1)
    producers.stop()

    house.wait_quiet(60)
    assert producers.refusals == []
    done = f"all of it, by somebody else, for {LOCKED} s, under load"
    why = "20 letters wait for its end; a change of settings is answered 503"
    table.check(f"{house.store.name} locked", done, producers.ledger, receiver, faults, why)
    assert house.audit()[0] == 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.beside
def test_a_database_whose_disk_is_full_holds_up_letters_and_no_event(
    make_house: MakeHouse,
    receiver: Receiver,
    table: Table,
    small_disk: Path,
    tmp_path: Path,
    name: str,
) -> None:
    if name == "sqlite":
        store: Store = Sqlite(small_disk / "house.db")
    else:  # its log is elsewhere: a server whose log finds no room ends
        store = Postgres(tmp_path / "postgres", place=small_disk)
    house = make_house(store=store)
    client, faults = house.client(), Faults()
    refuse(house, receiver, client)
    producers = Producers(house, receiver, 0.02)
    producers.wait_for(50)

    with faults.during("the disk is full"):
        with contextlib.suppress(OSError), (small_disk / "filler").open("wb") as filler:
            while True:
                filler.write(b"x" * 4096)
                filler.flush()
        for n in range(20):
            big = message(n, filler=secrets.token_hex(20_000))
            assert client.emit("letters", data=big).status_code == 202
        seen = len(receiver.ids())
        producers.wait_for(200)
        wait_for(lambda: len(receiver.ids()) > seen + 100, 30, "deliveries meanwhile", 0.2)
        rest(5)
        # A new connection of PostgreSQL may need room on the disk, so Redis is asked.
        assert house.lane("letters").dying > 0
        (small_disk / "filler").unlink()
    wait_for(lambda: letters(house) == 20, 30, "the letters", 0.1)
    producers.stop()

    house.wait_quiet(60)
    assert producers.refusals == []
    done = "its file system is filled, under load"
    why = "20 letters wait for its end"
    table.check(f"{house.store.name}'s disk full", done, producers.ledger, receiver, faults, why)
    assert re.search("disk is full|No space left", house.output("clock"))
    assert house.store.sound()
    assert house.audit()[0] == 0


@pytest.mark.beside
def test_a_web_process_killed_in_mid_request_leaves_what_its_producer_repeats_once(
    make_house: MakeHouse, receiver: Receiver, table: Table
) -> None:
    house, ledger = make_house(), Ledger()
    client = house.client()
    client.create("a")
    client.set_webhook("a", receiver.url("/a"))
    events = [
        {"event": "MESSAGES_UPSERT", "id": f"a-{n}", "data": message(n, filler="x" * 1000)}
        for n in range(1000)
    ]

    def half() -> Iterator[dict[str, object]]:
        """A body that is under way when its reader dies."""
        yield from events[:600]
        rest(0.5)
        house.kill9("web")
        yield from events[600:]

    with pytest.raises(requests.RequestException):
        client.ndjson("a", half())
    kept = house.lane("a").count("routed")
    house.start("web")
    client, repeated = house.client(), 0
    for at in range(0, len(events), 200):
        answer = client.insist("/event/emit/a", events[at : at + 200]).json()
        for n, row in enumerate(answer["results"], at):
            repeated += bool(row.get("duplicate"))
            ledger.promise(row["id"], "/a", "1", n)
    house.wait_quiet(60)

    assert repeated == kept
    received = receiver.ids()
    assert len(received) == len(set(received))
    why = f"{kept} were appended before the kill, and their repeats answered as duplicates"
    done = "killed while it reads 1,000 lines of NDJSON, which its producer then repeats"
    table.check("Web killed in mid-request", done, ledger, receiver, why=why)
    assert house.audit()[0] == 0


@pytest.mark.beside
def test_a_clock_that_is_dead_for_a_minute_costs_seconds(
    make_house: MakeHouse, receiver: Receiver, table: Table
) -> None:
    house, faults = make_house(retry_schedule="2,2,2"), Faults()
    client = house.client()
    refuse(house, receiver, client)
    producers = Producers(house, receiver, 0.25)
    client.create("ill")
    client.set_webhook("ill", receiver.url("/ill"))
    late = []

    with faults.during("no clock"):
        house.kill9("clock")
        began = time.monotonic()
        for n in range(6):
            receiver.control(path="/ill", status=500)
            client.emit("letters", data=message(n))
            at = time.time()
            id = client.emit("ill", data=message(n)).json()["id"]
            producers.ledger.promise(id, "/ill", "1", n)
            wait_for(lambda i=id: i in receiver.ids(), 20, "the first try", 0.1)
            receiver.control(path="/ill", status=None)
            wait_for(lambda: not house.lane("ill").waiting, 20, "the retry", 0.1)
            late.append(time.time() - at - 2)
            rest(max(0.0, began + 10 * (n + 1) - time.monotonic()))
        assert letters(house) > 0
        house.start("clock")
    wait_for(lambda: letters(house) == 6, 20, "the letters", 0.1)
    producers.stop()

    house.wait_quiet(30)
    assert max(late) < 8
    assert producers.refusals == []
    why = f"tries that were told 500; a retry was {max(late):.1f} s late at most"
    done = "SIGKILL, and none for a minute"
    table.check("Clock killed", done, producers.ledger, receiver, faults, why)
    assert house.audit()[0] == 0
