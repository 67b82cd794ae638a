"""Accepting, with nobody delivering: batches beside bare pipelined XADD, single events beside a
Flask that answers a constant. The same client, bytes and cores for both."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence

import redis

from benchmarks.bare import BATCH
from benchmarks.measures import Run
from benchmarks.mix import Event, events
from benchmarks.ours import House, house, load
from benchmarks.scene import ROOT, Scene, cpu, program, python, scene, started
from evoflask.dev.process import free_port, wait_for

HEADING = "Accepting"
NAMES = ("what", "events/s", "CPU us", "Redis us", "client us")
CONNECTIONS = 8


def section(run: Run) -> None:
    """Ours and the limit in turns, a pair a round."""
    count = 40_000 if run.full else 10_000
    with scene(0, 100) as here, house(here, web=1) as ours:
        ours.start(workers=False)
        _batches(run, here, ours, events(8_000, list(here.tenants), run="warm"))
        for n in range(run.rounds):
            bare, mine = _batches(run, here, ours, events(count, list(here.tenants), run=f"b{n}"))
            run.tell("accept_batches", mine / bare)
    with scene(0, 100) as here, house(here, web=2) as ours:
        ours.start(workers=False)
        port = free_port()
        # The same server as ours runs on without its poller, at its own best.
        words = ["--workers", "2", "--threads", "8", "--keep-alive", "60", "--bind"]
        words += [f"127.0.0.1:{port}", "--worker-class", "gthread", "--no-control-socket"]
        empty = here.folder / "gunicorn.conf.py"
        empty.write_text("")  # or it would find ours
        words += ["--config", str(empty)]
        constant = started(
            here, "constant", [program("gunicorn"), *words, "benchmarks.bare:constant()"]
        )
        try:
            wait_for(lambda: constant.output().count("Booting worker") == 2, 30, "the constant")
            _singles(
                run, here, ours, port, constant.pid, events(1_000, list(here.tenants), run="w")
            )
            for n in range(run.rounds):
                some = events(count // 4, list(here.tenants), run=f"s{n}")
                bare, mine = _singles(run, here, ours, port, constant.pid, some)
                run.tell("accept_single", mine / bare)
        finally:
            constant.kill9()


def _batches(run: Run, here: Scene, ours: House, wanted: Sequence[Event]) -> tuple[float, float]:
    file = here.folder / "entries"
    lines = (
        {"stream": f"bare:{e.instance}", "event": e.name, "data": e.data.decode()} for e in wanted
    )
    file.write_text("".join(json.dumps(one) + "\n" for one in lines))
    before = cpu([here.redis.process.pid])
    with subprocess.Popen(
        python("benchmarks.bare", str(here.redis.port), str(file)),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        said = json.loads(process.communicate("\n", timeout=300)[0])
    count = len(wanted)
    redis_us = (cpu([here.redis.process.pid]) - before) / count * 1e6
    rate = count / said["seconds"]
    own = said["cpu"] / count * 1e6
    run.row(HEADING, NAMES, f"bare XADD, {BATCH} in a pipeline", rate, own, redis_us, 0.0)
    mine = _load(run, here, ours, wanted, BATCH, f"evoflask, batches of {BATCH}")
    with redis.Redis(port=here.redis.port) as client:
        for stream in client.scan_iter("bare:*", count=1000):
            client.delete(stream)
    return rate, mine


def _load(
    run: Run, here: Scene, ours: House, wanted: Sequence[Event], batch: int, name: str
) -> float:
    web, count = [ours.running[0].pid], len(wanted)
    before = cpu(web), cpu([here.redis.process.pid])
    sent = ours.load(wanted, connections=CONNECTIONS, batch=batch)
    used = [cpu(web) - before[0], cpu([here.redis.process.pid]) - before[1], sent.cpu]
    run.row(HEADING, NAMES, name, count / sent.seconds, *(x / count * 1e6 for x in used))
    return count / sent.seconds


def _singles(
    run: Run, here: Scene, ours: House, port: int, pid: int, wanted: Sequence[Event]
) -> tuple[float, float]:
    requests = ours.requests(wanted, 1)
    before = cpu([pid])
    sent = load(here, port, requests, CONNECTIONS, 0)
    rate = len(wanted) / sent.seconds
    used = [(cpu([pid]) - before) / len(wanted) * 1e6, 0.0, sent.cpu / len(wanted) * 1e6]
    run.row(HEADING, NAMES, "constant on Flask, 2 gthread processes", rate, *used)
    mine = _load(run, here, ours, wanted, 1, "evoflask, one by one, 2 web processes")
    return rate, mine
