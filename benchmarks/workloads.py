"""Other shapes of traffic, end to end: web process, Redis, two workers, receiver, all on this
machine. There are no goals; these are the figures behind sizing."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import mix
from benchmarks.brokers import start_of
from benchmarks.latency import capacity, delays, matched, warm
from benchmarks.measures import Run
from benchmarks.mix import HISTORY, Event, events
from benchmarks.ours import House, house
from benchmarks.scene import cpu, percentile, scene
from benchmarks.stage import Tenant
from evoflask.dev.process import wait_for
from evoflask.dev.receiver import Receiver
from evoflask.outbox import totals

SHAPES = "Shapes of traffic, batches of 100, as fast as it goes"
NAMES = ("shape", "events/s", "ours CPU us", "Redis us", "receiver us", "receiver busy %")
FAIR = "Healthy tenants beside one dead and one slow of a hundred, ms from sending to arrival"
BURST = "Other tenants during a history burst, ms from sending to arrival"
DELAYS = ("what", "events/s", "p50", "p99", "max")


def section(run: Run) -> None:
    """All of them once a round."""
    count = 20_000 if run.full else 5_000
    for n in range(run.rounds if run.full else 1):
        for tenants in (1, 100, 10_000) if run.full else (1, 100):
            _shape(
                run, f"{tenants:,} instances", tenants, events(count, names(tenants), run=f"u{n}")
            )
        homes = mix.zipf(count, names(10_000 if run.full else 1_000))
        skewed = [
            replace(e, instance=h)
            for e, h in zip(events(count, ["x"], run=f"z{n}"), homes, strict=True)
        ]
        _shape(
            run,
            f"Zipf over {len(names(10_000 if run.full else 1_000)):,}",
            10_000 if run.full else 1_000,
            skewed,
        )
        _fairness(run)
        _burst(run)
        _six(run, count // 2)


def names(count: int) -> list[str]:
    """As a scene calls its tenants."""
    return [f"tenant{n}" for n in range(count)]


def _shape(run: Run, what: str, tenants: int, wanted: Sequence[Event]) -> None:
    with scene(2, tenants) as here, house(here) as ours:
        running = ours.start()
        warm(ours, events(1_000, list(here.tenants), run="warm"))
        groups = [[p.pid for p in running], [here.redis.process.pid], [here.receiver.pid]]
        here.receiver.control(record=True)
        came, before = here.receiver.count(), [cpu(group) for group in groups]
        sent = ours.load(wanted, connections=8, batch=100)
        here.receiver.wait_for(came + len(wanted), 300)
        used = [cpu(g) - b for g, b in zip(groups, before, strict=True)]
        seconds = max(one.at for one in here.receiver.take()) - min(sent.sent)
        micros = [u / len(wanted) * 1e6 for u in used]
        run.row(SHAPES, NAMES, what, len(wanted) / seconds, *micros, used[2] / seconds * 100)


def _quarter(ours: House, tenants: list[str]) -> float:
    """A fourth of what it delivers one by one once it is warm; its receiver records then."""
    warm(ours, events(2_000, tenants, run="warm"))
    ours.scene.receiver.control(record=True)
    return capacity(ours, events(3_000, tenants, run="top")) / 4


def _fairness(run: Run) -> None:
    """The same tenants and rate with all healthy, and with two that are not."""
    with scene(2, 100) as here, house(here) as ours:
        ours.start()
        everybody = list(here.tenants)
        rate = _quarter(ours, everybody)
        for what in ("all healthy", "one dead, one slow"):
            # The first two stop being healthy the second time.
            sick = everybody[:2] if what != "all healthy" else []
            wanted = events(int(rate * 10), everybody, run=f"fair{bool(sick)}")
            ill = {
                "tenant0": here.receiver.url("/reset"),
                "tenant1": here.receiver.url("/slow/20000"),
            }
            for name in sick:
                ours.point(name, ill[name])
            sound = [e for e in wanted if e.instance not in sick]
            here.receiver.take()
            sent = ours.load(wanted, connections=16, rate=rate)
            got: dict[str, float] = {}
            wait_for(lambda: _all_of(sound, got, here.receiver), 60, "the healthy ones", 0.2)  # noqa: B023
            took = matched(wanted, sent, "due", {e.id: 0.0 for e in wanted} | got)
            some = [took[e.id] for e in sound]
            run.row(
                FAIR, DELAYS, what, rate, percentile(some, 0.5), percentile(some, 0.99), max(some)
            )


def _all_of(wanted: Sequence[Event], got: dict[str, float], receiver: Receiver) -> bool:
    """Whether all of them arrived, with what has come since it was asked last."""
    got |= {x.id: x.at for x in receiver.take()}
    return all(e.id in got for e in wanted)


def _burst(run: Run) -> None:
    """One phone is connected: a hundred events of 804 kB. What the others notice."""
    with scene(2, 100) as here, house(here) as ours:
        ours.start()
        names_ = list(here.tenants)
        rate = _quarter(ours, names_)
        for what in ("before", "during"):
            wanted = events(int(rate * 8), names_[1:], run=what)
            if what == "during":
                history = [
                    Event("tenant0", HISTORY.event, f"h{k}", mix.data(HISTORY, k))
                    for k in range(100)
                ]
                step = len(wanted) // 100
                wanted = [
                    e for k in range(100) for e in (history[k], *wanted[k * step : k * step + step])
                ]
            took = delays(ours, wanted, rate, "due")
            some = [ms for ms, e in zip(took, wanted, strict=True) if e.name != HISTORY.event]
            run.row(
                BURST, DELAYS, what, rate, percentile(some, 0.5), percentile(some, 0.99), max(some)
            )


SINKS = ("rabbitmq", "nats", "sqs", "pusher")
SIX = "All sinks at once, drained by two workers"


def _six(run: Run, count: int) -> None:
    """Twenty instances of each of the five that need no client, all waiting, until all are done."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        brokers = {}
        for sink in SINKS:
            (folder / sink).mkdir()
            brokers[sink] = stack.enter_context(start_of(sink)(folder / sink))
        here = stack.enter_context(scene(2, 20))
        changes: dict[str, Any] = {}
        for broker in brokers.values():
            changes |= broker.settings
        ours: House = stack.enter_context(house(here, **changes))
        tenants: list[Tenant] = list(ours.tenants.values())
        for sink, broker in brokers.items():
            tenants += ours.stage.tenants(20, sink, broker.subscription)
        ours.stage.fill(tenants, count, mix.bodies(media=False))
        running = ours.start(web=False)
        pids = [p.pid for p in running]
        before = cpu(pids)
        everything = ["webhook", *SINKS]

        def done() -> dict[str, int]:
            found = totals.read(ours.stage.outbox, everything, 1)
            return {sink: found.of(sink, "delivered") for sink in everything}

        began = time.perf_counter()
        wait_for(lambda: sum(done().values()) >= count, 300, "all of them", 0.05)
        seconds = time.perf_counter() - began
        run.row(SIX, ("events", "events/s with their start", "ours CPU us", *everything), count,
                count / seconds, (cpu(pids) - before) / count * 1e6, *done().values())  # fmt: skip
