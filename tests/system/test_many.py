"""Ten thousand events of a hundred tenants, accepted in the three ways."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from evoflask.dev.receiver import Receiver
from tests.system.conftest import MakeHouse
from tests.system.house import Client, House, Threads, message
from tests.system.ledger import Ledger

TENANTS, CHATS, ROUNDS = 100, 5, 5
"""Each tenant gets `ROUNDS` times: one event alone, an array of nine and ten lines."""


def body(tenant: int, n: int) -> dict[str, Any]:
    return {"event": "MESSAGES_UPSERT", "data": message(n, f"chat{n % CHATS}", tenant=tenant)}


@pytest.fixture
def full(make_house: MakeHouse, receiver: Receiver) -> tuple[House, Ledger]:
    """All of it accepted and delivered."""
    house = make_house(web=2, workers=2)
    ledger = Ledger()
    client = house.client()
    for tenant in range(TENANTS):
        client.create(f"t{tenant}")
        client.set_webhook(f"t{tenant}", receiver.url(f"/t{tenant}"))
    lanes = [range(first, TENANTS, 4) for first in range(4)]
    Threads([lambda mine=mine: pour(house.client(), ledger, mine) for mine in lanes]).join()
    house.wait_quiet()
    return house, ledger


def pour(client: Client, ledger: Ledger, tenants: range) -> None:
    for step in range(ROUNDS):
        for tenant in tenants:
            at = step * 20
            single = client.emit(f"t{tenant}", **body(tenant, at))
            assert single.status_code == 202, single.text
            array = client.emit_many(f"t{tenant}", [body(tenant, at + n) for n in range(1, 10)])
            lines = client.ndjson(f"t{tenant}", (body(tenant, at + n) for n in range(10, 20)))
            assert (array.json()["accepted"], lines.json()["accepted"]) == (9, 10)
            rows = [single.json(), *array.json()["results"], *lines.json()["results"]]
            for n, row in enumerate(rows, at):
                assert row["subscriptions"] == ["webhook"]
                ledger.promise(row["id"], f"/t{tenant}", f"chat{n % CHATS}", n)


@pytest.mark.timeout(300)
def test_each_of_ten_thousand_events_arrives_in_order_with_its_id_and_the_books_balance(
    full: tuple[House, Ledger], receiver: Receiver
) -> None:
    house, ledger = full
    assert len(ledger) == 10_000

    received = ledger.check(receiver)

    assert Counter(one.id for one in received).most_common(1)[0][1] == 1
    assert house.off() == {}
    assert sum(view.count("delivered") for view in house.lanes()) == 10_000
    status, said = house.audit()
    assert status == 0, said


@pytest.mark.parametrize("tamper", ["a counter", "an entry that waits", "an entry that is gone"])
def test_the_audit_says_what_was_tampered_with(make_house: MakeHouse, tamper: str) -> None:
    house: House = make_house(workers=0)
    client = house.client()
    client.create("a")
    client.set_webhook("a", "http://127.0.0.1:1/nobody-delivers")
    assert client.emit("a", data=message(1)).status_code == 202
    assert house.audit()[0] == 0
    lane = house.lane("a").lane
    waiting = f"evo:{{p0}}:waiting:{lane}"
    ((outbox,),) = house.query("SELECT outbox FROM instance")

    if tamper == "a counter":
        house.raw.hincrby(f"evo:{{p0}}:lane:{lane}", "delivered", 1)
    elif tamper == "an entry that waits":
        house.raw.zrem(waiting, house.raw.zrange(waiting, 0, 0)[0])
    else:
        house.raw.xtrim(f"evo:{{p0}}:outbox:{outbox}", maxlen=0, approximate=False)

    status, said = house.audit()
    assert status != 0, said
    assert "a/webhook" in said.split()
