"""What went wrong in programs of this kind, each defect by its name, against the whole house.

The finer rules have tests of their own beside each part; here a defect is shown to be absent
from end to end, so that whoever knows it from elsewhere finds it by name.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from standardwebhooks import Webhook

from evoflask.dev.process import wait_for
from evoflask.dev.rabbitmq_server import RabbitmqServer
from evoflask.dev.receiver import Received, Receiver
from evoflask.errors import Misconfigured
from evoflask.schemas import SCHEMAS
from evoflask.settings import Settings
from tests.conftest import missing
from tests.system.conftest import MakeHouse
from tests.system.house import Client, House, message

HOLD = 2.0
"""Seconds of a claim: the shortest that may be set."""
ANSWER = 100_000_000
"""Bytes of an answer that nobody should read."""
GROWTH = 48 * 1024 * 1024
"""Bytes by which a worker's peak may rise beside four such answers at once."""
SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One house for those that need nothing special; each test has an instance of its own."""
    folder = tmp_path_factory.mktemp("peers")
    with House(folder, workers=2, hold_seconds=HOLD, faults=True) as house:
        yield house
        print(house.tail())


@pytest.fixture
def client(shared: House) -> Client:
    return shared.client()


def subscribe(client: Client, instance: str, url: str, **fields: Any) -> None:
    """A new instance with one webhook."""
    client.create(instance)
    client.set_webhook(instance, url, **fields)


def letters(client: Client, instance: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.good("GET", f"/deadletter?instance={instance}")["letters"]
    return found


def letter(client: Client, instance: str) -> dict[str, Any]:
    """The instance's only one, once it is there."""
    [found] = wait_for(lambda: letters(client, instance), 20, f"a letter of {instance}", 0.05)
    return found


def delivered(house: House, instance: str, n: int = 1) -> None:
    """Waits until the books say so."""
    wait_for(lambda: house.lane(instance).count("delivered") == n, 20, f"{n} delivered", 0.05)


def at(receiver: Receiver, path: str) -> list[Received]:
    return [one for one in receiver.received() if one.path.startswith(path)]


def test_redirects_followed_and_counted_as_success(
    shared: House, client: Client, receiver: Receiver
) -> None:
    receiver.control(keep=True)
    places = {
        "lost": "/redirect/302/ok",  # a client that follows asks again by GET, without the event
        "elsewhere": "/redirect/301/ok",
        "refused": "/redirect/307/status/410",
        "kept": "/redirect/307/kept",
    }
    for instance, path in places.items():
        subscribe(client, instance, receiver.url(path), retry=[], secret=SECRET)

    ids = {name: client.emit(name, data=message(1)).json()["id"] for name in places}

    assert letter(client, "lost")["code"] == "302"
    assert letter(client, "elsewhere")["code"] == "301"
    assert letter(client, "refused")["code"] == "410"
    delivered(shared, "kept")
    assert [shared.lane(name).count("delivered") for name in places] == [0, 0, 0, 1]
    assert at(receiver, "/ok") == []
    [arrived] = at(receiver, "/kept")
    assert arrived.id == ids["kept"]
    assert arrived.head.startswith("POST ")
    Webhook(SECRET).verify(arrived.body.encode("latin-1"), arrived.headers())


def test_response_bodies_read_without_bound(
    shared: House, client: Client, receiver: Receiver
) -> None:
    large = receiver.url(f"/big/{ANSWER}")
    subscribe(client, "flooded", large, retry=[], concurrency=4)
    subscribe(client, "dripped", receiver.url("/drip"), retry=[], timeout=1)
    subscribe(client, "beside", receiver.url("/beside"))
    before = [shared.rss("worker", n, peak=True) for n in range(2)]

    client.emit_many("flooded", [event(n, f"chat{n}") for n in range(4)])
    client.emit("dripped", data=message(1))
    client.emit("beside", data=message(1))

    delivered(shared, "beside")
    wait_for(lambda: len(letters(client, "flooded")) == 4, 20)
    assert {each["code"] for each in letters(client, "flooded")} == {"answer-too-large"}
    assert letter(client, "dripped")["tries"] == 1
    peaks = [shared.rss("worker", n, peak=True) for n in range(2)]
    assert all(after - peak < GROWTH for peak, after in zip(before, peaks, strict=True))


def event(n: int, chat: str = "1") -> dict[str, Any]:
    return {"event": "MESSAGES_UPSERT", "data": message(n, chat)}


