"""The drain: one event loop that empties lanes, of every sink that its worker serves.

Four loops share its state, each woken by an event of its own and none waiting for another:
the taker asks for lanes that are due, the reader fetches bodies, `_start` puts deliveries
under way in turns, the settler tells Redis how they ended, all lanes in one round trip.
Redis is the truth throughout: what is in here can be lost at any moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import random
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import orjson
import redis

from evoflask import bell, collector, db, sinks, traces
from evoflask.configuration import LaneSettings
from evoflask.delivery import breaker, outcomes, sharing
from evoflask.delivery.admission import Admission, Taken
from evoflask.delivery.attempts import EVERY, Attempts
from evoflask.delivery.chores import Chores
from evoflask.delivery.held import Lane, Load, Policies, Standing, Station
from evoflask.delivery.holds import Hold, Renewer
from evoflask.delivery.lanes import Item
from evoflask.delivery.reads import FEW, Reads, Wanted
from evoflask.delivery.retry import Policy
from evoflask.delivery.slots import Slot
from evoflask.delivery.trials import Trials
from evoflask.errors import DatabaseDown, Unavailable
from evoflask.ids import random_id
from evoflask.log import Bounded, Repeats
from evoflask.outbox import AsyncOutbox, Ended, Settled, Want, connect_async, verbs
from evoflask.outbox.members import at_of
from evoflask.outbox.verbs import Call
from evoflask.plurals import counted
from evoflask.settings import Settings
from evoflask.sinks.base import Attempt, Delivery, Outcome

log = logging.getLogger(__name__)

LANES = 64
"""Lanes that one take asks for."""
TURNS = 128
"""Lanes waiting for a turn, of the proven ones, above which no more are taken."""
HELD = 8000
"""Lanes held at most."""
POLL = 0.25
"""Seconds between looks at `due` when nothing told of anything."""
TICK = 0.05
"""Seconds between looks at what has become old: slots, outcomes that wait to be settled."""
REST = 5.0
"""Seconds that a drain without a job and without a lane rests. Whatever comes for it rings."""
ROUND = 0.5
"""Seconds in which each held lane is looked at once."""
AGAIN = 1.0
"""Seconds after which a lane that ran out of ids, and is still held, asks again (for retries)."""
ORDER = (Standing.QUICK, Standing.UNPROVEN, Standing.SLOW)
"""Who is started first. Of the unproven a few are; the slow, who share their room, could take all
of it."""
LEFT = 0.875
"""The share of that room which the slow may fill."""
ABREAST = 2
"""Deliveries of unproven lanes that are started in one turn of the loop. A thousand at once
(whose time-outs then also come at once) would keep the proven ones waiting for half a second."""
CROWD = 64
PACE = 0.016
"""Above so many under way in their room, slow lanes' among them, so many seconds pass between two
such turns: what begins a little later here is no loss, and the loop has air."""
SETTLE_AT = 32
"""Outcomes of a lane that are settled without waiting for more."""
SETTLE_AFTER = 0.05
"""Seconds that an outcome waits for others of its lane."""
SETTLE_MANY = 64
"""Lanes settled in one round trip."""
ASLEEP = 0.5
"""Seconds that a job may take to end after everything it delivers has ended."""
AWAKE = 4.0
"""Seconds for which `awake` holds; told every second."""
SHY = 2 * POLL
"""Seconds for which a drain that gave lanes back takes none, so that another one does."""
MARGIN = 0.2
"""Seconds before a hold's end at which nothing more is started."""


