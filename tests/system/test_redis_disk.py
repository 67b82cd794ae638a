"""Redis with a full, a limited and a slow disk: answers, logs and losses."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import subprocess
from pathlib import Path
from typing import Any, Self

import pytest
import requests

from evoflask.dev.process import wait_for
from evoflask.dev.receiver import Receiver
from evoflask.dev.redis_server import RedisServer, find_binary
from tests.conftest import missing
from tests.system.conftest import MakeHouse
from tests.system.house import House, Threads, message
from tests.system.ledger import Faults, Ledger
from tests.system.reliability import Table

pytestmark = [pytest.mark.beside, pytest.mark.timeout(300)]

EMITTERS = 8
ROOM = 100_000
"""Bytes left on the disk."""
SLOW_FSYNC = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>
int fdatasync(int fd) {
  static int (*real)(int);
  if (!real) real = dlsym(RTLD_NEXT, "fdatasync");
  usleep(1500000);
  return real(fd);
}
"""


class FullDisk:
    """Fills the file system of Redis."""

    words = "disk full (No space left on device)"

    def __init__(self, folder: Path) -> None:
        self.server = RedisServer(folder / "redis", appendonly=True)
        self._filler = folder / "filler"

    def fill(self) -> None:
        with contextlib.suppress(OSError), self._filler.open("wb", buffering=0) as filler:
            while True:
                filler.write(b"x" * 4096)
        os.truncate(self._filler, self._filler.stat().st_size - ROOM)

    def empty(self) -> None:
        self._filler.unlink()


class LimitedFile:
    """Limits the size of Redis' files. Works without root."""

    words = "disk full"

    def __init__(self, folder: Path) -> None:
        # A process that ignores SIGXFSZ gets an error instead.
        binary = folder / "limited-redis"
        binary.write_text(f"#!/bin/sh\ntrap '' XFSZ\nexec {find_binary()} \"$@\"\n")
        binary.chmod(0o755)
        self.server = RedisServer(folder / "redis", appendonly=True, binary=binary)

    def fill(self) -> None:
        # Redis 7 keeps its log in parts in a folder. Older releases have one file.
        parts = [*self.server.data.glob("appendonlydir/*.incr.aof")]
        log = parts[0] if parts else self.server.data / "appendonly.aof"
        self._limit(log.stat().st_size + ROOM)

    def empty(self) -> None:
        self._limit(resource.RLIM_INFINITY)

    def _limit(self, size: int) -> None:
        process = self.server.process
        if process is not None and process.alive:
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


Disk = FullDisk | LimitedFile


