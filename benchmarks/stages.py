"""Where the CPU of an event goes, stage by stage: py-spy's samples of whoever has the interpreter
share the CPU seconds that the process used meanwhile, so what the kernel does for a stage counts
for it as its own share of samples does. Redis' slow log, told to keep everything, has the time of
each script, which costs it some of that time.
"""

from __future__ import annotations

import re
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import redis

from benchmarks import mix
from benchmarks.brokers import start_of
from benchmarks.measures import Run
from benchmarks.mix import events
from benchmarks.ours import house
from benchmarks.scene import Scene, cpu, scene
from benchmarks.versus import PEERS
from evoflask.dev.process import wait_for
from evoflask.outbox import verbs

HEADING = "Stages, us of CPU an event"
NAMES = ("phase", "stage", "us")
WEB = (
    ("serve", r"gunicorn/|evoflask/serving/"),
    ("Flask", r"flask/|werkzeug/|evoflask/web/"),
    ("parse", r"evoflask/envelope\.py|body_pieces|_lines|evoflask/web/bodies\.py"),
    (
        "validate",
        r"evoflask/limits\.py|evoflask/keyring\.py|evoflask/web/auth\.py|evoflask/doorkeeper",
    ),
    ("route", r"evoflask/routing\.py|evoflask/manager\.py|evoflask/retained\.py"),
    ("append", r"evoflask/outbox/|redis/|hiredis"),
)
DRAIN = (
    ("loop", r"asyncio/|selectors|^_run_once"),
    ("take", r"_take_loop|_take_many|_admit|_turn_away"),
    ("read bodies", r"_read_loop|_fetch|_collect"),
    ("begin", r"_put_under_way|_start_more|_launch|_consider|_next|_add \("),
    ("send", r"_fly|_deliver |evoflask/sinks/|evoflask/net/"),
    ("sign", r"evoflask/signing\.py"),
    ("client library", r"pika/|nats/|aiohttp/"),
    ("verdict", r"_ended|_close |evoflask/delivery/verdicts|evoflask/delivery/outcomes"),
    ("settle", r"_settle_loop|_settle_call|_settled|_queue_settle"),
    ("log", r"_log_loop|evoflask/delivery/attempts"),
    ("renew, ring, tick", r"_tick_loop|_second_loop|_listen_loop|holds\.py|evoflask/bell"),
)
"""A stage and what frames of it look like, innermost that fits; what fits nowhere is "other"."""
READS = ("XRANGE", "GET")
"""What a drain asks beside its scripts."""
BROKERS = ("rabbitmq", "nats", "pusher")
"""Whose goal is not met."""
SPY = PEERS / "bin" / "py-spy"


def section(run: Run) -> None:
    """Accepting in batches, accepting one by one, draining to webhooks and to brokers."""
    count = 120_000 if run.full else 40_000
    with scene(0, 100) as here, house(here, web=1) as ours:
        web = ours.start(workers=False)[0]
        (child,) = psutil.Process(web.pid).children()
        names = list(here.tenants)
        ours.load(events(1_000, names, run="warm"), connections=8, batch=100)
        many = events(count, names, run="many")
        work = lambda: ours.load(many, connections=8, batch=100)  # noqa: E731
        _look(run, here, "accept, batches of 100", child.pid, WEB, count, work)
        single = events(count // 10, names, run="single")
        work = lambda: ours.load(single, connections=8)  # noqa: E731
        _look(run, here, "accept, one by one", child.pid, WEB, len(single), work)
    with scene(1, 100) as here, house(here) as ours:
        tenants = list(ours.tenants.values())
        worker = ours.start(web=False)[0]
        ours.stage.fill(tenants, 1_000, mix.bodies())
        here.receiver.wait_for(1_000, 60)
        worker.send_group(signal.SIGSTOP)
        ours.stage.fill(tenants, count // 2, mix.bodies())
        worker.send_group(signal.SIGCONT)
        _look(run, here, "drain", worker.pid, DRAIN, count // 2,
              lambda: here.receiver.wait_for(1_000 + count // 2, 120))  # fmt: skip
    for sink in BROKERS:
        _drain_to(run, sink, count // 4)


def _drain_to(run: Run, sink: str, count: int) -> None:
    with (
        tempfile.TemporaryDirectory() as name,
        start_of(sink)(Path(name)) as broker,
        scene(1, 1) as here,
        house(here, **broker.settings) as ours,
    ):
        tenants = ours.stage.tenants(100, sink, broker.subscription)
        data = mix.bodies(media=False)
        worker = ours.start(web=False)[0]

        def wait(n: int) -> None:
            wait_for(lambda: ours.stage.delivered(sink) >= n, 120, f"{n} events", 0.05)

        ours.stage.fill(tenants, 1_000, data)
        wait(1_000)
        worker.send_group(signal.SIGSTOP)
        ours.stage.fill(tenants, count, data)
        worker.send_group(signal.SIGCONT)
        _look(run, here, f"drain to {sink}", worker.pid, DRAIN, count, lambda: wait(1_000 + count))


def _look(
    run: Run,
    here: Scene,
    phase: str,
    pid: int,
    rules: Sequence[tuple[str, str]],
    count: int,
    work: Callable[[], object],
) -> None:
    raw = here.folder / "raw"
    client = redis.Redis(port=here.redis.port)
    client.config_set("slowlog-log-slower-than", 0)
    client.config_set("slowlog-max-len", 200_000)
    client.slowlog_reset()
    command = [str(SPY), "record", "--gil", "--nonblocking", "-r", "200", "-d", "600", "-f", "raw"]
    spy = subprocess.Popen(
        [*command, "-o", str(raw), "--pid", str(pid)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    time.sleep(1)
    before = cpu([pid])
    work()
    used = cpu([pid]) - before
    spy.send_signal(signal.SIGINT)
    _, error = spy.communicate(timeout=60)
    assert raw.exists(), error
    for stage, share in shares(raw, rules).items():
        run.row(HEADING, NAMES, phase, stage, share * used / count * 1e6)
    for name, micros in _scripts(client).items():
        if micros / count > 0.5:
            run.row(HEADING, NAMES, phase, f"Redis: {name}", micros / count)
    client.config_set("slowlog-log-slower-than", 10_000)
    client.close()


def shares(raw: Path, rules: Sequence[tuple[str, str]]) -> dict[str, float]:
    """Of all samples, by stage, in the order of the rules."""
    known = [(stage, re.compile(pattern)) for stage, pattern in rules]
    found: Counter[str] = Counter()
    for line in raw.read_text().splitlines():
        frames, _, count = line.rpartition(" ")
        found[_stage(frames.split(";"), known)] += int(count)
    total = found.total()
    return {stage: found[stage] / total for stage in [*dict(rules), "other"] if found[stage]}


def _stage(frames: Sequence[str], known: Sequence[tuple[str, re.Pattern[str]]]) -> str:
    stage = "other"
    for frame in frames:
        for name, pattern in known:
            if pattern.search(frame):
                stage = name
    return stage


def _scripts(client: redis.Redis) -> dict[str, float]:
    """Microseconds of each script and of reading entries; what scripts call is in the log too."""
    lua = Path(verbs.__file__).parent.glob("*.lua")
    names = {
        one.sha: one.name for one in map(verbs.script, (f.stem for f in lua if f.stem != "lib"))
    }
    found: Counter[str] = Counter()
    for entry in client.slowlog_get(200_000):
        words = entry["command"].split(b" ")
        word = (words[1] if words[0].upper() == b"EVALSHA" else words[0]).decode()
        if word in names or word in READS:
            found[names.get(word, word)] += entry["duration"]
    return dict(found)