class Drain:
    """All methods are for the loop that `start` ran on."""

    def __init__(
        self,
        settings: Settings,
        served: Sequence[str],
        *,
        alone: bool = False,
        chores: bool = True,
    ) -> None:
        self._settings = settings
        self._served = list(served)
        self._alone = alone
        """Serve quarantined lanes only: one lane, one entry at a time."""
        self._stands_in = chores and not alone
        """Do the clock's chores where nobody does."""
        self._policy = Policy(
            settings.retry_schedule, settings.retry_jitter, settings.retry_after_cap
        )
        self._stations: dict[str, Station] = {}
        self._lanes: dict[str, Lane] = {}
        self._partitions = list(range(settings.outbox_partitions))
        self._nudge = asyncio.Event()
        self._roused = asyncio.Event()
        """Set by a job and by a lane, which may outlive its job: the rest is over."""
        self._read = asyncio.Event()
        self._settle = asyncio.Event()
        self._reads = Reads()
        self._to_settle: deque[Lane] = deque()
        self._unsettled: deque[Lane] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flights: set[asyncio.Task[None]] = set()
        self._round: list[Lane] = []
        """Held lanes that were not looked at in this round."""
        self._round_piece = 0
        self._looked = 0.0
        """When the taker was last told to look though nobody told of anything."""
        self._turn = 0.0
        """When this turn of the loop put the first delivery under way; 0: it did not yet."""
        self._jobs = 0
        self._name = random_id()
        """By which the other drains know this one."""
        self._shy_until = 0.0
        self._stopping = False
        self._worked = 0.0
        self._offset = 0.0
        """Redis' clock minus our monotonic one, seconds: ours may be set meanwhile."""
        self._chores: Chores | None = None
        self._chore: Future[None] | None = None
        self._child: asyncio.subprocess.Process | None = None
        self._attempts = Attempts(settings.attempts_log)
        self._failures = Repeats(log, expected=(Unavailable,))
        self._ailing: set[str] = set()
        """Loops whose last turn failed."""
        self._failed = Bounded(log, logging.DEBUG, "an attempt failed")

    # -- life --------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connects and begins to listen; takes nothing before `drain_until_quiet`."""
        db.connect(self._settings)
        collector.tune()
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="rows")
        self._chore_thread = ThreadPoolExecutor(1, thread_name_prefix="chores")
        self._outbox = AsyncOutbox(connect_async(self._settings.redis_url))
        await self._find_partitions()
        self._stations = {
            name: Station(name, sinks.load(name)(self._settings), self._settings)
            for name in self._served
        }
        sinks_ = {name: station.sink for name, station in self._stations.items()}
        self._renewer = Renewer(
            self._settings.redis_url,
            self._settings.hold_seconds,
            self._on_lost_in_thread,
        )
        self._renewer.start()
        self._admission = Admission(
            self._outbox,
            self._threads,
            self._renewer,
            self._failures,
            begin=self._begin,
            has_room=self._has_room,
            background=self._background,
            now=lambda: time.monotonic() + self._offset,
        )
        self._trials = Trials(self._outbox, {} if self._alone else sinks_, self._admission.read)
        loops = [self._take_loop, self._read_loop, self._settle_loop, self._tick_loop]
        loops += [self._listen_loop, self._second_loop, self._log_loop, self._trial_loop]
        loops.append(self._admission.let_newcomers_in)
        for run in loops:
            self._tasks.add(self._loop.create_task(self._forever(run)))

    async def drain_until_quiet(
        self,
        max_seconds: float,
        quiet_seconds: float,
        others: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """Works until nothing was due for `quiet_seconds`, at most `max_seconds`; then rings
        for what is left. `others`: when whoever shall go to sleep with it last worked."""
        until = time.monotonic() + max_seconds
        self._jobs += 1
        self._roused.set()
        self._worked = time.monotonic()
        try:
            await self._outbox.awake(self._partitions, self._served, AWAKE)
            self._nudge.set()
            while not self._stopping and time.monotonic() < until:
                if time.monotonic() - max(self._worked, others()) > quiet_seconds:
                    break
                await asyncio.sleep(0.1)
        finally:
            self._jobs -= 1
            if not self._jobs:
                await self._fall_asleep()

    @property
    def worked(self) -> float:
        """When it last had something to do, by the monotonic clock. From any thread."""
        return self._worked

    async def stop(self, grace: float) -> None:
        """Starts nothing more; finishes what is under way or, after `grace` seconds, leaves
        it on its lane."""
        self._stopping = True
        end = time.monotonic() + grace
        for lane in list(self._lanes.values()):
            self._give_back(lane)
        # Newcomers that still wait have room now: they begin stopped, and are given back.
        await _until(lambda: not self._lanes and not self._admission.waiting, end)
        await self._trials.close(max(0.0, end - time.monotonic()))
        # A job that ends rings for what is left, over what is about to be closed.
        await _until(lambda: not self._jobs, max(end, time.monotonic() + ASLEEP))
        await self._log_last()
        await _end_tasks({*self._tasks, *self._flights})
        if self._child and self._child.returncode is None:
            self._child.terminate()
            await self._child.wait()
        self._renewer.close()
        for station in self._stations.values():
            await station.sink.close()
        await self._outbox.redis.aclose()
        for pool in (self._threads, self._chore_thread):
            pool.shutdown(wait=False, cancel_futures=True)

    async def _forever(self, run: Callable[[], Awaitable[None]]) -> None:
        """Run a loop again and again, also after an error."""
        loop = run.__name__.strip("_")
        while True:
            try:
                await run()
            except Exception as error:
                self._ailing.add(loop)
                away = isinstance(error, Unavailable)  # the same for all loops
                self._failures.tell(f"{'the drain' if away else loop} failed", error)
                await asyncio.sleep(0.2 + 0.3 * random.random())
            else:
                if loop in self._ailing:
                    self._ailing.discard(loop)
                    if not self._ailing:
                        self._failures.over("the drain goes on")

    async def _fall_asleep(self) -> None:
        """Erase `awake`, look once more, and ring if anything is left."""
        if self._alone:
            return
        try:
            await self._outbox.awake(self._partitions, self._served, 0)
            for sink in self._served:
                await self._outbox.run(self._lanes_told(sink, 0, 0))
            for partition in self._partitions:
                for sink in await self._outbox.run(verbs.ring(partition, self._served)):
                    await self._loop.run_in_executor(self._threads, self._ring, sink)
        except Unavailable as error:
            self._failures.tell("no bell before sleep, the clock will ring", error)

    def _ring(self, sink: str, pending: int = bell.PENDING) -> None:
        with bell.connect(self._settings.rq_redis_url) as connection:
            bell.ring(connection, sink, pending)

    async def _find_partitions(self) -> None:
        known = set(await self._outbox.partitions()) | set(range(self._settings.outbox_partitions))
        self._partitions = sorted(known)

    # -- taking ------------------------------------------------------------------------------

    async def _take_loop(self) -> None:
        await self._nudge.wait()  # the tick sees to it that this is not for long
        self._nudge.clear()
        asked = [(s, p) for s in self._stations.values() for p in self._partitions]
        while asked := [(s, p) for s, p in asked if self._may_take(s)][
            : 1 if self._alone else None
        ]:
            # All in one round trip: a sink's lone event does not wait for the others' takes.
            counts = await self._take_many(asked)
            full = 1 if self._alone else LANES
            asked = [each for each, n in zip(asked, counts, strict=True) if n >= full]

    def _may_take(self, station: Station) -> bool:
        if not self._jobs or self._stopping or time.monotonic() < self._shy_until:
            return False
        if self._alone:
            return not self._lanes and not self._admission.waiting
        quick = Standing.QUICK
        proven = len(station.turns[quick]) + self._reads.waiting(quick)
        return proven < TURNS and len(self._lanes) + self._admission.waiting < HELD

    async def _take_many(self, asked: Sequence[tuple[Station, int]]) -> list[int]:
        """How many lanes each of (sink, partition) gave. Raises the first error; lanes that
        others gave meanwhile have begun."""
        seconds = self._settings.hold_seconds
        before = time.monotonic()
        calls = [
            verbs.take(
                partition,
                station.name,
                random_id(),
                hold=seconds,
                lanes=1 if self._alone else LANES,
                ids=256,
                alone=self._alone,
            )
            for station, partition in asked
        ]
        answers = await self._outbox.run_many(calls)
        counts = []
        errors: list[Exception] = []
        for (station, _), taken in zip(asked, answers, strict=True):
            if isinstance(taken, Exception):
                errors.append(taken)
                counts.append(0)
                continue
            self._offset = taken.now - time.monotonic()
            if taken.lanes:
                self._worked = time.monotonic()
                self._admission.admit(station, taken.lanes, before + seconds)
            counts.append(len(taken.lanes))
        if errors:
            raise errors[0]
        return counts

    def _begin(self, taken: Taken, settings: LaneSettings) -> None:
        held, station = taken.held, taken.station
        lane = Lane(held, settings, self._policies_of(settings), station, taken.hold)
        if self._alone:
            lane.work.exhausted = True
        self._lanes[held.lane] = lane
        self._roused.set()
        if self._stopping:
            lane.halted = lane.work.stopping = True
        if taken.told:
            self._on_told(lane, anew=taken.anew)
        self._consider(lane)

    def _on_told(self, lane: Lane, *, anew: bool) -> None:
        if anew:  # skipped or purged: nothing of it that was in hand is to be started
            self._drop_unstarted(lane)
        lane.work.exhausted = False

    def _policies_of(self, settings: LaneSettings) -> Policies:
        if settings.retry is None:
            return Policies(self._policy, self._policy)
        own = Policy(settings.retry, self._policy.jitter, self._policy.retry_after_cap)
        return Policies(own, own if own.schedule else self._policy)

    def _has_room(self, station: Station) -> bool:
        """For newcomers: as many as stand before them are at hand soon."""
        unproven = Standing.UNPROVEN
        return max(self._reads.waiting(unproven), len(station.turns[unproven])) < FEW

    async def _listen_loop(self) -> None:
        partitions = self._partitions
        deaf = True
        async for lane_id, anew in self._outbox.listen(partitions, self._served):
            if deaf:  # what was told before is looked for
                deaf = False
                self._trials.nudge()
            lane = self._lanes.get(lane_id)
            if lane is not None:
                self._on_told(lane, anew=anew)
                self._consider(lane)
            elif lane_id == verbs.TRIAL:
                self._trials.nudge()
            elif not self._admission.tell(lane_id, anew=anew):
                self._nudge.set()
            if self._partitions != partitions:
                return

    async def _trial_loop(self) -> None:
        await self._trials.look(self._partitions)

    # -- reading -----------------------------------------------------------------------------

    async def _read_loop(self) -> None:
        await self._read.wait()
        self._read.clear()
        while batch := self._collect():
            try:
                await self._fetch(batch)
            except BaseException:
                for lane, item, slot in batch:
                    item.reading = False
                    lane.loaded -= 1
                    lane.station.slots.release(slot)
                    self._want_read(lane)
                raise

    def _want_read(self, lane: Lane) -> None:
        if self._reads.add(lane):
            self._read.set()

    def _collect(self) -> list[Wanted]:
        batch, crowded = self._reads.collect()
        for lane in crowded:
            self._drop_unstarted(lane)
            self._consider(lane)
        return batch

    async def _fetch(self, batch: list[Wanted]) -> None:
        by_lane: dict[Lane, list[str]] = {}
        for lane, item, _ in batch:
            by_lane.setdefault(lane, []).append(item.entry)
        rows = await self._outbox.read_entries(
            [
                (lane.held.partition, lane.held.outbox, sorted(ids, key=_in_order))
                for lane, ids in by_lane.items()
            ]
        )
        found = dict(zip(by_lane, rows, strict=True))
        for lane, item, slot in batch:
            item.reading = False
            if item.dropped or lane.gone:
                lane.loaded -= 1
                self._release(lane, slot)
                continue
            fields = found[lane].get(item.entry)
            item.load = Load(None if fields is None else _delivery(lane, item, fields), slot)
        for lane in by_lane:
            self._consider(lane)

    def _release(self, lane: Lane, slot: Slot) -> None:
        lane.station.slots.release(slot)
        if self._reads:
            self._read.set()

    # -- delivering --------------------------------------------------------------------------

    def _consider(self, lane: Lane) -> None:
        """Something about the lane changed: give it its turns, its reads and its settling."""
        if lane.gone:
            return
        work = lane.work
        if not work.stopping:
            ready = lane.turning or work.ready
            if ready and not lane.turning:
                lane.turning = True
                lane.station.turns[lane.standing].append(lane)
            # In pieces, but never so that what could start waits for a piece to be used up.
            if work.unstarted > lane.loaded and (not ready or lane.loaded <= lane.ahead // 2):
                self._want_read(lane)
        if not lane.queued and self._should_settle(lane):
            self._queue_settle(lane)
        self._start(lane.station)

    def _start(self, station: Station) -> None:
        """Put deliveries under way; those that can share a call at the end of this turn of
        the loop, when all that ended in it has made room."""
        if station.sink.batch_size == 1:
            self._put_under_way(station)
        elif not station.gathering:
            station.gathering = True
            self._loop.call_soon(self._put_under_way, station)

    def _put_under_way(self, station: Station) -> None:
        """A lane a turn, by their standing."""
        station.gathering = False
        now = time.monotonic()
        self._begin_turn(now)
        batches: dict[Hashable, list[tuple[Lane, Item]]] = {}
        for standing in ORDER:
            turns = station.turns[standing]
            while turns and _may_start(station, standing):
                if not station.pace.go():
                    break
                lane = turns.popleft()
                if lane.standing is not standing:
                    station.turns[lane.standing].append(lane)
                    self._loop.call_soon(self._start, station)
                    continue
                item = self._next(lane, now)
                if item is None:
                    lane.turning = False
                    continue
                turns.append(lane)
                lane.loaded -= 1
                load = item.load
                assert isinstance(load, Load)
                station.slots.run(load.slot, lane, standing is Standing.QUICK, now)
                if standing is Standing.UNPROVEN:
                    self._count_start(station)
                if not self._unsendable(lane, item, load):
                    self._add(station, batches, lane, item)
        for batch in batches.values():
            self._launch(station, batch)
        self._call_more_unproven(station)

    def _call_more_unproven(self, station: Station) -> None:
        """Those that were started left room to read others, and to let newcomers in."""
        if len(station.turns[Standing.UNPROVEN]) < FEW and self._reads.waiting(Standing.UNPROVEN):
            self._read.set()
        self._admission.more()

    def _add(
        self,
        station: Station,
        batches: dict[Hashable, list[tuple[Lane, Item]]],
        lane: Lane,
        item: Item,
    ) -> None:
        """To the call that it can share; a full one goes."""
        if station.sink.batch_size == 1:
            self._launch(station, [(lane, item)])
            return
        delivery = item.load.delivery  # type: ignore[attr-defined]
        key = station.sink.batch_key(delivery.target)
        batch = batches.setdefault(key, [])
        batch.append((lane, item))
        if len(batch) >= station.sink.batch_size:
            self._launch(station, batches.pop(key))

    def _begin_turn(self, now: float) -> None:
        """Measure this turn of the loop: it ends when everything that was ready has had its."""
        if not self._turn:
            self._turn = now
            self._loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        seconds, self._turn = time.monotonic() - self._turn, 0.0
        for station in self._stations.values():
            if station.pace.over(seconds):
                self._start(station)

    def _count_start(self, station: Station) -> None:
        if not station.started:
            crowded = station.slots.unproven.count > CROWD
            self._loop.call_later(PACE if crowded else 0, self._start_more, station)
        station.started += 1

    def _start_more(self, station: Station) -> None:
        station.started = 0
        self._start(station)

    def _next(self, lane: Lane, now: float) -> Item | None:
        if lane.gone or lane.stale or lane.work.stopping or now > lane.hold.end - MARGIN:
            return None
        return lane.work.start()

    def _unsendable(self, lane: Lane, item: Item, load: Load) -> bool:
        """What must not be tried is given up, as what it is."""
        age = time.monotonic() + self._offset - at_of(item.member)
        if load.delivery is None:
            gone = "the entry is not on the outbox"
            ended = outcomes.given_up(item, "missing", "", gone, tried=False)
        elif age > self._settings.lane_backlog_seconds:
            limit = f"waited longer than {counted(self._settings.lane_backlog_seconds, 'second')}"
            ended = outcomes.given_up(item, "expired", "", limit, tried=False)
        else:
            return False
        self._loop.call_soon(self._close, lane, item, ended)
        return True

    def _launch(self, station: Station, batch: list[tuple[Lane, Item]]) -> None:
        self._worked = time.monotonic()
        if station.flight_free:
            station.flight_free, station.next_batch = False, batch
            return
        task = self._loop.create_task(self._fly(station, batch))
        self._flights.add(task)
        task.add_done_callback(self._flights.discard)

    async def _fly(self, station: Station, first: list[tuple[Lane, Item]]) -> None:
        """One delivery after another, as long as its end starts the next one."""
        batch: list[tuple[Lane, Item]] | None = first
        while batch:
            began = time.monotonic()
            at = began + self._offset
            attempts = await self._deliver(station, batch)
            station.flight_free, seconds = True, time.monotonic() - began
            if traces.on():
                _trace(batch, attempts, seconds)
            for (lane, item), attempt in zip(batch, attempts, strict=True):
                self._attempts.note(lane, item, attempt, at, seconds)
                self._ended(lane, item, attempt)
            batch, station.next_batch = station.next_batch, None
            station.flight_free = False

    async def _deliver(self, station: Station, batch: list[tuple[Lane, Item]]) -> Sequence[Attempt]:
        deliveries = [item.load.delivery for _, item in batch]  # type: ignore[attr-defined]
        try:
            if self._alone:
                await self._mark(*batch[0])
            return await station.sink.deliver(deliveries)
        except Exception as error:
            log.exception("a sink raised")
            word = type(error).__name__
            return [Attempt(Outcome.AMBIGUOUS, "bug", f"the sink raised {word}")] * len(batch)

    async def _mark(self, lane: Lane, item: Item) -> None:
        """On a lane in quarantine: say which entry is about to start, so that a crash is
        blamed on it and on none that was not started."""
        await self._outbox.run(
            verbs.settle(
                lane.held.partition,
                lane.held.lane,
                lane.held.token,
                [],
                hold=self._settings.hold_seconds,
                want=Want(mark=item.member),
            )
        )

    def _ended(self, lane: Lane, item: Item, attempt: Attempt) -> None:
        now = time.monotonic() + self._offset
        outcomes.count(lane.totals, lane.station.name, attempt, now - at_of(item.member))
        if attempt.outcome is not Outcome.DELIVERED and lane.changed_since(item):
            # What the old destination said means nothing for the one that there is now.
            ended = Ended("r", item.member, item.tries + 1, tried=False)
        else:
            lane.note(item, attempt, now=now, threshold=self._settings.breaker_threshold)
            ended = outcomes.conclude(item, attempt, lane.policies.retries, luck=random.random())
        if attempt.outcome is not Outcome.DELIVERED:
            delivery = item.load.delivery  # type: ignore[attr-defined]
            self._failed.tell(lambda: outcomes.log_facts(lane.settings, delivery, attempt, ended))
        self._close(lane, item, ended)

    def _close(self, lane: Lane, item: Item, ended: Ended) -> None:
        load = item.load
        assert isinstance(load, Load)
        if load.slot.pool is lane.station.slots.slow:
            lane.slow = max(0, lane.slow - 1)
        self._release(lane, load.slot)
        item.load = None
        if not lane.work.ended:
            lane.ended_at = time.monotonic()
            self._unsettled.append(lane)
        lane.work.end(item, ended)
        if lane.gone:
            return
        waits = ended.kind in ("r", "e") and (lane.work.wait or not ended.tried)
        if lane.work.stopping or waits:
            self._drop_unstarted(lane)
        self._consider(lane)

    def _drop_unstarted(self, lane: Lane) -> None:
        for item in lane.work.put_back():
            if isinstance(item.load, Load):
                lane.loaded -= 1
                self._release(lane, item.load.slot)
                item.load = None

    async def _log_loop(self) -> None:
        await self._attempts.wait()
        await asyncio.sleep(EVERY)
        await self._attempts.flush(self._outbox)

    async def _log_last(self) -> None:
        """What was not handed over yet, if that takes a moment only: it is a log."""
        try:
            async with asyncio.timeout(1):
                await self._attempts.flush(self._outbox)
        except (Unavailable, TimeoutError) as error:
            log.info("the last attempts are not in the delivery log", exc_info=error)

    # -- settling ----------------------------------------------------------------------------

    def _should_settle(self, lane: Lane) -> bool:
        work = lane.work
        if lane.pending is not None or work.idle:
            return True
        if len(work.ended) >= SETTLE_AT or work.hungry:
            return True
        return bool(work.ended) and time.monotonic() - lane.ended_at > SETTLE_AFTER

    def _queue_settle(self, lane: Lane) -> None:
        lane.queued = True
        self._to_settle.append(lane)
        self._settle.set()

    async def _settle_loop(self) -> None:
        await self._settle.wait()
        self._settle.clear()
        while self._to_settle:
            n = min(len(self._to_settle), SETTLE_MANY)
            lanes = [self._to_settle.popleft() for _ in range(n)]
            lanes = [lane for lane in lanes if not lane.gone]
            calls = [self._settle_call(lane) for lane in lanes]
            try:
                answers = await self._outbox.run_many(calls)
            except BaseException:
                for lane in lanes:  # repeated as they were
                    self._to_settle.append(lane)
                self._settle.set()
                raise
            for lane, answer in zip(lanes, answers, strict=True):
                lane.queued = False
                if isinstance(answer, Settled):
                    self._settled(lane, answer)
                else:
                    self._failures.tell("settling failed", answer)
                    self._loop.call_later(0.2 + 0.3 * random.random(), self._consider, lane)

    def _settle_call(self, lane: Lane) -> Call[Settled]:
        lane.sent = time.monotonic()
        if lane.pending is None:
            gives_up = lane.work.idle
            ended = lane.work.take_ended()
            want = Want() if gives_up else lane.work.want()
            if want.ids:
                lane.asked_at = lane.sent
            if gives_up:
                self._renewer.drop(lane.hold)
            facts, lane.facts = lane.facts, {}
            totals, lane.totals = lane.totals, {}
            call = verbs.settle(
                lane.held.partition,
                lane.held.lane,
                lane.held.token,
                ended,
                hold=0 if gives_up else self._settings.hold_seconds,
                want=want,
                facts=facts,
                totals=totals,
            )
            lane.pending = (call, gives_up, want.ids)
        return lane.pending[0]

    def _settled(self, lane: Lane, answer: Settled) -> None:
        assert lane.pending is not None
        (_, gave_up, asked), lane.pending = lane.pending, None
        if not answer.held:
            if not gave_up:
                log.info("a hold was lost", extra={"lane": lane.held.lane})
            self._forget(lane)
            return
        if gave_up:
            self._forget(lane)
            if answer.due:
                self._nudge.set()
            return
        lane.hold.end = max(lane.hold.end, lane.sent + self._settings.hold_seconds)
        if not answer.active:
            lane.halted = lane.work.stopping = True
            self._drop_unstarted(lane)
        elif asked:
            lane.work.feed(answer.ids, asked, answer.early)
        if answer.revision != lane.revision and not lane.halted:
            lane.revision = answer.revision
            lane.stale += 1
            self._background(self._refresh(lane))
        self._consider(lane)

    async def _refresh(self, lane: Lane) -> None:
        """The configuration changed under a held lane: what starts from now on obeys it. Without a
        database it goes on as it was."""
        revision, rows = lane.revision, dict[str, LaneSettings | None]()
        try:
            rows = await self._admission.read([lane.held.lane])
        except DatabaseDown as error:
            self._failures.tell("settings cannot be read", error)
            lane.revision = ("", "")  # the next settle asks again
        finally:
            lane.stale -= 1
        if lane.held.lane not in rows or lane.gone:
            self._consider(lane)
            return
        settings = rows[lane.held.lane]
        if settings is None:  # given up: whoever takes it next looks whether it has the key
            self._give_back(lane)
            return
        self._admission.keep(lane.held.lane, revision, settings)
        if settings.target.version != lane.settings.target.version:
            lane.settings, lane.policies = settings, self._policies_of(settings)
            lane.work.concurrency, lane.work.wait = settings.concurrency, settings.wait
            lane.state = breaker.changed(lane.state)  # as `configure` did
            self._drop_unstarted(lane)
        self._consider(lane)

    def _forget(self, lane: Lane) -> None:
        lane.gone = True
        self._renewer.drop(lane.hold)
        if self._lanes.get(lane.held.lane) is lane:
            del self._lanes[lane.held.lane]
        self._drop_unstarted(lane)
        if self._alone:
            self._nudge.set()

    def _on_lost_in_thread(self, hold: Hold) -> None:
        self._loop.call_soon_threadsafe(self._on_lost, hold)

    def _on_lost(self, hold: Hold) -> None:
        lane = self._lanes.get(hold.lane)
        if lane is not None and lane.hold is hold:
            log.info("a hold was lost", extra={"lane": hold.lane})
            self._forget(lane)

    # -- what happens by time ----------------------------------------------------------------

    async def _tick_loop(self) -> None:
        await asyncio.sleep(TICK)
        await self._rest()
        now = time.monotonic()
        if now > self._looked + POLL:
            self._looked = now
            self._nudge.set()
        self._renewer.beat = now
        for station in self._stations.values():
            for slot in station.slots.age(now):
                lane = slot.owner
                assert isinstance(lane, Lane)
                lane.slow += 1
                self._consider(lane)
            self._start(station)
        while self._unsettled and now - self._unsettled[0].ended_at > SETTLE_AFTER:
            lane = self._unsettled.popleft()
            if lane.work.ended and not lane.queued and not lane.gone:
                self._queue_settle(lane)
        self._look_again(now)

    def _look_again(self, now: float) -> None:
        """Held lanes that ran out of ids ask again now and then, for retries that became due;
        lanes whose hold ended while nobody could tell us are let go of. A few lanes a tick, each
        about once a second: all at once would keep the others waiting."""
        if not self._round:
            self._round = list(self._lanes.values())
            self._round_piece = math.ceil(len(self._round) * TICK / ROUND)
        for _ in range(min(self._round_piece, len(self._round))):
            lane = self._round.pop()
            if not lane.gone:
                self._look_at(lane, now)

    def _look_at(self, lane: Lane, now: float) -> None:
        held = len(self._lanes)
        if lane.hold.end < now and not lane.pending and not lane.work.flying:
            self._forget(lane)
        elif (
            lane.work.exhausted
            and lane.asked_at < now - max(AGAIN, held / 500)
            and lane.work.room > 0
        ):
            lane.work.exhausted = self._alone
            lane.asked_at = now
            self._consider(lane)
        elif max(lane.sent, lane.asked_at) < now - max(AGAIN, held / 200) and not lane.queued:
            # All that is under way takes long: the answer says what was changed meanwhile.
            self._queue_settle(lane)

    async def _rest(self) -> None:
        """While there is neither a job nor a lane: nothing in here becomes old."""
        if self._jobs or self._lanes:
            return
        self._roused.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REST):
                await self._roused.wait()

    async def _second_loop(self) -> None:
        await self._rest()
        await asyncio.sleep(1)
        await self._find_partitions()
        if self._jobs:
            await self._outbox.awake(self._partitions, self._served, AWAKE)
            if not self._alone:
                await self._quarantine()
                for station in self._stations.values():
                    await self._share(station)
            if self._stands_in:
                self._stand_in()

    async def _share(self, station: Station) -> None:
        """Tells what it has to do, gives back what others have the hands for, and calls for
        more hands where lanes wait for their turn again and again."""
        busy = [lane for lane in self._lanes.values() if lane.busy and lane.station is station]
        others = await self._outbox.run(self._lanes_told(station.name, len(busy), AWAKE))
        surplus = sharing.surplus(len(busy), others)
        for lane in busy[:surplus]:
            self._give_back(lane)
        if surplus:
            self._shy_until = time.monotonic() + SHY
        crowded, station.crowded = station.crowded, len(busy) >= sharing.ENOUGH
        if crowded and station.crowded and not surplus:
            # One that waits already would wake whoever is idle.
            self._loop.run_in_executor(None, self._ring_quietly, station.name)

    def _lanes_told(self, sink: str, lanes: int, seconds: float) -> Call[list[int]]:
        return verbs.share(self._partitions[0], sink, self._name, lanes, seconds)

    def _ring_quietly(self, sink: str) -> None:
        try:
            self._ring(sink, 1)
        except redis.RedisError as error:
            log.info("no bell for help, the next second rings again: %s", type(error).__name__)

    def _give_back(self, lane: Lane) -> None:
        """When what is under way has ended, so that the order within its keys holds."""
        lane.halted = lane.work.stopping = True
        self._drop_unstarted(lane)
        self._consider(lane)

    def _stand_in(self) -> None:
        """Do the clock's chores when its lease lapsed; while it works, this is one look."""
        if self._chores is None:
            self._chores = Chores(self._settings)
        if self._chore is None or self._chore.done():
            self._chore = self._chore_thread.submit(self._chores.tick_quietly)

    async def _quarantine(self) -> None:
        """Lanes that lost three holds in a row run in a process of their own: if one of
        their events kills it, it takes nobody along."""
        if self._child is not None and self._child.returncode is None:
            return
        if await self._outbox.quarantined(self._partitions, self._served):
            self._child = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "workers.alone", str(os.getpid()), *self._served
            )

    def _background(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            try:
                await work
            except Unavailable as error:
                self._failures.tell("the drain cannot reach its stores", error)

        task = self._loop.create_task(run())
        self._flights.add(task)
        task.add_done_callback(self._flights.discard)


def _may_start(station: Station, standing: Standing) -> bool:
    pool = station.slots.pool(standing is Standing.QUICK)
    if standing is Standing.UNPROVEN:
        return pool.free and station.started < ABREAST
    return pool.count < pool.limit * (LEFT if standing is Standing.SLOW else 1)


async def _until(gone: Callable[[], bool], end: float) -> None:
    """Waits, for what goes one by one, at no one place that could set an event. `end`: by the
    monotonic clock."""
    while not gone() and time.monotonic() < end:  # noqa: ASYNC110
        await asyncio.sleep(0.02)


async def _end_tasks(tasks: set[asyncio.Task[None]]) -> None:
    """Cancel until they are over: redis-py swallows a cancel while a subscription connects."""
    for _ in range(25):
        tasks = {task for task in tasks if not task.done()}
        if not tasks:
            return
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=0.2)