@pytest.fixture(params=["full", "limited"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    if request.param == "limited":
        return LimitedFile(tmp_path)
    return FullDisk(request.getfixturevalue("small_disk"))


def readyz(house: House) -> tuple[int, dict[str, Any]]:
    answer = requests.get(f"http://127.0.0.1:{house.port}/readyz", timeout=10)
    return answer.status_code, answer.json()["parts"]


def outboxed(house: House) -> set[str]:
    """Return the ids of all entries."""
    rows = (row for key in house.raw.keys("evo:*:outbox:*") for row in house.raw.xrange(key))
    return {fields[b"id"].decode() for _, fields in rows}


def pour(house: House, accepted: set[str], refusals: list[str], enough: int) -> None:
    """Emit until `enough` events were refused."""
    client, n = house.client(), 0
    while len(refusals) < enough:
        n += 1
        answer = client.emit("a", data=message(n, filler="x" * 5_000))
        if answer.status_code == 202:
            accepted.add(answer.json()["id"])
        else:
            assert answer.status_code == 503
            assert int(answer.headers["Retry-After"]) > 0
            refusals += answer.json()["response"]["message"]


def test_a_full_disk_and_the_death_of_redis_cost_nothing_that_was_answered_202(
    make_house: MakeHouse, disk: Disk, table: Table, receiver: Receiver
) -> None:
    house, ledger, faults = make_house(redis_server=disk.server, clock=False), Ledger(), Faults()
    client, accepted, refusals = house.client(), set[str](), list[str]()
    client.create("a")
    client.set_webhook("a", receiver.url("/a"))
    house.kill9("worker")
    client.emit("a", data=message(0))

    with faults.during("the disk is full"):
        disk.fill()
        emitters = Threads([lambda: pour(house, accepted, refusals, 100)] * EMITTERS)
        emitters.join()
        status, parts = readyz(house)
        house.redis.kill9()
        disk.empty()
        house.redis.start()

    assert accepted
    assert accepted <= outboxed(house)
    assert status == 503
    said = parts["durability"]
    assert (said["state"], said["lastWrite"]) == ("failure", "failed")
    assert disk.words in said["message"]
    assert "costs nothing" not in said["message"]
    assert "The death of the Redis process now loses" in said["message"]
    assert all(disk.words in refusal for refusal in refusals)
    lines = [line for line in house.output("web").splitlines() if "Redis refuses" in line]
    assert len(lines) == 1
    assert disk.words in lines[0]
    house.start("worker")
    for n, id in enumerate(accepted):
        ledger.promise(id, "/a", "1", n)
    house.wait_quiet()
    done = f"{disk.words}, under load; then SIGKILL, and started with room"
    table.check("Redis' disk full, then killed", done, ledger, receiver, faults, ordered=False)


def test_a_disk_that_gets_room_again_ends_the_refusals_and_what_waited_is_delivered(
    make_house: MakeHouse, disk: Disk, receiver: Receiver
) -> None:
    receiver.control(keep=True)
    house = make_house(
        redis_server=disk.server,
        workers=2,
        hold_seconds=2,
        operator_webhook_url=receiver.url("/operator"),
    )
    client, accepted, refusals = house.client(), set[str](), list[str]()
    client.create("a")
    client.set_webhook("a", receiver.url("/a"))
    wait_for(lambda: house.query("SELECT 1 FROM instance WHERE name = '_operator'"), 30)

    def told() -> list[dict[str, Any]]:
        return [json.loads(each.body) for each in receiver.received() if each.path == "/operator"]

    disk.fill()
    pour(house, accepted, refusals, 20)
    # The operator is notified while Redis takes no event.
    wait_for(lambda: told(), 60, "an event of the operator's")
    # The next clock does not know what was sent. It sends the event with the same id.
    house.kill9("clock")
    house.start("clock")
    wait_for(lambda: len(told()) > 1, 60, "the event of the next clock")
    before = {name: len(lines) for name, lines in said(house).items()}
    pour(house, accepted, refusals, 200)
    after = {name: len(lines) for name, lines in said(house).items()}
    numbers = requests.get(
        f"http://127.0.0.1:{house.port}/metrics", headers=dict(client.session.headers), timeout=10
    ).text
    disk.empty()

    wait_for(lambda: client.emit("a", data=message(-1)).status_code == 202, 30, "a 202", 0.1)
    # Redis takes writes again, and the clock dies before the disk counts as well.
    wait_for(lambda: house.raw.hget("evo:alarms", "disk"), 60, "the stored change", 0.1)
    house.kill9("clock")
    house.start("clock")
    house.wait_quiet(60)
    assert accepted <= {each.id for each in receiver.received() if each.path == "/a"}
    assert "evoflask_redis_appends_failing 1.0" in numbers
    assert [each["event"] for each in told()][:1] == ["redis.failing"]
    assert disk.words in told()[0]["data"]["message"]
    wait_for(lambda: told()[-1]["event"] == "redis.recovered", 60, "the end of it")
    ids = {each.id: each.path for each in receiver.received() if each.path == "/operator"}
    assert len(ids) == len({each["event"] for each in told()})
    # The clock that saw the refusals was killed; the last one saw the end of it.
    again = "Redis takes writes again"
    for kind, line in (("web", again), ("worker", again), ("clock", "Redis' disk is well")):
        wait_for(
            lambda k=kind, words=line: (
                client.emit("a", data=message(-1)).ok  # type: ignore[misc]
                and words in house.output(k)
            ),
            30,
            f"the log of {kind}",
            0.1,
        )
        # The log is bounded, however many requests come.
        assert after[kind] - before[kind] <= 20, said(house)[kind]
    assert readyz(house)[1]["durability"]["state"] == "ok"
    assert house.audit()[0] == 0


def said(house: House) -> dict[str, list[str]]:
    return {kind: house.output(kind).splitlines() for kind in ("web", "worker", "clock")}


class SlowDisk(RedisServer):
    """A server whose fsyncs take 1.5 s more."""

    def __init__(self, folder: Path, library: Path) -> None:
        super().__init__(folder, appendonly=True)
        self._library = library

    def start(self) -> Self:
        os.environ["LD_PRELOAD"] = str(self._library)
        try:
            return super().start()
        finally:
            del os.environ["LD_PRELOAD"]


@pytest.fixture
def slow_disk(tmp_path: Path) -> SlowDisk:
    compiler = shutil.which("cc")
    if compiler is None:
        missing("There is no C compiler (cc).")
    source, library = tmp_path / "slow.c", tmp_path / "slow.so"
    source.write_text(SLOW_FSYNC)
    subprocess.run([str(compiler), "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return SlowDisk(tmp_path / "slow", library)


def test_redis_killed_while_its_disk_is_slow_loses_nothing_that_was_answered_202(
    make_house: MakeHouse, slow_disk: SlowDisk
) -> None:
    house = make_house(redis_server=slow_disk, workers=0, clock=False)
    client, accepted = house.client(), set[str]()
    client.create("a")
    client.set_webhook("a", "http://127.0.0.1:1/")

    def emit() -> None:
        producer = house.client()
        with contextlib.suppress(requests.RequestException):
            while (answer := producer.emit("a", data=message(1))).status_code == 202:
                accepted.add(answer.json()["id"])

    for _ in range(3):
        seen = len(accepted)
        emitters = Threads([emit] * EMITTERS)
        wait_for(lambda n=seen: len(accepted) > n + 100, 60, "accepted events", 0.01)  # type: ignore[misc]
        # Killed in the middle of an fsync.
        wait_for(lambda: house.raw.info("persistence")["aof_pending_bio_fsync"], 30, "", 0.001)
        wait_for(lambda: house.raw.info("persistence")["aof_buffer_length"], 30, "", 0.001)
        house.redis.kill9()
        emitters.join()
        house.redis.start()
        assert accepted <= outboxed(house)
