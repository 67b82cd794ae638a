"""What must happen by time: ring, bury, expire, trim, sweep, mend, mirror. All of it is idempotent.

One clock does it at a time, under a lease that ends by itself; a drain that is awake does it
when the lease lapsed. Each chore is bounded a tick, and none walks all tenants.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable

import redis

from evoflask import attempts, auditlog, bell, configuration, db, deadletters, health, models
from evoflask.configuration import Configuration
from evoflask.delivery.disk_watch import DiskWatch
from evoflask.delivery.memory_watch import MemoryWatch
from evoflask.delivery.recounts import Recounts
from evoflask.delivery.watch import Watch
from evoflask.errors import EvoflaskError, OutboxUnwritable
from evoflask.ids import random_id
from evoflask.log import Repeats
from evoflask.manager import EventManager
from evoflask.mirror import Mirror
from evoflask.outbox import Outbox, connect, totals, usage, verbs
from evoflask.outbox.timetable import Lease, Timetable
from evoflask.outbox.usage import Usage
from evoflask.outbox.verbs import Backlog
from evoflask.settings import Settings
from evoflask.sinks import delivering

log = logging.getLogger(__name__)

LEASE = 5.0
"""Seconds after which another process does the chores of one that fell silent."""
PIECE = 200
"""Entries that one script handles: some milliseconds of Redis."""
ROUNDS = 50
"""Scripts that one chore runs a tick at most, a partition."""
LANES = 100
"""Lanes or instances that one chore looks at, a tick and partition."""
RELIEF = 0.7
"""Share of their memory that entries use, above which retention gives way."""
SHORT = 0.78
"""Share above which heavy lanes give way. It is below the 0.8 at which append refuses them: append
adds its own size, so it would else refuse them for ever just below 0.8."""
RELIEVED = 0.75
"""Share at which lanes are left alone again."""
LOOKS = 3
"""Ticks in which memory must be short before anything gives way. Redis counts a client's buffers
once a second; until then they look like keys."""
HEAVY = 32
"""Lanes that give way at once."""
WRITING = 0.7
"""Seconds a tick in which letters are written."""
NOTED = 0.5
"""Seconds a tick after which it notes what was done so far: one that comes may hang."""
MIRROR_REST = 5.0
"""Seconds for which RQ's Redis is left alone after it failed: the other chores, which are done
once a second, do not wait for its timeouts each time."""
LOGGING = 0.3
"""Seconds a tick in which the delivery log is written, and in which it is shortened."""
BACK = 30.0
"""Seconds that Redis' clock must go back for dates to be given anew; by less, they are late by
less."""
TOMBSTONE_SECONDS = 60.0
"""How long a deleted row stays after its keys were set aside, at least."""
DATABASE_EVERY = 60.0
"""Seconds between two checks that the database has the rows of Redis' lanes."""
RETIRE_EVERY = 10.0
"""Seconds between looks for letters beyond a limit; while there are some, every tick is one."""
SINK_NAMES = delivering()


