"""The worker's and the clock's shells, in real processes, around a drain that takes notes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from rq import Worker
from rq.registry import FailedJobRegistry, StartedJobRegistry

from evoflask import bell
from evoflask.dev.process import Process, wait_for, whole_lines
from evoflask.dev.redis_server import RedisServer

# One write a note: what the log says at the same moment must not land inside.
WORKER = """
import asyncio, os, sys, time
from pathlib import Path
from evoflask import log
from workers.worker import Shell

def note(*words):
    print("NOTE " + " ".join(map(str, words)) + "\\n", end="", flush=True)

class Drain:
    def __init__(self, url, work, stubborn):
        self.url, self.work, self.stubborn = url, float(work), stubborn == "stubborn"
        self.ended = None
    async def start(self):
        note("starting")
        if self.url.endswith("slow"):
            await asyncio.sleep(1)
        if self.url.endswith("refused"):
            raise OSError("refused")
        self.ended = asyncio.Event()
        note("start")
    async def drain_until_quiet(self, max_seconds, quiet_seconds):
        note("drain", max_seconds)
        if self.stubborn and max_seconds == 60:
            time.sleep(600)
        try:
            await asyncio.wait_for(self.ended.wait(), self.work)
        except asyncio.TimeoutError:
            pass
        note("quiet")
    async def pulse(self):
        if self.stubborn:
            await asyncio.sleep(600)
    async def stop(self, grace):
        note("stop", grace)
        self.ended.set()

log.configure("info")
url, work, stubborn, *sinks = sys.argv[1:]
grace, file = float(os.environ.get("GRACE", "25")), os.environ.get("HEARTBEAT_FILE")
drain = Drain(url, work, stubborn)
sys.exit(Shell(drain, url, sinks or ["webhook"], grace, Path(file) if file else None).run())
"""

CLOCK = """
import sys, time
from workers.clock import Clock
from evoflask import log

class Chores:
    def __init__(self):
        self.ticks = 0
    def tick(self):
        self.ticks += 1
        print(f"NOTE tick {self.ticks} {time.monotonic()}\\n", end="", flush=True)
        if sys.argv[1] == "fail":
            raise RuntimeError("a chore failed")
        if sys.argv[1] == "hang":
            time.sleep(600)

log.configure("info")
sys.exit(Clock(Chores).run())
"""

Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path, root: Path) -> Start:
    """Starts a program with arguments, in the project's folder."""
    count = 0

    def begin(code: str, *arguments: str, **env: str) -> Process:
        nonlocal count
        count += 1
        command = [sys.executable, "-c", code, *arguments]
        log = tmp_path / f"log{count}"
        return Process(command, cwd=root, log=log, name="shell", env=dict(os.environ) | env)

    return begin


def notes(process: Process) -> list[str]:
    return [
        line.removeprefix("NOTE ") for line in whole_lines(process.log) if line.startswith("NOTE ")
    ]


def jobs(client: redis.Redis) -> list[bytes]:
    return list(client.scan_iter("rq:job:*"))


def idle(process: Process, client: redis.Redis) -> None:
    """Waits until the worker looked once and listens."""
    wait_for(lambda: "quiet" in notes(process))
    wait_for(lambda: any(w.get_state() == "idle" for w in Worker.all(connection=client)))


def test_a_worker_looks_for_work_before_any_bell(start: Start, redis_url: str) -> None:
    with start(WORKER, redis_url, "0", "-") as process:
        wait_for(lambda: notes(process)[1:4] == ["start", "drain 5.0", "quiet"])


def test_a_bell_drains_and_leaves_nothing_behind(
    start: Start, redis_url: str, redis_client: redis.Redis
) -> None:
    with start(WORKER, redis_url, "0", "-") as process:
        idle(process, redis_client)

        assert bell.ring(redis_client, "webhook")

        wait_for(lambda: notes(process).count("drain 60.0") == 1)
        wait_for(lambda: not jobs(redis_client))
    assert bell.queue(redis_client, "webhook").count == 0


def test_a_job_carries_json_and_the_name_of_its_sink_only(redis_client: redis.Redis) -> None:
    bell.ring(redis_client, "webhook")

    (job,) = bell.queue(redis_client, "webhook").jobs
    assert job.func_name == "workers.jobs.drain"
    assert list(job.args) == ["webhook"]
    assert job.serializer.__name__ == "JSONSerializer"
    assert (job.timeout, job.result_ttl, job.failure_ttl) == (-1, 0, 0)


