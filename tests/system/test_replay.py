"""Replay in a house with real processes and a real JetStream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import nats
import pytest
from nats.aio.client import Client as Nats

from evoflask.dev.nats_server import NatsServer
from evoflask.dev.process import wait_for
from evoflask.dev.receiver import Receiver
from evoflask.errors import Misconfigured
from tests.conftest import missing
from tests.system.conftest import MakeHouse
from tests.system.house import House, message


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    made = NatsServer(tmp_path_factory.mktemp("nats"))
    try:
        made.start()
    except Misconfigured as error:
        missing(str(error))
    yield made
    made.stop()


def stored(server: NatsServer, stream: str) -> list[tuple[dict[str, str], dict[str, Any]]]:
    """Headers and body of all that a stream has, in its order."""

    async def read() -> list[tuple[dict[str, str], dict[str, Any]]]:
        client: Nats = await nats.connect(server.url)
        try:
            js = client.jetstream()
            n = (await js.stream_info(stream)).state.messages
            found = [await js.get_msg(stream, k + 1) for k in range(n)]
            return [(dict(m.headers or {}), json.loads(m.data or b"{}")) for m in found]
        finally:
            await client.close()

    return asyncio.run(read())


def test_jetstream_takes_each_replay_of_what_it_has_already(
    make_house: MakeHouse, server: NatsServer
) -> None:
    house = make_house(nats_uri=server.url)
    client = house.client()
    client.create("a")
    bus = {"enabled": True, "subject": "replayed.{event}", "createStream": True}
    client.good("POST", "/nats/set/a", {"nats": bus})
    ids = [client.emit("a", data=message(n)).json()["id"] for n in range(20)]
    house.wait_quiet()
    [stream] = asyncio.run(streams(server))

    for _ in range(2):
        answer = client.good("POST", "/replay", {"instance": "a", "onto": "nats", "ids": ids})
        assert answer == {"replayed": 20, "left": 0, "missing": 0, "operation": None}
    house.wait_quiet()

    found = stored(server, stream)
    assert [body["id"] for _, body in found] == ids * 3
    assert [body.get("replay", False) for _, body in found] == [False] * 20 + [True] * 40
    assert [headers.get("webhook-replay") for headers, _ in found] == [None] * 20 + ["true"] * 40
    assert len({headers["Nats-Msg-Id"] for headers, _ in found}) == 60
    lane = house.lane("a", "nats")
    assert (lane.count("routed"), lane.count("requeued"), lane.count("delivered")) == (20, 40, 60)
    assert house.audit()[0] == 0


async def streams(server: NatsServer) -> list[str]:
    client: Nats = await nats.connect(server.url)
    try:
        return [str(info.config.name) for info in await client.jetstream().streams_info()]
    finally:
        await client.close()


def test_a_webhook_gets_a_replay_marked_and_in_order_while_its_clock_is_killed(
    make_house: MakeHouse, receiver: Receiver
) -> None:
    house = make_house(outbox_retain_entries=5000)
    client = house.client()
    client.create("a")
    client.subscribe("a", "late", receiver.url("/late"), events=["QRCODE_UPDATED"])
    receiver.control(keep=True)
    client.subscribe("a", "all", receiver.url("/all"))
    events = [{"event": "CALL", "data": message(n)} for n in range(800)]
    ids = []
    for at in range(0, 800, 100):
        ids += [row["id"] for row in client.emit_many("a", events[at : at + 100]).json()["results"]]
    house.wait_quiet()
    receiver.clear()

    body = {"instance": "a", "onto": "late", "since": 0, "rate": 300}
    operation = client.good("POST", "/replay", body)["operation"]
    wait_for(lambda: seen(house, operation)["done"] > 250, 20, "the clock to go on")
    house.kill9("clock")
    house.start("clock")
    wait_for(lambda: seen(house, operation)["state"] != "running", 40, "the replay to end")
    house.wait_quiet()

    after = seen(house, operation)
    assert (after["state"], after["failed"]) == ("done", 0)
    arrived = receiver.received()
    firsts = list(dict.fromkeys(each.id for each in arrived))
    assert firsts == ids
    # A piece that was not noted is repeated: two appends of a hundred at most.
    assert len(arrived) - len(firsts) <= 300
    assert {each.path for each in arrived} == {"/late"}
    assert {each.headers()["webhook-replay"] for each in arrived} == {"true"}
    assert all(json.loads(each.body)["replay"] is True for each in arrived)
    assert house.audit()[0] == 0


def seen(house: House, operation: int) -> Any:
    return house.client().good("GET", f"/operation/{operation}")


def test_the_command_replays_and_counts(make_house: MakeHouse, receiver: Receiver) -> None:
    house = make_house()
    client = house.client()
    client.create("a")
    client.set_webhook("a", receiver.url("/hook"))
    ids = [client.emit("a", data=message(n)).json()["id"] for n in range(3)]
    house.wait_quiet()

    dry = house.flask("replay", "a", "--onto", "webhook", "--since", "0", "--dry-run")
    done = house.flask("replay", "a", "--onto", "webhook", "--id", ids[1], "--id", "nobody")
    house.wait_quiet()

    assert dry == (0, "3 events would be replayed onto a/webhook.\n")
    assert done[0] == 0
    assert "1 of 1 replayed onto a/webhook." in done[1]
    assert "1 id is not on the outbox." in done[1]
    assert receiver.ids() == [*ids, ids[1]]