EXCHANGE, QUEUE = "evolution-events", "kept"


def test_a_broker_publish_without_confirm_mandatory_or_persistence(
    make_house: MakeHouse, tmp_path: Path
) -> None:
    broker = RabbitmqServer(tmp_path / "rabbitmq")
    try:
        broker.prepare()
    except Misconfigured as error:
        missing(str(error))
    with broker:
        house = make_house(
            rabbitmq_uri=broker.url, retry_schedule=",".join(["1"] * 60), retry_jitter=0.2
        )
        client = house.client()
        client.create("a", rabbitmq={"enabled": True})

        # Mandatory: what nobody is bound for did not arrive.
        client.emit("a", data=message(0))
        assert letter(client, "a")["code"] == "unroutable"

        # Confirm and persistence: what was booked as delivered outlives a crash of the broker.
        with_channel(broker, bind)
        broker.keep()
        accepted: list[str] = []
        for n in range(20):
            batch = [event(100 * n + k, f"chat{k % 8}") for k in range(100)]
            accepted += [row["id"] for row in client.emit_many("a", batch).json()["results"]]
        wait_for(lambda: house.lane("a", "rabbitmq").count("delivered") > 200, 20)
        broker.kill9()
        booked = house.lane("a", "rabbitmq").count("delivered")
        broker.start()
        house.wait_quiet(60)
        kept = with_channel(broker, read)

    print(f"{booked} booked before the broker was killed, {len(kept)} messages in the end")
    assert set(kept) == set(accepted)
    assert kept[0] == accepted[0]
    assert house.off() == {}


def with_channel(broker: RabbitmqServer, work: Callable[[BlockingChannel], Any]) -> Any:
    with pika.BlockingConnection(pika.URLParameters(broker.url)) as connection:
        return work(connection.channel())


def bind(channel: BlockingChannel) -> None:
    channel.exchange_declare(EXCHANGE, "topic", durable=True)
    channel.queue_declare(QUEUE, durable=True)
    channel.queue_bind(QUEUE, EXCHANGE, "evolution.#")


def read(channel: BlockingChannel) -> list[str]:
    """The ids of all messages, in their order."""
    ids = []
    while (got := channel.basic_get(QUEUE, auto_ack=True))[0] is not None:
        ids.append(got[1].message_id)
    return ids


def test_a_claim_shorter_than_the_send_timeout(
    shared: House, client: Client, receiver: Receiver
) -> None:
    # The send takes three claims; the other worker looks on.
    subscribe(client, "patient", receiver.url(f"/slow/{HOLD * 3000:.0f}"), timeout=30)

    client.emit("patient", data=message(1))

    delivered(shared, "patient")
    assert len(at(receiver, "/slow")) == 1
    assert shared.lane("patient").off == 0


@pytest.mark.parametrize("place", ["take-send", "send-settle"])
def test_a_crash_inside_a_retry_that_strands_the_delivery(
    shared: House, client: Client, receiver: Receiver, place: str
) -> None:
    instance, path = f"stranded-{place}", f"/stranded/{place}"
    receiver.control(path=path, status=500)
    subscribe(client, instance, receiver.url(path), retry=[1.5] * 5)
    id = client.emit(instance, data=message(1)).json()["id"]
    wait_for(lambda: shared.lane(instance).retrying == 1, 10, "the first failure")
    receiver.control(path=path, status=None)

    shared.arm(place)
    wait_for(lambda: shared.revive(), 20, "a worker killed in its second try", 0.05)

    delivered(shared, instance)
    expected = {"take-send": 2, "send-settle": 3}
    assert [one.id for one in at(receiver, path)] == [id] * expected[place]
    assert shared.lane(instance).off == 0


def test_429_that_never_waits(shared: House, client: Client, receiver: Receiver) -> None:
    receiver.control(path="/asked", as_="/status/429?retry-after=3")
    receiver.control(path="/plain", status=429)
    schedule = [1] * 10
    subscribe(client, "asked", receiver.url("/asked"), retry=schedule)
    subscribe(client, "plain", receiver.url("/plain"), retry=schedule)

    ids = [client.emit(name, data=message(1)).json()["id"] for name in ("asked", "plain")]

    wait_for(lambda: len(at(receiver, "/asked")) >= 2, 20)
    wait_for(lambda: len(at(receiver, "/plain")) >= 3, 20)
    for path in ("/asked", "/plain"):
        receiver.control(path=path, status=None)
    for n, (path, wait) in enumerate([("/asked", 3.0), ("/plain", 1.0)]):
        delivered(shared, path[1:])
        times = [one.at for one in at(receiver, path)]
        assert {one.id for one in at(receiver, path)} == {ids[n]}
        gaps = [after - before for before, after in itertools.pairwise(times)]
        assert min(gaps) > wait * 0.95, gaps


