"""A long run: half of what the machine can do, a kill every ten seconds, and a ledger beside it.

    make soak                                   half an hour
    SOAK_SECONDS=120 make soak

A whole house (two web processes, two workers, two clocks, one Redis) delivers the events of
some tenants to a receiver of ours. One of each kind, and Redis, are killed at random and
started again; the others live through the whole run, and it is their memory that must be
flat. What was accepted is counted here, outside the product: every event arrives, those of a
conversation in their order, and what a destination refuses for good is a letter. In the end
the books must agree with that. Prints a report; exits 1 where something is wrong.
"""

from __future__ import annotations

import contextlib
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import redis

from evoflask.dev.process import wait_for
from evoflask.dev.receiver import Received, Receiver
from tests.system.house import Client, House, Name, Threads, message

TENANTS, CHATS, BATCH, EMITTERS = 20, 8, 10, 4
TEXT = "x" * 900
"""Makes an event of about a kilobyte."""
GONE = TENANTS - 1
"""The tenant whose receiver says no for good, so that all its events become letters; it emits
once in `GONE_EVERY` rounds."""
GONE_EVERY = 10
KILL_SECONDS = 10.0
RETAIN, REMEMBER = 15, 60
"""Seconds of retention, and for which ids are remembered, which is longer than anybody has to
repeat an emit: what Redis keeps of delivered events must soon have reached its level."""
VICTIMS: tuple[Name, ...] = (("web", 0), ("worker", 0), ("clock", 0), ("redis", 0))
SURVIVORS: tuple[Name, ...] = (("web", 1), ("worker", 1), ("clock", 1))
GROWTH = 16 * 1024 * 1024
"""Bytes by which the median of the last quarter may be above that of the second: the noise of
an allocator, and of half an hour at a thousand events a second a dozen bytes an event."""


@dataclass
class Tenant:
    """What was accepted of one, and what arrived. Its events are numbered from 0."""

    name: str
    path: str
    accepted: int = 0
    arrived: bytearray = field(default_factory=bytearray)
    """For each number whether it arrived."""
    repeats: int = 0
    disorder: int = 0
    last: dict[int, int] = field(default_factory=dict)
    """The largest number of each conversation that arrived."""

    def arrive(self, n: int) -> None:
        """Notes an arrival."""
        if n >= len(self.arrived):
            self.arrived.extend(bytes(n + 1 - len(self.arrived)))
        if self.arrived[n]:
            self.repeats += 1
            return
        self.arrived[n] = 1
        chat = n % CHATS
        self.disorder += n < self.last.get(chat, -1)
        self.last[chat] = max(n, self.last.get(chat, -1))

    @property
    def missing(self) -> int:
        """How many were accepted and did not arrive."""
        return self.accepted - sum(self.arrived[: self.accepted])

    @property
    def unknown(self) -> int:
        """How many arrived that nobody emitted."""
        return sum(self.arrived[self.accepted :])