class Chores:
    """Built by the clock, and by a worker that stands in for it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        db.connect(settings)
        self._outbox = Outbox(connect(settings.redis_url, connections=4))
        self._bells = bell.connect(settings.rq_redis_url)
        changes = Configuration(self._outbox, settings)
        manager = EventManager(self._outbox, settings, self._bells, changes)
        self._watch = Watch(settings, self._outbox, changes, manager)
        self._disk = DiskWatch(settings, self._outbox, self._watch.tell)
        self._memory = MemoryWatch(settings, self._outbox, self._watch.tell)
        self._recounts = Recounts(self._outbox)
        self._lease = Lease(self._outbox, random_id(), LEASE)
        self._timetable = Timetable(self._outbox)
        self._mirror = Mirror(self._bells, SINK_NAMES, settings.deadletter_mirror)
        self._mirror_again = 0.0
        self._ticks = Repeats(log)
        self._foreign = Repeats(log)
        self._database_again = 0.0
        self._failures: dict[str, Repeats] = {}
        self._retired = 0.0
        self._looks: deque[Usage] = deque(maxlen=LOOKS)
        """Usage of the memory in the last ticks."""
        self._done: list[str] = []
        """Chores that ended well and are not noted as done yet."""
        self._noted = 0.0

    def tick(self) -> None:
        """Does what is due, if nobody else does. Raises what Redis raises for the lease, and for
        the note of what was done."""
        try:
            if not self._lease.take():
                return
        except OutboxUnwritable:
            self._disk.look()
            raise
        self._done, self._noted = [], time.monotonic()
        partitions = self._outbox.partitions(self._settings.outbox_partitions)
        self._do("disk", self._disk.look)
        self._do("rewind", lambda: self._rewind(partitions))
        self._do("ring", lambda: self._each(partitions, self._ring))
        self._do("push", self._push)
        self._do("expire", lambda: self._each(partitions, self._expire))
        self._do("measure", self._measure)
        self._do("relieve", lambda: self._each(partitions, self._relieve))
        self._do("bury", lambda: self._each(partitions, self._bury))
        self._do("trim", lambda: self._each(partitions, self._trim))
        self._do("sweep", lambda: self._each(partitions, self._sweep))
        self._do("recount", lambda: self._each(partitions, self._recounts.step))
        self._do("letters", self._letters)
        self._do("attempts", lambda: self._each(partitions, self._log))
        self._do("forget attempts", self._forget_attempts)
        self._do("retire", self._retire)
        self._do("operator", self._watch.prepare)
        self._do("watch", lambda: self._each(partitions, self._watch_partition))
        self._do("tombstones", self._tombstones)
        self._do("audit-log", self._audit_log)
        if time.monotonic() >= self._mirror_again:
            self._do("mirror", self._show)
        self._note()

    def tick_quietly(self) -> None:
        """The same for a worker: what fails is logged."""
        try:
            self.tick()
        except Exception as error:
            self._ticks.tell("the chores failed", error)
        else:
            self._ticks.over("the chores are done again")

    def _do(self, name: str, chore: Callable[[], object]) -> None:
        """One chore; that it fails keeps no other from being done."""
        failures = self._failures.setdefault(name, Repeats(log))
        try:
            chore()
            self._done.append(name)
            if time.monotonic() - self._noted > NOTED:
                self._note()
        except (EvoflaskError, redis.RedisError, OSError) as error:
            # Not ours alone: RQ's Redis may be down or full, and bells are the least of it.
            failures.tell(f"the chore {name} failed", error)
        else:
            failures.over(f"the chore {name} is done again")

    def _note(self) -> None:
        """When they were done, for who asks for the clock's health."""
        done, self._done, self._noted = self._done, [], time.monotonic()
        if done:
            self._timetable.done(done)

    def _each(self, partitions: list[int], chore: Callable[[int], object]) -> None:
        for partition in partitions:
            chore(partition)
            self._lease.keep()

    # -- the clock ---------------------------------------------------------------------------

    def _rewind(self, partitions: list[int]) -> None:
        """Redis' clock went back: what was dated by the old one would wait for as long."""
        if back := self._timetable.went_back(BACK):
            since = self._timetable.now() + back / 2
            log.warning("Redis' clock went back", extra={"seconds": round(back)})
            for partition in partitions:
                for sink in SINK_NAMES:
                    self._timetable.quieten(partition, sink)
                    for lane in self._timetable.dated(partition, sink, since):
                        self._rewind_lane(partition, lane, back, since)
        self._timetable.saw()

    def _rewind_lane(self, partition: int, lane: str, back: float, since: float) -> None:
        self._lease.take()
        hold, at = self._settings.hold_seconds, since
        while at:
            call = verbs.rewind(partition, lane, back=back, since=at, hold=hold, n=PIECE)
            at = self._outbox.run(call)

    # -- waking ------------------------------------------------------------------------------

    def _ring(self, partition: int) -> None:
        for sink in self._outbox.run(verbs.ring(partition, SINK_NAMES)):
            bell.ring(self._bells, sink)

    # -- configuration -----------------------------------------------------------------------

    def _push(self) -> None:
        """Push changed rows to Redis; all rows after a restart of Redis or another database."""
        self._look_at_database()
        told = f"{self._timetable.run_id()} {models.epoch()}"
        if self._timetable.told() == told:
            configuration.push_stale(self._outbox)
            return
        health.log_durability(self._outbox, waits=self._settings.redis_wait_aof)
        pushed = configuration.push_all(self._outbox, between=self._lease.take)
        self._timetable.tell(told)
        log.info("configuration was pushed to Redis", extra={"instances": pushed})

    def _look_at_database(self) -> None:
        """Log an empty or foreign database: at the start, then once a minute."""
        if time.monotonic() < self._database_again:
            return
        self._database_again = time.monotonic() + DATABASE_EVERY
        part = health.database_part(self._outbox, self._settings)
        if part.state == health.FAILURE:
            self._foreign.write(part.words)
        else:
            self._foreign.over("the database knows the lanes of Redis again")

    def _tombstones(self) -> None:
        """Rows of deleted instances go once nothing of theirs is left to sweep."""
        if self._timetable.sweeping():
            return
        until = time.monotonic() + LOGGING
        for row in configuration.tombstones(time.time() - TOMBSTONE_SECONDS):
            if attempts.forget_instance(row.id, until):
                configuration.forget(row)

    def _audit_log(self) -> None:
        auditlog.forget(time.time() - self._settings.audit_log_retain_seconds)

    # -- limits ------------------------------------------------------------------------------

    def _backlog(self) -> Backlog:
        s = self._settings
        return Backlog(s.lane_backlog_seconds, s.lane_backlog_entries, s.lane_backlog_bytes)

    def _expire(self, partition: int) -> None:
        """Lanes beyond a limit of age, entries or bytes."""
        seconds = self._settings.lane_backlog_seconds
        old = self._timetable.older_than(partition, SINK_NAMES, seconds, LANES)
        for lane in [*old, *self._timetable.over(partition, LANES)]:
            self._expire_lane(partition, lane, self._backlog())

    def _expire_lane(self, partition: int, lane: str, limit: Backlog) -> None:
        for _ in range(ROUNDS):
            if not self._outbox.run(verbs.expire(partition, lane, limit, n=PIECE))[1]:
                return

    def _measure(self) -> None:
        """Read the usage of the memory. If Redis does not answer, nothing gives way."""
        self._looks.append(Usage())
        self._looks[-1] = self._usage()
        self._memory.note(self._looks)

    def _usage(self) -> Usage:
        return usage.read(self._outbox, self._settings.outbox_partitions)

    def _is_short(self, share: float) -> bool:
        """Return True if our entries exceeded this share of their memory in all last ticks."""
        return len(self._looks) == LOOKS and all(each.pressure >= share for each in self._looks)

    def _relieve(self, partition: int) -> None:
        """Move the oldest entries of the heaviest lanes to dead letters, if our own entries are too
        large for the memory.

        Each lane keeps an equal share of it. An entry frees its memory when its letter is written
        and it has left retention. Both are done before more gives way."""
        if not (self._is_short(SHORT) and all(each.excess(SHORT) for each in self._looks)):
            return
        end = time.monotonic() + WRITING
        while time.monotonic() < end and (now := self._usage()).excess(RELIEVED):
            self._trim(partition)
            self._write_letters(partition, end)
            heaviest = self._timetable.heaviest(partition, HEAVY, now, RELIEVED)
            if not heaviest or time.monotonic() > end:
                return
            for lane, weight, share in heaviest:
                limit = Backlog(
                    1e9,
                    10**9,
                    max(share, weight * 3 // 4),
                    "memory is short, and more than a fair share waited here",
                )
                self._expire_lane(partition, lane, limit)

    # -- reports to operators ----------------------------------------------------------------

    def _watch_partition(self, partition: int) -> None:
        self._watch.look(partition)
        self._watch.letters(partition)

    # -- what ended --------------------------------------------------------------------------

    def _bury(self, partition: int) -> None:
        self._write_letters(partition, time.monotonic() + WRITING)

    def _write_letters(self, partition: int, end: float) -> None:
        for lane in self._timetable.graves(partition, LANES):
            while deadletters.bury(self._outbox, partition, lane) and time.monotonic() < end:
                pass

    def _trim(self, partition: int) -> None:
        s = self._settings
        entries, seconds = s.outbox_retain_entries, float(s.outbox_retain_seconds)
        instances = self._timetable.aged(partition, 0.0, LANES)
        if self._is_short(RELIEF):
            entries, seconds = 0, 0.0
            instances = self._timetable.aged(partition, s.outbox_retain_seconds, LANES * 10)
        for i in instances:
            for _ in range(ROUNDS):
                call = verbs.trim(partition, i, entries=entries, seconds=seconds, n=PIECE)
                if not self._outbox.run(call)[1]:
                    break

    def _sweep(self, partition: int) -> None:
        for _ in range(ROUNDS):
            if not self._outbox.run(verbs.sweep(partition)):
                return

    def _log(self, partition: int) -> None:
        attempts.move(self._outbox, partition, time.monotonic() + LOGGING)

    def _forget_attempts(self) -> None:
        s = self._settings
        until = time.monotonic() + LOGGING
        attempts.forget(s.attempts_retain_seconds, s.attempts_retain_entries, until)

    def _letters(self) -> None:
        deadletters.confirm(self._timetable.persisted(), time.time())
        deadletters.forget(time.time() - self._settings.deadletter_key_seconds)

    def _retire(self) -> None:
        """Letters that nobody dealt with, beyond a limit of age or number."""
        if time.monotonic() < self._retired:
            return
        s, now = self._settings, time.time()
        before = now - s.deadletter_retain_seconds
        gone = deadletters.retire(before, s.deadletter_retain_entries, now)
        if not gone:
            self._retired = time.monotonic() + RETIRE_EVERY
            return
        log.warning("letters beyond DEADLETTER_RETAIN_* were given up for good", extra=gone)
        totals.add(self._outbox, {f"{sink}:retired": n for sink, n in gone.items()})

    # -- what is shown -----------------------------------------------------------------------

    def _show(self) -> None:
        """Letters as failed jobs. Last of all: nothing else needs it."""
        self._mirror_again = time.monotonic() + MIRROR_REST
        self._mirror.tick()
        self._mirror_again = 0.0