def _in_order(entry: str) -> tuple[int, int]:
    ms, _, seq = entry.partition("-")
    return int(ms), int(seq)


def _trace(batch: Sequence[tuple[Lane, Item]], attempts: Sequence[Attempt], seconds: float) -> None:
    began = time.time_ns() - round(seconds * 1e9)
    for (lane, item), attempt in zip(batch, attempts, strict=True):
        delivery = item.load.delivery  # type: ignore[attr-defined]
        failed = attempt.outcome is not Outcome.DELIVERED
        traces.delivered(
            lane.station.name,
            delivery.traceparent,
            began,
            outcomes.trace_facts(lane.settings, delivery, attempt),
            failed=f"{attempt.outcome} {attempt.code}".strip() if failed else "",
        )


def _delivery(lane: Lane, item: Item, fields: dict[bytes, bytes]) -> Delivery | None:
    data = fields.get(b"data")
    if data is None:
        return None
    meta = orjson.loads(fields[b"meta"])
    return Delivery(
        target=lane.settings.target,
        event_id=fields[b"id"].decode(),
        event=fields[b"event"].decode(),
        data=data,
        at=at_of(item.member),
        tries=item.tries,
        key=item.key,
        sender=meta.get("sender"),
        date_time=meta.get("dateTime"),
        server_url=meta.get("serverUrl"),
        origin=meta.get("origin"),
        mark="replay" if "replay" in meta else "",
        again=meta.get("replay", ""),
        traceparent=meta.get("traceparent"),
    )
