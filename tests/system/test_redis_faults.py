"""Redis killed, cut short and full, while the others go on."""

from __future__ import annotations

import time

import pytest
import requests

from evoflask.dev.process import free_port, wait_for
from evoflask.dev.receiver import Receiver
from tests.system.conftest import MakeHouse
from tests.system.house import Client, House, Threads, message
from tests.system.ledger import Faults, Ledger
from tests.system.reliability import Row, Table

pytestmark = [pytest.mark.slow, pytest.mark.beside, pytest.mark.timeout(300)]

TENANTS, EACH = 8, 400


def pour(client: Client, ledger: Ledger, refusals: list[requests.Response], tenant: int) -> None:
    def note(answer: object) -> None:
        if isinstance(answer, requests.Response):
            refusals.append(answer)

    for n in range(EACH):
        event = {"event": "MESSAGES_UPSERT", "id": f"t{tenant}-{n}", "data": message(n)}
        client.insist(f"/event/emit/t{tenant}", event, note=note)
        ledger.promise(f"t{tenant}-{n}", f"/t{tenant}", "1", n)


def test_a_redis_that_is_killed_under_traffic_costs_503s_and_no_event(
    make_house: MakeHouse, receiver: Receiver, table: Table
) -> None:
    house = make_house(web=2, workers=2)
    ledger, refusals, faults = Ledger(), list[requests.Response](), Faults()
    client = house.client()
    for tenant in range(TENANTS):
        client.create(f"t{tenant}")
        client.set_webhook(f"t{tenant}", receiver.url(f"/t{tenant}"))
    emitters = Threads(
        [lambda t=t: pour(house.client(), ledger, refusals, t) for t in range(TENANTS)]
    )

    for step in range(1, 4):
        wait_for(lambda step=step: len(ledger) > step * TENANTS * EACH // 5, 60)
        seen = len(refusals)
        with faults.during("no Redis"):
            house.redis.kill9()
            wait_for(lambda seen=seen: len(refusals) > seen + 10, 20)
            house.redis.start()
    emitters.join()

    house.wait_quiet(60)
    done = "SIGKILL three times under load, started again on its data"
    table.check("Redis killed", done, ledger, receiver, faults)
    assert {answer.status_code for answer in refusals} == {503}
    assert all(int(answer.headers["Retry-After"]) > 0 for answer in refusals)
    assert all(answer.json()["status"] == 503 for answer in refusals)
    assert house.off() == {}
    status, said = house.audit()
    assert status == 0, said
    for kind, n in (("worker", 0), ("worker", 1), ("clock", 0), ("web", 0), ("web", 1)):
        assert house.process(kind, n).alive


@pytest.mark.parametrize("where", ["between two commands", "in the middle of one"])
def test_a_redis_that_lost_its_last_second_is_brought_in_line_with_the_database(
    make_house: MakeHouse, receiver: Receiver, where: str
) -> None:
    house = make_house()
    client = house.client()
    client.create("a")
    client.set_webhook("a", receiver.url("/a"))
    kept = [client.emit("a", data=message(n)).json()["id"] for n in range(20)]
    house.wait_quiet()
    house.kill9("clock")
    house.kill9("worker")
    # Redis 7 keeps its log in a folder, in parts; before, it is one file.
    parts = [*house.redis.data.glob("appendonlydir/*.incr.aof")]
    log = parts[0] if parts else house.redis.data / "appendonly.aof"
    start = log.stat().st_size
    client.emit("a", data=message(20))
    end = log.stat().st_size
    # What is lost: an event, a change of routing, an instance, and events by the new routing.
    client.set_webhook("a", receiver.url("/new"), events=["CALL"])
    client.emit("a", "CALL", data=message(21))
    client.create("b")
    client.set_webhook("b", receiver.url("/b"))
    client.emit("b", data=message(22))

    house.redis.kill9()
    with log.open("r+b") as file:
        file.truncate(start if where == "between two commands" else (start + end) // 2)
    house.redis.start()

    status, said = house.audit()
    assert status != 0
    assert "a" in said.split()
    assert "b" in said.split()
    began = time.monotonic()
    answers = [
        client.insist("/event/emit/a", {"event": "MESSAGES_UPSERT", "data": message(30)}),
        client.insist("/event/emit/a", {"event": "CALL", "data": message(31)}),
        client.insist("/event/emit/b", {"event": "MESSAGES_UPSERT", "data": message(32)}),
    ]
    assert time.monotonic() - began < 5
    routed = [answer.json()["subscriptions"] for answer in answers]
    assert routed == [[], ["webhook"], ["webhook"]]

    house.start("clock")
    house.start("worker")
    house.wait_quiet()
    arrived = {(one.path, one.id) for one in receiver.received()}
    assert {("/a", id) for id in kept} <= arrived
    assert ("/new", answers[1].json()["id"]) in arrived
    assert ("/b", answers[2].json()["id"]) in arrived
    wait_for(lambda: house.audit()[0] == 0, 30, "the audit to find nothing")


def fill(client: Client, name: str, size: int) -> tuple[int, requests.Response]:
    """Emits until it is refused: (how many were accepted, the refusal)."""
    for n in range(100_000):
        answer = client.emit(name, data=message(n, filler="x" * size))
        if answer.status_code != 202:
            return n, answer
    raise AssertionError("Redis never became full")


def test_a_full_redis_refuses_whole_events_and_goes_on_delivering_its_backlog(
    make_house: MakeHouse, receiver: Receiver, table: Table
) -> None:
    house = make_house(clock=False, maxmemory="32mb", retry_schedule="600,600,600")
    client = house.client()
    client.create("a")
    client.set_webhook("a", receiver.url("/status/500"))

    accepted, refusal = fill(client, "a", 5000)
    view = house.lane("a")

    assert accepted > 1000
    assert refusal.status_code == 503
    assert int(refusal.headers["Retry-After"]) > 0
    assert "nothing was accepted" in refusal.json()["response"]["message"][0]
    assert (view.count("routed"), view.off) == (accepted, 0)
    batch = client.emit_many("a", [{"event": "CALL", "data": {}}] * 250)
    assert batch.status_code == 503
    assert house.lane("a").count("routed") == accepted

    # Fuller than full, and a worker that has to begin there.
    house.raw.config_set("maxmemory", house.raw.info("memory")["used_memory"] - 1_000_000)
    house.kill9("worker")
    house.start("worker")
    client.set_webhook("a", receiver.url("/mended"))

    house.wait_quiet(120)
    # A worker stands in for the clock, so some of the oldest may have given way to letters.
    view = house.lane("a")
    delivered, dead = view.count("delivered"), view.count("dead")
    assert (delivered + dead, view.off) == (accepted, 0)
    assert len({one.id for one in receiver.received() if one.path == "/mended"}) >= delivered
    assert house.query("SELECT count(*) FROM dead_letter WHERE reason = 'expired'") == [(dead,)]
    arrived = [one.id for one in receiver.received() if one.path == "/mended"]
    repeats = len(arrived) - len(set(arrived))
    why = f"{dead} gave way, as letters"
    done = "filled beyond `maxmemory`, and a worker that starts there"
    table.write(Row("Redis full", done, accepted, 0, repeats, why))


def test_what_was_delivered_frees_a_full_redis(make_house: MakeHouse, receiver: Receiver) -> None:
    house: House = make_house(maxmemory="32mb", retry_schedule="600,600,600")
    client = house.client()
    client.create("a")
    client.subscribe("a", "dead", receiver.url("/hang"), timeout=8)
    fill(client, "a", 5000)

    client.change("a", "dead", url=receiver.url("/mended"))

    wait_for(lambda: client.emit("a", data=message(-1)).status_code == 202, 60)
    house.wait_quiet(60)
    view = house.lane("a", "dead")
    assert view.count("delivered") + view.count("dead") == view.count("routed")
    assert view.count("dead") == house.query("SELECT count(*) FROM dead_letter")[0][0]
    assert view.off == 0
    # What was delivered and is kept for resume gives way too.
    wait_for(lambda: house.raw.info("memory")["used_memory"] < 22_000_000, 60)


def test_without_the_redis_of_rq_events_are_delivered_and_letters_written_all_the_same(
    make_house: MakeHouse, receiver: Receiver
) -> None:
    house = make_house(rq_redis_url=f"redis://127.0.0.1:{free_port()}/0")
    client = house.client()
    client.create("a")
    client.set_webhook("a", receiver.url("/a"))
    client.subscribe("a", "refusing", receiver.url("/status/410"))

    # Nobody can ring, so a worker looks by itself: first when it starts, then now and then.
    for n in range(3):
        ids = {client.emit("a", data=message(n)).json()["id"] for _ in range(20)}
        house.wait_quiet(40)
        assert ids <= {one.id for one in receiver.received() if one.path == "/a"}

    assert house.query("SELECT count(*) FROM dead_letter") == [(60,)]
    assert house.off() == {}
