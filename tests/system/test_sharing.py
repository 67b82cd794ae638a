"""A second worker takes half of what a first one is at, which has taken all of it."""

from __future__ import annotations

from evoflask.delivery.drain import SETTLE_AT
from evoflask.dev.process import wait_for
from evoflask.dev.receiver import Receiver
from evoflask.outbox import keys
from tests.system.conftest import MakeHouse
from tests.system.house import House
from tests.system.ledger import Ledger

TENANTS, EACH, KEYS = 12, 200, 20
SLOTS = 4
"""Deliveries under way at once in a worker: by itself it would take a quarter of a minute."""


def shares(house: House) -> list[int]:
    """Lanes with a backlog in the hands of each drain that is awake."""
    told = house.raw.hgetall(keys.of(0, "drains:webhook"))
    return [int(value.split()[1]) for value in told.values()]


def wait_until_shared(house: House) -> None:
    """Both workers have several lanes with a backlog."""
    wait_for(lambda: len([n for n in shares(house) if n >= 2]) == 2, 60, "two that are at it")


def filled(house: House, receiver: Receiver) -> Ledger:
    """A backlog for each tenant, accepted."""
    client, ledger = house.client(), Ledger()
    for tenant in range(TENANTS):
        path = f"/slow/20/{tenant}"
        client.create(f"t{tenant}")
        url, by = receiver.url(path), "data.key.remoteJid"
        client.set_webhook(f"t{tenant}", url, orderBy=by, concurrency=2)
        body = [
            {
                "id": f"{tenant}-{n}",
                "event": "MESSAGES_UPSERT",
                "data": {"key": {"remoteJid": f"{n % KEYS}@s"}},
            }
            for n in range(EACH)
        ]
        assert client.emit_many(f"t{tenant}", body).status_code == 202
        for n in range(EACH):
            ledger.promise(f"{tenant}-{n}", path, str(n % KEYS), n)
    return ledger


def test_a_worker_that_is_idle_is_called_and_takes_its_share(
    make_house: MakeHouse, receiver: Receiver
) -> None:
    house = make_house(workers=2, quick_slots=SLOTS)
    ledger = filled(house, receiver)

    wait_until_shared(house)

    receiver.wait_for(TENANTS * EACH, 120)
    house.wait_quiet()
    got = receiver.received()
    assert ledger.missing(got) == []
    assert ledger.disorder(got) == []
    assert len(got) == TENANTS * EACH  # giving a lane back repeats nothing


def test_a_worker_whose_fellow_is_killed_takes_everything(
    make_house: MakeHouse, receiver: Receiver
) -> None:
    house = make_house(workers=2, quick_slots=SLOTS)
    ledger = filled(house, receiver)
    wait_until_shared(house)

    house.kill9("worker", 1)

    wait_for(lambda: set(ledger.ids()) <= set(receiver.ids()), 120, "what was accepted", 0.2)
    house.wait_quiet()
    got = receiver.received()
    assert ledger.missing(got) == []
    assert ledger.disorder(got) == []
    # What the dead one had under way, or had not settled.
    assert len(got) <= TENANTS * (EACH + SETTLE_AT) + SLOTS
