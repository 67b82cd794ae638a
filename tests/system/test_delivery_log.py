"""The delivery log in a whole house: what it tells across a kill, and what it costs."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from evoflask.dev.process import wait_for
from evoflask.dev.receiver import Receiver
from tests.system.bulk import Tenants
from tests.system.conftest import MakeHouse
from tests.system.house import House, message

LANES = 10
EACH = 400
ROUNDS = 3
TICKS = os.sysconf("SC_CLK_TCK")
CPU = 1.15
"""How much more of its processor a worker may use for a delivery with the log than without: 1.01
was measured; the rest is a busy machine's noise."""
RATE = 0.75
"""The share of the deliveries a second that it keeps, at least, by the best rounds; same noise."""


def attempts(house: House, query: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = house.client().good("GET", f"/attempt?{query}")["attempts"]
    return found


def test_attempts_are_told_though_clock_and_worker_were_killed(
    make_house: MakeHouse, receiver: Receiver
) -> None:
    house = make_house(retry_schedule="0.2,0.2")
    client = house.client()
    client.create("a")
    client.set_webhook("a", receiver.url("/status/500"))
    house.kill9("clock")
    event_id = client.emit("a", data=message(1)).json()["id"]
    wait_for(lambda: receiver.count() == 3, 30, "all three tries")
    kept = ("evo:{p0}:totals", "attempts:kept")
    wait_for(lambda: house.raw.hget(*kept) == b"3", 30, "the attempts in Redis")
    house.kill9("worker")
    house.start("clock")

    wait_for(lambda: len(attempts(house)) == 3, 30, "the attempts in the log")

    found = attempts(house, f"id={event_id}")
    assert [each["try"] for each in found] == [3, 2, 1]
    assert {each["code"] for each in found} == {"500"}
    (told,) = client.good("GET", f"/event/a/{event_id}")["subscriptions"]
    assert told["state"] == "dead"
    assert [each["try"] for each in told["attempts"]] == [1, 2, 3]


def cpu(house: House) -> float:
    """Seconds of processor that the worker has used."""
    pid = house.process("worker").pid
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def measure(house: House, receiver: Receiver, keep: str, n: int) -> tuple[float, float]:
    """(deliveries a second, seconds of processor a delivery) of a backlog and a warm worker."""
    house.env["ATTEMPTS_LOG"] = keep
    house.restart("worker")
    names = [f"{keep}{n}-{lane}" for lane in range(LANES)]
    tenants = Tenants(house, dict.fromkeys(names, receiver.url("/ok")), enabled=False)
    warm = Tenants(house, {f"{keep}{n}-warm": receiver.url("/ok")})
    body = [(f"chat{n % 40}", b'{"text":"%s"}' % (b"x" * 900)) for n in range(EACH)]
    for name in names:
        tenants.fill(name, body)
    came = receiver.count()
    warm.fill(f"{keep}{n}-warm", body)
    wait_for(lambda: receiver.count() >= came + EACH, 60, "a warm worker")
    came, used, began = receiver.count(), cpu(house), time.monotonic()

    tenants.enable()
    wait_for(lambda: receiver.count() >= came + LANES * EACH, 120, "the deliveries")

    seconds = time.monotonic() - began
    return LANES * EACH / seconds, (cpu(house) - used) / (LANES * EACH)


@pytest.mark.slow
def test_the_log_of_every_attempt_costs_a_delivery_next_to_nothing(
    make_house: MakeHouse, receiver: Receiver
) -> None:
    receiver.control(record=False)
    house = make_house()
    found: dict[str, list[tuple[float, float]]] = {"off": [], "all": []}

    for n in range(ROUNDS):
        for keep in ("off", "all") if n % 2 else ("all", "off"):
            found[keep].append(measure(house, receiver, keep, n))

    rates = {keep: max(rate for rate, _ in rows) for keep, rows in found.items()}
    costs = {keep: min(each for _, each in rows) for keep, rows in found.items()}
    for keep in found:
        print(f"{keep}: {rates[keep]:,.0f} a second, {costs[keep] * 1e6:.0f} µs of the worker each")
    logged = ROUNDS * (LANES + 1) * EACH
    rows = "SELECT count(*) FROM delivery_log"
    wait_for(lambda: house.query(rows)[0][0] == logged, 60, "every attempt in the log")
    assert costs["all"] < costs["off"] * CPU
    assert rates["all"] > rates["off"] * RATE