def test_bells_that_nobody_hears_do_not_pile_up(redis_client: redis.Redis) -> None:
    rung = [bell.ring(redis_client, "webhook") for _ in range(bell.PENDING + 5)]

    assert rung.count(True) == bell.PENDING
    assert len(jobs(redis_client)) == bell.PENDING


def test_no_queue_starves_another(start: Start, redis_url: str, redis_client: redis.Redis) -> None:
    bell.ring(redis_client, "nats")

    def emptied() -> bool:
        # With RQ's own order the second queue would be full until the first is empty.
        while bell.ring(redis_client, "webhook"):
            pass
        return bell.queue(redis_client, "nats").count == 0

    assert not emptied()
    with start(WORKER, redis_url, "0.05", "-", "webhook", "nats"):
        wait_for(emptied, 30)


def test_a_killed_workers_bell_blocks_nobody(
    start: Start, redis_url: str, redis_client: redis.Redis
) -> None:
    with start(WORKER, redis_url, "30", "-") as process:
        bell.ring(redis_client, "webhook")
        wait_for(lambda: len(StartedJobRegistry(bell.queue_name("webhook"), redis_client)) == 1)
        process.kill9()

    with start(WORKER, redis_url, "0", "-") as process:
        bell.ring(redis_client, "webhook")
        wait_for(lambda: "drain 60.0" in notes(process))
    assert len(FailedJobRegistry(bell.queue_name("webhook"), redis_client)) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_worker_ends_at_once(
    start: Start, redis_url: str, redis_client: redis.Redis, number: int
) -> None:
    with start(WORKER, redis_url, "0", "-") as process:
        idle(process, redis_client)
        process.send(number)

        assert process.wait(3) == 0
    assert "stop 17.5" in notes(process)
    assert Worker.count(connection=redis_client) == 0


def test_a_worker_that_drains_stops_the_drain_and_deregisters(
    start: Start, redis_url: str, redis_client: redis.Redis
) -> None:
    with start(WORKER, redis_url, "30", "-") as process:
        wait_for(lambda: "drain 5.0" in notes(process))
        bell.ring(redis_client, "webhook")
        wait_for(lambda: any(w.get_state() == "busy" for w in Worker.all(connection=redis_client)))
        process.send(signal.SIGTERM)

        assert process.wait(5) == 0
    assert notes(process)[-2:] == ["stop 17.5", "quiet"]
    assert jobs(redis_client) == []
    assert Worker.count(connection=redis_client) == 0


def test_a_second_signal_ends_a_hanging_worker_at_once(
    start: Start, redis_url: str, redis_client: redis.Redis
) -> None:
    with start(WORKER, redis_url, "0", "stubborn") as process:
        bell.ring(redis_client, "webhook")
        wait_for(lambda: "drain 60.0" in notes(process))
        began = time.monotonic()
        process.send(signal.SIGTERM)
        wait_for(lambda: time.monotonic() - began > 1.2)
        assert process.alive

        process.send(signal.SIGTERM)

        assert process.wait(2) == 128 + signal.SIGTERM


def test_a_hanging_worker_ends_within_its_grace_of_the_first_signal(
    start: Start, redis_url: str, redis_client: redis.Redis
) -> None:
    with start(WORKER, redis_url, "0", "stubborn", GRACE="5") as process:
        bell.ring(redis_client, "webhook")
        wait_for(lambda: "drain 60.0" in notes(process))

        process.send(signal.SIGTERM)

        assert process.wait(5) == 1


def beats(file: Path, seconds: float = 3) -> bool:
    """Return True if the file is touched within these seconds, times the tests' patience."""
    before = file.stat().st_mtime_ns
    with contextlib.suppress(TimeoutError):
        wait_for(lambda: file.stat().st_mtime_ns > before, seconds)
    return file.stat().st_mtime_ns > before


def test_a_worker_shows_that_it_lives_also_without_redis(start: Start, tmp_path: Path) -> None:
    file, url = tmp_path / "beat", f"unix://{tmp_path}/none.sock"
    with start(WORKER, url, "0", "-", HEARTBEAT_FILE=str(file)):
        wait_for(file.exists)

        assert beats(file)