INSIDE = [
    "localhost",  # a name that stands for an address inside, as "backend" does in a compose file
    "127.0.0.1",
    "[2002:7f00:1::1]",  # 6to4
    "[::ffff:127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "2130706433",
]


def test_backend_or_6to4_addresses_that_pass_the_ssrf_filter(
    make_house: MakeHouse, receiver: Receiver
) -> None:
    house = make_house(webhook_allow_networks="")
    client = house.client()

    for n, host in enumerate(INSIDE):
        instance = f"inside{n}"
        client.create(instance)
        body = {"webhook": {"enabled": True, "url": f"http://{host}:{receiver.port}/", "retry": []}}
        answer = client.call("POST", f"/webhook/set/{instance}", body)
        if answer.status_code == 400:  # told at once: better still
            continue
        client.emit(instance, data=message(1))
        assert letter(client, instance)["code"] == "forbidden-address", host

    assert receiver.count() == 0
    assert sum(view.count("delivered") for view in house.lanes()) == 0


def test_a_success_on_the_last_try_that_still_disables_the_endpoint(
    make_house: MakeHouse, receiver: Receiver
) -> None:
    # Three failures in a row over four seconds disable; each event has three tries.
    house = make_house(auto_disable_failures=3, auto_disable_seconds=4)
    client = house.client()
    receiver.control(path="/broken", status=500)
    subscribe(client, "mended", receiver.url("/mended"), retry=[1.5, 1.5])
    subscribe(client, "broken", receiver.url("/broken"), retry=[1] * 20)
    client.emit("broken", data=message(1))

    for n in (1, 2, 3):
        receiver.control(path="/mended", status=500)
        client.emit("mended", data=message(n))
        wait_for(lambda n=n: len(at(receiver, "/mended")) == 3 * n - 1, 20, "two failures")
        receiver.control(path="/mended", status=None)
        delivered(house, "mended", n)

    assert len(at(receiver, "/mended")) == 9
    wait_for(lambda: not is_enabled(client, "broken"), 30, "the other one to be disabled", 0.1)
    assert is_enabled(client, "mended")


def is_enabled(client: Client, instance: str) -> bool:
    return bool(client.good("GET", f"/webhook/find/{instance}")["enabled"])


def test_a_setting_that_is_stored_and_never_enforced(
    shared: House, client: Client, receiver: Receiver, root: Path
) -> None:
    # Of the environment: each is read by something beside the page that declares it.
    folders = (root / "evoflask", root / "workers")
    files = [path for folder in folders for path in folder.rglob("*.py")]
    files += [root / "app.py", root / "gunicorn.conf.py"]
    text = "\n".join(path.read_text() for path in files if path.name != "settings.py")
    fields = [field.name for field in dataclasses.fields(Settings)]
    unread = [name for name in fields if not re.search(rf"\.{name}\b", text)]
    assert unread == []

    # Of a subscription: each of a webhook's is seen at the receiver.
    receiver.control(keep=True)
    assert set(SCHEMAS["webhook"].fields) == set(ENFORCED)
    for name, seen in ENFORCED.items():
        seen(shared, client, receiver, f"enforced-{name}", f"/{name}")


Seen = Callable[[House, Client, Receiver, str, str], None]


def shows(fields: dict[str, Any], look: Callable[[Received], bool]) -> Seen:
    """One event by a webhook with the fields, and what it must look like."""

    def seen(house: House, client: Client, receiver: Receiver, instance: str, path: str) -> None:
        subscribe(client, instance, receiver.url(path), **fields)
        client.emit(instance, data=message(1))
        wait_for(lambda: at(receiver, path), 20, f"what shows {fields}", 0.05)
        [arrived] = at(receiver, path)
        assert look(arrived), (fields, arrived)

    return seen


