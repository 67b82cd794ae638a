"""Repairs of a private Redis' append-only file after a loss of power."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from evoflask.dev import aof
from evoflask.dev.process import wait_for
from evoflask.dev.redis_server import RedisServer, candidates, version_of
from evoflask.errors import Misconfigured
from tests.conftest import missing

KEYS = 20


@pytest.fixture(params=["one file", "increments"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> RedisServer:
    """A server that keeps its log in one file (before Redis 7), or in increments."""
    old = request.param == "one file"
    found = [each for each in candidates() if (version_of(each) < (7,)) == old]
    if not found:
        missing(f"There is no redis-server that keeps {request.param}.")
    return RedisServer(tmp_path / "redis", appendonly=True, binary=found[0])


@pytest.fixture
def log(server: RedisServer) -> Path:
    """Return the log of the server, which was killed after `KEYS` writes."""
    with server.start().client() as client:
        for n in range(KEYS):
            client.set(f"k{n}", f"value-{n}")
        # Redis writes nothing while an fsync is under way.
        wait_for(lambda: not client.info("persistence")["aof_buffer_length"], 30)
    server.kill9()
    found = aof.last_file(server.data)
    assert found is not None
    return found


def keys(server: RedisServer) -> int:
    with server.client() as client:
        return int(client.dbsize())


def append(log: Path, more: bytes) -> None:
    with log.open("ab") as file:
        file.write(more)


LAST = b"*3\r\n$3\r\nSET\r\n$2\r\nkk\r\n$9\r\nvalue-xyz\r\n"


@pytest.mark.parametrize("cut", [0, 1, 3, 8, 12, 20, 26, 30, len(LAST) - 2, len(LAST) - 1])
def test_zeros_at_the_end_and_in_mid_command_are_cut_and_the_original_is_kept(
    server: RedisServer, log: Path, cut: int
) -> None:
    good = log.read_bytes()
    damaged = good + LAST[:cut] + b"\0" * 5000
    log.write_bytes(damaged)

    said = server.mend()
    server.start()

    assert keys(server) == KEYS
    server.stop()
    assert log.read_bytes()[: len(good)] == good
    (copy,) = log.parent.glob(f"{log.name}.before-cut-*")
    assert copy.read_bytes() == damaged
    assert str(copy) in said
    assert f"from {len(damaged)} to {len(good)} bytes" in said


def test_a_value_that_holds_zeros_and_was_cut_off_is_cut_as_a_whole(
    server: RedisServer, log: Path
) -> None:
    append(log, b"*3\r\n$3\r\nSET\r\n$1\r\nz\r\n$100\r\nab\0cd" + b"\0" * 4096)

    server.start()

    assert keys(server) == KEYS
    server.stop()


@pytest.mark.parametrize(
    "garbage", [b"garbage", b"garbage" + b"\0" * 5000, LAST[:20] + b"xx" + b"\0" * 5000]
)
def test_any_other_fault_stops_with_the_command_to_run_and_changes_nothing(
    server: RedisServer, log: Path, garbage: bytes
) -> None:
    append(log, garbage)
    before = log.read_bytes()

    with pytest.raises(Misconfigured) as stopped:
        server.start()

    assert log.read_bytes() == before
    assert not [*log.parent.glob("*.before-cut-*")]
    command = re.search(r"bash -c '.*'", str(stopped.value))
    assert command is not None, stopped.value
    assert str(log) in command[0]
    # The command does it.
    subprocess.run(command[0], shell=True, input=b"y\n", check=True, capture_output=True)
    server.start()
    assert keys(server) == KEYS
    server.stop()


def test_a_command_that_was_cut_off_is_left_to_redis(server: RedisServer, log: Path) -> None:
    append(log, LAST[:20])

    assert server.mend() == ""
    server.start()

    assert keys(server) == KEYS
    server.stop()


def test_a_good_file_is_left_as_it_is(server: RedisServer, log: Path) -> None:
    before = log.read_bytes()

    assert server.mend() == ""

    assert log.read_bytes() == before


def test_zeros_without_room_for_a_copy_stop_the_start_and_change_nothing(
    server: RedisServer, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    append(log, b"\0" * 100)
    before = log.read_bytes()
    monkeypatch.setattr(shutil, "copy2", full)

    with pytest.raises(Misconfigured, match="No space left"):
        server.start()

    assert log.read_bytes() == before


@pytest.mark.parametrize(
    ("tail", "good"),
    [
        (b"", True),
        (LAST, True),
        (LAST + LAST[:7], True),
        (b"#TS:1700000000\r\n" + LAST[:9], True),
        (b"#TS:17", True),
        (b"*", True),
        (b"x", False),
        (b"*3\r\n*", False),
        (b"*3\r\n$3\r\nSETx", False),
        (b"*-1\r\n", False),
    ],
)
def test_the_beginning_of_a_command_is_known_from_garbage(tail: bytes, good: bool) -> None:
    assert aof.begins_commands(tail) is good
