"""The Procfile's own commands and the CLI's, as a platform runs them."""

from __future__ import annotations

import http.client
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from evoflask.dev.process import Process, free_port, wait_for
from evoflask.dev.supervisor import read_procfile
from tests.conftest import ENCRYPTION_KEY

Start = Callable[..., Process]


@pytest.fixture
def platform(tmp_path: Path, root: Path, redis_url: str) -> Iterator[Start]:
    """Starts a command with the environment of a platform; variables are changed by name."""
    started: list[Process] = []
    env = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "AUTHENTICATION_API_KEY": "a-known-key",
        "ENCRYPTION_KEY": ENCRYPTION_KEY,
        "EVOFLASK_HOME": str(tmp_path),
        "REDIS_URL": redis_url,
        "DATABASE_URL": f"sqlite:///{tmp_path}/platform.db",
        "PORT": str(free_port()),
    }

    def start(*command: str, **changes: str) -> Process:
        log = tmp_path / f"log{len(started)}"
        process = Process(command, env=env | changes, cwd=root, log=log).start()
        started.append(process)
        return process

    yield start
    for process in started:
        process.stop()


@pytest.fixture
def procfile(root: Path) -> dict[str, list[str]]:
    return read_procfile(root / "Procfile")


def answered(port: int) -> int | None:
    """The status of a request that needs a key, without one."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=25)
    try:
        connection.request("GET", "/instance/fetchInstances")
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()


def test_release_may_run_twice(platform: Start, procfile: dict[str, list[str]]) -> None:
    assert platform(*procfile["release"]).wait(20) == 0
    assert platform(*procfile["release"]).wait(20) == 0


def test_two_web_processes_share_a_port_and_one_may_go(
    platform: Start, procfile: dict[str, list[str]]
) -> None:
    port = free_port()
    platform(*procfile["release"]).wait(20)
    first = platform(*procfile["web"], PORT=str(port), WEB_CONCURRENCY="1")
    wait_for(lambda: answered(port) == 401, 20)
    second = platform(*procfile["web"], PORT=str(port), WEB_CONCURRENCY="1")
    wait_for(lambda: "Booting worker" in second.output(), 20)

    first.send(signal.SIGTERM)

    assert first.wait(10) == 0
    wait_for(lambda: answered(port) == 401, 20)
    assert second.alive


def test_the_web_process_opens_no_control_socket_and_logs_lines(
    platform: Start, procfile: dict[str, list[str]], tmp_path: Path
) -> None:
    port = free_port()
    home = tmp_path / "user"
    home.mkdir()
    web = platform(*procfile["web"], PORT=str(port), HOME=str(home))
    wait_for(lambda: answered(port) == 401, 20)

    assert list(home.rglob("*")) == []
    assert all(line.startswith("at=") for line in web.output().splitlines()), web.output()


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("AUTHENTICATION_API_KEY", "", "is not set"),
        ("ENCRYPTION_KEY", "", "is not set"),
        ("ENCRYPTION_KEY", "hunter2", "must be keys of 32 bytes"),
        ("WEB_THREADS", "many", "must be a whole"),
    ],
)
def test_the_web_process_refuses_to_start_with_one_sentence(
    platform: Start, procfile: dict[str, list[str]], name: str, value: str, says: str
) -> None:
    web = platform(*procfile["web"], **{name: value})

    assert web.wait(20) == 1
    assert web.output().startswith(f"evoflask: {name} {says}")
    assert len(web.output().splitlines()) == 1
    assert "hunter2" not in web.output()


@pytest.mark.parametrize("name", ["worker", "clock"])
def test_worker_and_clock_refuse_a_wrong_setting_with_one_sentence(
    platform: Start, procfile: dict[str, list[str]], name: str
) -> None:
    process = platform(*procfile[name], LOG_LEVEL="loud")

    assert process.wait(20) == 1
    assert process.output().startswith("evoflask: LOG_LEVEL must be one of")


@pytest.mark.parametrize("name", ["worker", "clock"])
def test_worker_and_clock_refuse_to_start_without_a_key_to_seal_with(
    platform: Start, procfile: dict[str, list[str]], name: str
) -> None:
    process = platform(*procfile[name], ENCRYPTION_KEY="")

    assert process.wait(20) == 1
    assert process.output().startswith("evoflask: ENCRYPTION_KEY is not set")


def test_a_worker_for_a_sink_that_there_is_not_says_which_there_are(
    platform: Start, procfile: dict[str, list[str]]
) -> None:
    process = platform(*procfile["worker"], "fax")

    assert process.wait(20) == 1
    assert "no sink 'fax'" in process.output()
    assert "webhook" in process.output()


@pytest.mark.parametrize("name", ["worker", "clock"])
def test_worker_and_clock_start_and_end_in_order(
    platform: Start, procfile: dict[str, list[str]], name: str
) -> None:
    platform(*procfile["release"]).wait(20)
    process = platform(*procfile[name])
    wait_for(lambda: "started" in process.output() or not process.alive, 20)

    process.send(signal.SIGTERM)

    assert process.wait(10) == 0, process.output()
    assert "level=error" not in process.output()


def test_an_adopted_database_gets_a_new_epoch(
    platform: Start, procfile: dict[str, list[str]]
) -> None:
    platform(*procfile["release"]).wait(20)
    said = []
    for _ in range(2):
        process = platform("flask", "--app", "app", "db", "adopt")
        assert process.wait(20) == 0, process.output()
        said.append(process.output())

    assert "epoch is" in said[0]
    assert said[0] != said[1]


def test_the_receiver_prints_what_arrives(platform: Start) -> None:
    port = free_port()
    receiver = platform("flask", "--app", "app", "receive", "--port", str(port))
    wait_for(lambda: "waiting" in receiver.output() or not receiver.alive, 20)

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=25)
    connection.request("POST", "/hook", b'{"event": "messages.upsert"}', {"webhook-id": "id-7"})
    assert connection.getresponse().status == 200
    connection.close()

    wait_for(lambda: "messages.upsert" in receiver.output())
    assert "id-7" in receiver.output()