def enabled(house: House, client: Client, receiver: Receiver, instance: str, path: str) -> None:
    subscribe(client, instance, receiver.url(path))
    client.change(instance, "webhook", enabled=False)
    assert client.emit(instance, data=message(1)).json()["subscriptions"] == []
    client.change(instance, "webhook", enabled=True)
    id = client.emit(instance, data=message(2)).json()["id"]
    delivered(house, instance)
    assert [one.id for one in at(receiver, path)] == [id]


def events(house: House, client: Client, receiver: Receiver, instance: str, path: str) -> None:
    subscribe(client, instance, receiver.url(path), events=["CALL"])
    assert client.emit(instance, data=message(1)).json()["subscriptions"] == []
    assert client.emit(instance, "CALL", data=message(1)).json()["subscriptions"] == ["webhook"]


def concurrency(house: House, client: Client, receiver: Receiver, instance: str, path: str) -> None:
    slow, number = "/slow/100", 6
    subscribe(client, instance, receiver.url(f"{slow}{path}"), concurrency=1)
    client.emit_many(instance, [event(n, f"chat{n}") for n in range(number)])
    delivered(house, instance, number)
    times = [one.at for one in at(receiver, slow)]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert min(gaps) > 0.09, gaps  # never two at once


def order_by(house: House, client: Client, receiver: Receiver, instance: str, path: str) -> None:
    # Of one key, by our path and by no other: one after the other.
    slow = "/slow/101"
    subscribe(client, instance, receiver.url(f"{slow}{path}"), orderBy="data.room")
    batch = [{"event": "CALL", "data": message(n, f"chat{n}", room="same")} for n in range(4)]
    client.emit_many(instance, batch)
    delivered(house, instance, 4)
    times = [one.at for one in at(receiver, slow)]
    assert min(b - a for a, b in itertools.pairwise(times)) > 0.09


def on_failure(house: House, client: Client, receiver: Receiver, instance: str, path: str) -> None:
    subscribe(client, instance, receiver.url(path), onFailure="wait", retry=[1] * 20, concurrency=1)
    receiver.control(path=path, status=500)
    results = client.emit_many(instance, [event(n) for n in range(3)]).json()["results"]
    ids = [row["id"] for row in results]
    wait_for(lambda: len(at(receiver, path)) >= 2, 20, "a second try")
    assert {one.id for one in at(receiver, path)} == {ids[0]}
    receiver.control(path=path, status=None)
    delivered(house, instance, 3)
    assert list(dict.fromkeys(one.id for one in at(receiver, path))) == ids


def retry(house: House, client: Client, receiver: Receiver, instance: str, path: str) -> None:
    receiver.control(path=path, status=500)
    subscribe(client, instance, receiver.url(path), retry=[0.2, 0.2])
    client.emit(instance, data=message(1))
    assert (letter(client, instance)["reason"], len(at(receiver, path))) == ("exhausted", 3)


def timeout(house: House, client: Client, receiver: Receiver, instance: str, path: str) -> None:
    subscribe(client, instance, receiver.url("/hang"), retry=[], timeout=1)
    began = time.monotonic()
    client.emit(instance, data=message(1))
    assert letter(client, instance)["tries"] == 1
    assert time.monotonic() - began < 15  # 30 by default


def give_up_on(house: House, client: Client, receiver: Receiver, instance: str, path: str) -> None:
    receiver.control(path=path, status=503)
    subscribe(client, instance, receiver.url(path), giveUpOn=[503])
    client.emit(instance, data=message(1))
    assert (letter(client, instance)["reason"], len(at(receiver, path))) == ("rejected", 1)


ENFORCED: dict[str, Seen] = {
    "enabled": enabled,
    "events": events,
    "format": shows({"format": "standard"}, lambda one: '"event":"MESSAGES_UPSERT"' in one.body),
    "concurrency": concurrency,
    "orderBy": order_by,
    "onFailure": on_failure,
    "retry": retry,
    "timeout": timeout,
    "url": shows({}, lambda one: one.head.startswith("POST /url")),
    "headers": shows({"headers": {"X-Ours": "y"}}, lambda one: one.headers()["x-ours"] == "y"),
    "byEvents": shows({"byEvents": True}, lambda one: one.path == "/byEvents/messages_upsert"),
    "giveUpOn": give_up_on,
    "base64": shows({"base64": True}, lambda one: '"data":"ey' in one.body),
    "secret": shows({"secret": SECRET}, lambda one: "webhook-signature" in one.headers()),
}
