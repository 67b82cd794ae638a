"""The supervisor over small programs of its own: what it checks, keeps up and takes down."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import redis

from evoflask.bell import connect
from evoflask.dev.process import Process, free_port, wait_for, whole_lines
from evoflask.settings import embedded_socket

RUN = (
    "import os, sys\n"
    "from pathlib import Path\n"
    "from evoflask.dev import supervisor\n"
    "sys.exit(supervisor.main(Path(sys.argv[1])))\n"
)

NOTE = """
import json, os, sys, time
name = sys.argv[1]
with open(os.environ["NOTES"], "a") as notes:
    notes.write(json.dumps({"name": name, "pid": os.getpid(), "env": dict(os.environ)}) + "\\n")
"""

PROGRAMS = {
    "release.py": NOTE + "sys.exit(int(os.environ.get('RELEASE_STATUS', 0)))\n",
    "web.py": NOTE
    + """
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *args):
        pass
HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
""",
    "idle.py": NOTE
    + """
import signal
if os.environ.get("STUBBORN") == name:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(600)
""",
}

PROCFILE = """\
release: python release.py release
web: python web.py web
worker: python idle.py worker
clock: python idle.py clock
"""


@dataclass
class House:
    """A project of small programs, and the runs of it."""

    root: Path
    home: Path
    notes: Path
    port: int
    repository: Path
    runs: list[Process]

    def run(self, **env: str) -> Process:
        """Starts a supervisor; `output()` is what it said."""
        usual = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(self.repository),
            "PORT": str(self.port),
            "EVOFLASK_HOME": str(self.home),
            "NOTES": str(self.notes),
        }
        process = Process(
            [sys.executable, "-c", RUN, str(self.root)],
            env=usual | env,
            log=self.root / f"log{len(self.runs)}",
            name="supervisor",
        ).start()
        self.runs.append(process)
        return process

    def up(self, **env: str) -> Process:
        """Starts one and waits for its greeting."""
        process = self.run(**env)
        wait_for(lambda: "Ctrl-C stops" in process.output() or not process.alive, 20)
        assert process.alive, process.output()
        return process

    def started(self, name: str) -> list[dict[str, object]]:
        """What the programs of this name noted when they were started."""
        noted = [json.loads(line) for line in whole_lines(self.notes)]
        return [each for each in noted if each["name"] == name]

    def redis(self) -> redis.Redis:
        """A client of the embedded Redis."""
        return connect("unix://" + str(embedded_socket(self.home)))


@pytest.fixture
def house(tmp_path: Path, root: Path) -> Iterator[House]:
    project = tmp_path / "project"
    project.mkdir()
    (project / "Procfile").write_text(PROCFILE)
    for name, text in PROGRAMS.items():
        (project / name).write_text(text)
    made = House(project, tmp_path / "home", tmp_path / "notes", free_port(), root, [])
    yield made
    for process in made.runs:
        process.stop(grace=12)


def family(process: Process) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def refused(process: Process) -> str:
    """The one sentence with which a run ended at once."""
    assert process.wait(20) == 1
    lines = process.output().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_a_run_starts_the_procfile_and_greets_with_address_key_and_a_block(house: House) -> None:
    process = house.up(AUTHENTICATION_API_KEY="known-key", WORKER_PROCESSES="2")

    wait_for(lambda: len(house.started("worker")) == 2 and house.started("clock"))
    assert [len(house.started(name)) for name in ("release", "web", "clock")] == [1, 1, 1]
    said = process.output()
    assert f"http://127.0.0.1:{house.port}" in said
    assert "known-key" in said
    assert "/event/emit/demo" in said


def test_the_children_get_addresses_loopback_and_our_interpreter(house: House) -> None:
    house.up(SERVER_URL="")

    env = house.started("web")[0]["env"]
    assert isinstance(env, dict)
    assert env["REDIS_URL"] == f"unix://{embedded_socket(house.home)}"
    assert env["DATABASE_URL"] == f"sqlite:///{house.home}/evoflask.db"
    assert env["WEBHOOK_ALLOW_NETWORKS"] == "127.0.0.0/8,::1/128"
    assert env["PATH"].startswith(str(Path(sys.executable).parent))
    assert env["EVOFLASK_HOME"] == str(house.home)


def test_what_is_set_is_obeyed_by_the_children(house: House) -> None:
    house.up(WEBHOOK_ALLOW_NETWORKS="10.0.0.0/8", DATABASE_URL="postgresql://db/evo")

    env = house.started("web")[0]["env"]
    assert isinstance(env, dict)
    assert env["WEBHOOK_ALLOW_NETWORKS"] == "10.0.0.0/8"
    assert env["DATABASE_URL"] == "postgresql://db/evo"


def test_a_made_key_is_kept_in_the_home_for_its_owner_alone(house: House) -> None:
    first = house.up()
    key = (house.home / "apikey").read_text().strip()
    first.stop()

    second = house.up()

    assert len(key) >= 24
    assert key in first.output()
    assert key in second.output()
    assert stat.S_IMODE((house.home / "apikey").stat().st_mode) == 0o600


def test_with_a_redis_url_no_redis_is_started(house: House, redis_url: str) -> None:
    process = house.up(REDIS_URL=redis_url)

    assert not (house.home / "redis").exists()
    assert len(family(process)) == 3


def test_the_embedded_redis_is_append_only_and_never_evicts(house: House) -> None:
    house.up()

    config = house.redis().config_get("*")
    assert config["appendonly"] == "yes"
    assert config["appendfsync"] == "everysec"
    assert config["maxmemory-policy"] == "noeviction"
    assert config["maxmemory"] == str(1 << 30)
    assert config["port"] == "0"


def test_a_home_with_a_path_too_long_for_a_socket_works(house: House, tmp_path: Path) -> None:
    house.home = tmp_path / ("long" * 30)

    house.up()

    assert house.redis().ping()
    assert house.home not in embedded_socket(house.home).parents


def test_a_taken_port_is_one_sentence(house: House) -> None:
    with socket.create_server(("127.0.0.1", house.port)):
        said = refused(house.run())

    assert said == (
        f"evoflask: Port {house.port} of 127.0.0.1 cannot be used: Address already in use. "
        "Set PORT or WEB_HOST to another one."
    )


def test_a_shared_port_counts_as_taken(house: House) -> None:
    with socket.create_server(("0.0.0.0", house.port), reuse_port=True):
        assert "cannot be used" in refused(house.run())


@pytest.mark.parametrize("place", ["/sys/evoflask", "/proc/evoflask", "{file}/home", "{file}"])
def test_a_home_that_cannot_be_written_is_one_sentence(
    house: House, tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").write_text("")
    home = place.format(file=tmp_path / "file")

    said = refused(house.run(EVOFLASK_HOME=home))

    assert said.startswith(f"evoflask: The home {home} cannot be written to: ")


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_home_without_permission_is_one_sentence(house: House) -> None:
    house.home.mkdir(mode=0o500)

    assert "Permission denied" in refused(house.run())


def test_a_second_run_on_the_same_home_is_one_sentence(house: House) -> None:
    first = house.up()
    house.port = free_port()

    said = refused(house.run())

    assert said == f"evoflask: Another run is using the home {house.home} (EVOFLASK_HOME)."
    assert first.alive


def test_a_wrong_setting_is_one_sentence(house: House) -> None:
    assert refused(house.run(MAX_BATCH="many")).startswith("evoflask: MAX_BATCH must be")


def test_failed_migrations_stop_the_start_and_leave_nothing(house: House) -> None:
    process = house.run(RELEASE_STATUS="3")

    assert process.wait(20) == 1
    assert "The migrations failed" in process.output()
    assert house.started("web") == []
    with pytest.raises(redis.ConnectionError):
        house.redis().ping()


@pytest.mark.parametrize("name", ["web", "worker", "clock"])
def test_what_dies_is_started_again_within_seconds(house: House, name: str) -> None:
    house.up()
    wait_for(lambda: house.started(name))

    os.kill(int(str(house.started(name)[0]["pid"])), signal.SIGKILL)

    wait_for(lambda: len(house.started(name)) == 2, timeout=5)


def test_a_redis_that_dies_is_started_again_with_its_data(house: House) -> None:
    house.up()
    house.redis().config_set("appendfsync", "always")
    house.redis().set("kept", 1)

    os.kill(int(house.redis().info("server")["process_id"]), signal.SIGKILL)

    wait_for(answering(lambda: house.redis().get("kept") == b"1"), timeout=5)


def answering(condition: Callable[[], bool]) -> Callable[[], bool]:
    def ask() -> bool:
        try:
            return condition()
        except redis.ConnectionError:
            return False

    return ask


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_everything_in_ten_seconds(house: House, number: int) -> None:
    process = house.up()
    children = family(process)
    assert len(children) == 4

    process.send(number)

    assert process.wait(10) == 0
    assert not any(child.is_running() for child in children)


def test_who_will_not_stop_is_killed_within_the_ten_seconds(house: House) -> None:
    process = house.up(STUBBORN="worker")
    children = family(process)
    began = time.monotonic()

    process.send(signal.SIGTERM)

    assert process.wait(10) == 0
    assert time.monotonic() - began > 5
    assert not any(child.is_running() for child in children)


def test_asked_twice_it_does_not_wait(house: House) -> None:
    process = house.up(STUBBORN="clock")
    children = family(process)

    process.send(signal.SIGINT)
    wait_for(lambda: len([child for child in children if child.is_running()]) <= 3)
    began = time.monotonic()
    wait_for(lambda: time.monotonic() - began > 1.2 or not process.alive)
    process.send(signal.SIGINT)

    assert process.wait(3) == 0
    assert not any(child.is_running() for child in children)


def test_a_killed_supervisor_leaves_nothing_and_its_home_can_be_used_again(house: House) -> None:
    first = house.up()
    house.redis().set("kept", 1)
    children = family(first)

    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    wait_for(lambda: not any(child.is_running() for child in children))

    house.up()
    assert house.redis().get("kept") == b"1"


def test_started_by_make_it_ends_with_make(house: House) -> None:
    code = (
        "import subprocess, sys\n"
        "code = 'import os, signal, sys; from pathlib import Path;'"
        "'from evoflask.dev import process, supervisor;'"
        "'process.die_with_parent(signal.SIGTERM, os.getppid());'"
        "'sys.exit(supervisor.main(Path(sys.argv[1])))'\n"
        "subprocess.run([sys.executable, '-c', code, sys.argv[1]])\n"
    )
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(house.repository),
        "PORT": str(house.port),
        "EVOFLASK_HOME": str(house.home),
        "NOTES": str(house.notes),
    }
    command = [sys.executable, "-c", code, str(house.root)]
    with Process(command, env=env, log=house.root / "log") as parent:
        wait_for(lambda: "Ctrl-C stops" in parent.output(), 20)
        children = family(parent)
        assert len(children) == 5

        os.kill(parent.pid, signal.SIGKILL)

        wait_for(lambda: not any(child.is_running() for child in children))