@dataclass
class Report:
    """What a run saw. Seconds, bytes, events a second."""

    measured: float = 0.0
    rate: float = 0.0
    seconds: float = 0.0
    accepted: int = 0
    letters: int = 0
    repeats: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    memory: dict[str, list[int]] = field(default_factory=dict)
    """Each second of the paced part, by process."""
    wrong: list[str] = field(default_factory=list)

    def growth(self, name: str) -> int:
        """Of the last quarter over the second one."""
        early, late = self._quarters(name)
        return late - early

    def text(self) -> str:
        """For a person."""
        rows = [
            f"measured {self.measured:,.0f} events/s; {self.rate:,.0f}/s for {self.seconds:,.0f} s",
            f"{self.accepted:,} accepted, {self.letters:,} of them letters, "
            f"{self.repeats:,} repeats",
            "kills: " + ", ".join(f"{kind} {n}" for kind, n in sorted(self.kills.items())),
            f"{'memory, MB':14}{'second quarter':>16}{'last quarter':>14}{'peak':>8}",
        ]
        for name, samples in self.memory.items():
            early, late = self._quarters(name)
            sizes = (early / 1e6, late / 1e6, max(samples) / 1e6)
            rows.append("{:14}{:16.1f}{:14.1f}{:8.1f}".format(name, *sizes))
        rows += [f"WRONG: {each}" for each in self.wrong] or ["nothing lost, the books balance"]
        return "\n".join(rows)

    def _quarters(self, name: str) -> tuple[int, int]:
        samples = self.memory[name]
        quarter = max(1, len(samples) // 4)
        second, last = samples[quarter : 2 * quarter] or samples, samples[-quarter:]
        return int(statistics.median(second)), int(statistics.median(last))


class Soak:
    """One run in a house and with a receiver of its own."""

    def __init__(self, house: House, receiver: Receiver, seed: int) -> None:
        self._house = house
        self._receiver = receiver
        self._luck = random.Random(seed)
        self._end = threading.Event()
        self.report = Report()
        self.tenants = [Tenant(f"t{n}", f"/t{n}") for n in range(TENANTS)]
        self.tenants[GONE].path = f"/status/410/t{GONE}"
        self._by_name = {tenant.name: tenant for tenant in self.tenants}

    def run(self, seconds: float) -> Report:
        """`seconds`: all of it but the end, when everything must come to rest."""
        client = self._house.client()
        for tenant in self.tenants:
            client.create(tenant.name)
            client.set_webhook(tenant.name, self._receiver.url(tenant.path))
        warm = min(10.0, seconds / 8)
        self.report.measured = self._measure(warm)
        self.report.rate = self.report.measured / 2
        began = time.monotonic()
        with self._emitting(self.report.rate):
            self._watch(began + seconds - warm)
        self.report.seconds = time.monotonic() - began
        self._settle()
        self._judge()
        return self.report

    # -- the load ----------------------------------------------------------------------------

    def _measure(self, seconds: float) -> float:
        """Events a second from the first emit to the last arrival, as fast as it goes."""
        began = time.monotonic()
        with self._emitting(float("inf")):
            self._ticks(began + seconds, lambda: None)
        self._rest()
        return sum(tenant.accepted for tenant in self.tenants) / (time.monotonic() - began)

    @contextlib.contextmanager
    def _emitting(self, rate: float) -> Iterator[None]:
        self._end.clear()
        shares = [self.tenants[n::EMITTERS] for n in range(EMITTERS)]
        emitters = Threads([lambda s=s: self._emit(s, rate / EMITTERS) for s in shares])
        try:
            yield
        finally:
            self._end.set()
            emitters.join()

    def _emit(self, share: Sequence[Tenant], rate: float) -> None:
        """Batch after batch by a schedule; what an outage delayed is caught up with."""
        client, began, sent, rounds = self._house.client(), time.monotonic(), 0, 0
        while True:
            for tenant in share:
                if tenant is self.tenants[GONE] and rounds % GONE_EVERY:
                    continue
                if self._end.wait(max(0.0, began + sent / rate - time.monotonic())):
                    return
                self._batch(client, tenant)
                sent += BATCH
            rounds += 1

    def _batch(self, client: Client, tenant: Tenant) -> None:
        """Again and again by the same ids, until all of it is accepted."""
        first = tenant.accepted
        left = [
            {
                "event": "MESSAGES_UPSERT",
                "id": f"{tenant.name}-{n}",
                "data": message(n, f"chat{n % CHATS}", text=TEXT),
            }
            for n in range(first, first + BATCH)
        ]
        while left:
            answer = client.insist(f"/event/emit/{tenant.name}", left)
            left = left[len(answer.json()["results"]) :]
        tenant.accepted = first + BATCH

    # -- what happens beside it --------------------------------------------------------------

    def _watch(self, end: float) -> None:
        """Until `end` (monotonic): samples memory, kills."""
        next_kill = time.monotonic() + KILL_SECONDS

        def look() -> None:
            nonlocal next_kill
            self._sample()
            if time.monotonic() >= next_kill:
                self._kill()
                next_kill += KILL_SECONDS

        self._ticks(end, look)

    def _ticks(self, end: float, work: Callable[[], None]) -> None:
        """Each second, what arrived is taken from the receiver and `work` is done."""
        pause = threading.Event()
        while (now := time.monotonic()) < end:
            self._take()
            work()
            pause.wait(max(0.0, min(end, now + 1) - time.monotonic()))

    def _kill(self) -> None:
        kind, n = self._luck.choice(VICTIMS)
        self.report.kills[kind] += 1
        if kind == "redis":
            self._house.redis.kill9()
            self._house.redis.start()
        else:
            self._house.kill9(kind, n)
        for name in self._house.revive():
            if name != (kind, n):
                self.report.wrong.append(f"{name} had ended by itself")

    def _sample(self) -> None:
        for kind, n in SURVIVORS:
            self._note(f"{kind} {n}", tree_rss(self._house.process(kind, n).pid))
        with contextlib.suppress(redis.RedisError):
            self._note("redis", int(self._house.raw.info("memory")["used_memory"]))

    def _note(self, name: str, size: int) -> None:
        self.report.memory.setdefault(name, []).append(size)

    def _take(self) -> None:
        for one in self._receiver.take():
            self._arrive(one)

    def _arrive(self, one: Received) -> None:
        name, _, n = one.id.partition("-")
        tenant = self._by_name[name]
        if one.path == tenant.path:
            tenant.arrive(int(n))
        else:
            self.report.wrong.append(f"{one.id} arrived at {one.path}")

    # -- the end -----------------------------------------------------------------------------

    def _rest(self) -> None:
        """Until everything came to its end."""

        def rests() -> bool:
            self._take()
            return not self._house.unsettled()

        wait_for(rests, 120, "the lanes to be empty", 0.1)
        self._take()

    def _settle(self) -> None:
        self._house.revive()
        wait_for(self._house.answers, 30, "the web process to answer")
        self._rest()

    def _judge(self) -> None:
        report, wrong = self.report, self.report.wrong
        report.accepted = sum(tenant.accepted for tenant in self.tenants)
        report.repeats = sum(tenant.repeats for tenant in self.tenants)
        for tenant in self.tenants:
            for what in ("missing", "unknown", "disorder"):
                if count := getattr(tenant, what):
                    wrong.append(f"{tenant.name}: {count} {what}")
            kind = "dead" if tenant is self.tenants[GONE] else "delivered"
            booked = self._house.lane(tenant.name).count(kind)
            if booked != tenant.accepted:
                wrong.append(f"{tenant.name}: {tenant.accepted} accepted, {booked} {kind}")
        self._judge_letters()
        wrong += [f"lane {lane} is off by {by}" for lane, by in self._house.off().items()]
        status, said = self._house.audit()
        if status:
            wrong.append(f"the audit: {said}")
        for name in report.memory:
            if (growth := report.growth(name)) > GROWTH:
                wrong.append(f"{name} grew by {growth / 1e6:.1f} MB")

    def _judge_letters(self) -> None:
        gone = self.tenants[GONE]
        ids = [row[0] for row in self._house.query("SELECT event_id FROM dead_letter")]
        self.report.letters = len(ids)
        if Counter(ids) != Counter(f"{gone.name}-{n}" for n in range(gone.accepted)):
            self.report.wrong.append(f"{len(ids)} letters for {gone.accepted} events given up")


def tree_rss(pid: int) -> int:
    """Bytes of a process and of those that it started."""
    process = psutil.Process(pid)
    return sum(rss(each) for each in (process, *process.children(recursive=True)))


def rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def soak(folder: Path, seconds: float, seed: int) -> Report:
    """A run of about `seconds`, its servers' data in `folder`."""
    with (
        Receiver() as receiver,
        House(
            folder,
            web=2,
            workers=2,
            clocks=2,
            idempotency_seconds=REMEMBER,
            outbox_retain_seconds=RETAIN,
        ) as house,
    ):
        try:
            return Soak(house, receiver, seed).run(seconds)
        except BaseException:
            print(house.tail())
            raise


def main() -> int:
    """The exit status."""
    seconds = float(os.environ.get("SOAK_SECONDS", "1800"))
    seed = int(os.environ.get("SOAK_SEED", str(random.randrange(10_000))))
    print(f"{seconds:g} s, seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="evoflask-soak-") as folder:
        report = soak(Path(folder), seconds, seed)
    print(report.text())
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