def test_a_worker_whose_loops_stand_still_shows_it(start: Start, tmp_path: Path) -> None:
    file, url = tmp_path / "beat", f"unix://{tmp_path}/none.sock"
    file.touch()
    with start(WORKER, url, "0", "stubborn", HEARTBEAT_FILE=str(file)) as process:
        wait_for(lambda: "start" in notes(process))

        assert not beats(file, 0.6)


@pytest.mark.parametrize(
    ("age", "status", "words"),
    [(0, 0, ""), (15, 0, ""), (1000, 1, r"was not touched for 1\d{3} s")],
)
def test_whoever_asks_hears_how_old_the_last_sign_of_life_is(
    start: Start, tmp_path: Path, age: float, status: int, words: str
) -> None:
    file = tmp_path / "beat"
    file.touch()
    now = time.time()
    os.utime(file, (now - age, now - age))
    ask = "import runpy; runpy.run_module('workers.alive', run_name='__main__')"
    with start(ask, HEARTBEAT_FILE=str(file)) as process:
        assert process.wait(10) == status
    assert re.search(words, process.output())


@pytest.mark.parametrize("file", ["", "/nowhere/beat"])
def test_no_sign_of_life_at_all_is_no_life(start: Start, file: str) -> None:
    ask = "import runpy; runpy.run_module('workers.alive', run_name='__main__')"
    with start(ask, HEARTBEAT_FILE=file) as process:
        assert process.wait(10) == 1
    assert "evoflask: " in process.output()


def test_a_worker_without_rqs_redis_goes_on_looking_and_takes_bells_when_it_is_back(
    start: Start, tmp_path: Path
) -> None:
    server = RedisServer(tmp_path / "redis")
    with server, start(WORKER, server.url, "0", "-") as process:
        idle(process, server.client())
        server.kill9()
        looks = notes(process).count("drain 5.0")
        wait_for(lambda: notes(process).count("drain 5.0") > looks, 20)
        assert process.alive

        server.restart()

        bell.ring(server.client(), "webhook")
        wait_for(lambda: "drain 60.0" in notes(process), 20)
        process.send(signal.SIGTERM)
        assert process.wait(5) == 0


def test_a_worker_starts_and_ends_without_rqs_redis(start: Start, tmp_path: Path) -> None:
    with start(WORKER, f"unix://{tmp_path}/nowhere", "0", "-") as process:
        wait_for(lambda: "quiet" in notes(process) and "cannot be used" in process.output())
        process.send(signal.SIGTERM)

        assert process.wait(5) == 0


def test_a_drain_is_not_stopped_before_it_is_started(start: Start, tmp_path: Path) -> None:
    with start(WORKER, f"unix://{tmp_path}/slow", "0", "-") as process:
        wait_for(lambda: notes(process) == ["starting"])
        process.send(signal.SIGTERM)

        assert process.wait(5) == 0
    assert notes(process) == ["starting", "start", "stop 17.5"]


def test_a_drain_that_cannot_start_is_started_again_and_never_stopped(
    start: Start, tmp_path: Path
) -> None:
    with start(WORKER, f"unix://{tmp_path}/refused", "0", "-") as process:
        wait_for(lambda: notes(process) == ["starting", "starting"])
        process.send(signal.SIGTERM)

        assert process.wait(5) == 0
    assert set(notes(process)) == {"starting"}


def test_the_clock_ticks_once_a_second(start: Start) -> None:
    with start(CLOCK, "-") as process:
        wait_for(lambda: len(notes(process)) >= 3)
        process.send(signal.SIGTERM)

        assert process.wait(2) == 0
    at = [float(note.split()[2]) for note in notes(process)]
    assert at[2] - at[0] == pytest.approx(2, abs=0.5)


def test_a_chore_that_fails_is_told_of_and_done_again(start: Start) -> None:
    with start(CLOCK, "fail") as process:
        wait_for(lambda: len(notes(process)) >= 3)

        assert process.alive
    assert process.output().count("RuntimeError: a chore failed") == 2  # message and traceback


def test_a_clock_in_the_middle_of_a_chore_ends_within_two_seconds(start: Start) -> None:
    with start(CLOCK, "hang") as process:
        wait_for(lambda: notes(process))
        os.kill(process.pid, signal.SIGTERM)

        assert process.wait(2.5) == 0
