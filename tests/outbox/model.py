"""Random schedules of everybody who touches an outbox, beside a plain ledger of what must hold.

One seed is one schedule: two drains (with the real `LaneWork`), emitters, an operator and
the clock take turns in an order that the seed draws; answers get lost, drains are killed or
stalled past their holds. After each step the ledger is compared with Redis; at each quiet
end everything must have come to an end. Redis' clock is moved by the schedule: the scripts
under test read a key instead of TIME, and number entries by it.
"""

from __future__ import annotations

import json
import math
import random
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import Any

import redis

from evoflask.delivery import lanes
from evoflask.delivery.lanes import Item, LaneWork
from evoflask.outbox import keys, verbs
from evoflask.outbox.client import Outbox
from evoflask.outbox.feed import Feed, line
from evoflask.outbox.members import entry_of, key_hash, size_of
from evoflask.outbox.verbs import Backlog, Ended, Held, LaneConfig, Limits, NewEntry, Script, Want

P = 0
PRE = keys.prefix(P)
EPOCH = "e1"
HOLD = 10.0
CHAIN = "MODEL"
CLOCK = PRE + "model:clock"
SINKS = ("webhook", "nats")


SNAPSHOT = """
local P, out = KEYS[1], { lanes = {}, entries = {}, weights = {} }
local function flat(list)
  local map = {}
  for n = 1, #list, 2 do map[list[n]] = list[n + 1] end
  return map
end
for a = 1, #ARGV, 2 do
  local s, i = ARGV[a], ARGV[a + 1]
  local facts = flat(redis.call('HGETALL', P .. 'lane:' .. s))
  local lane = { facts = facts, dying = flat(redis.call('HGETALL', P .. 'dying:' .. s)),
    waiting = flat(redis.call('ZRANGE', P .. 'waiting:' .. s, 0, -1, 'WITHSCORES')),
    tries = flat(redis.call('HGETALL', P .. 'tries:' .. s)) }
  for _, z in ipairs({ 'due', 'alone' }) do
    lane[z] = redis.call('ZSCORE', P .. z .. ':' .. (facts.sink or ''), s) or nil
  end
  out.lanes[s] = lane
  if not out.entries[i] then
    local ids = {}
    for _, row in ipairs(redis.call('XRANGE', P .. 'outbox:' .. i, '-', '+')) do
      ids[row[1]] = 1
    end
    out.entries[i] = ids
  end
end
out.weights = flat(redis.call('ZRANGE', P .. 'weight', 0, -1, 'WITHSCORES'))
out.weighing = redis.call('GET', P .. 'weighing') or '0'
return cjson.encode(out)
"""
"""Everything the check reads, at one moment and in one round trip."""


def with_model_clock(name: str) -> Script:
    """The verb as it is shipped, but for where it reads the time and an entry's id."""
    plain = verbs.script(name)
    text = plain.text.replace(
        "local TIME = call('TIME')",
        f"local T0 = tonumber(redis.call('GET', '{CLOCK}'))\n"
        "local TIME = { math.floor(T0 / 1000), (T0 % 1000) * 1000 }",
    )
    text = text.replace(
        "'*', 'id'",
        f"string.format('%.0f-%.0f', NOW, call('INCR', '{CLOCK}:seq')), 'id'",
    )
    assert text != plain.text
    return Script(plain.name, text)


class ModelOutbox(Outbox):
    """Runs verbs on the model's clock.

    Schedules are a thousand short calls each: by a connection of their own they cost half of
    what they do by the client, with its pool and its telemetry.
    """

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(client)
        self._connection = client.connection_pool.get_connection()
        self._loaded: dict[str, bytes] = {}

    def run(self, call: verbs.Call[Any]) -> Any:
        name = call.script.name
        if name not in self._loaded:
            self._loaded[name] = self.load(with_model_clock(name).text)
        return call.read(self.evaluate(self._loaded[name], call.prefix, *call.args))

    def load(self, text: str) -> bytes:
        """The hash by which `evaluate` runs a script."""
        return self._ask("SCRIPT", "LOAD", text)  # type: ignore[no-any-return]

    def evaluate(self, sha: bytes, *arguments: Any) -> Any:
        """What the script answers; the first argument is its only key."""
        return self._ask("EVALSHA", sha, 1, *arguments)

    def close(self) -> None:
        self.redis.connection_pool.release(self._connection)

    def _ask(self, *command: Any) -> Any:
        self._connection.send_command(*command)
        return self._connection.read_response()


@dataclass
class Lane:
    """What the ledger knows of a lane."""

    s: str
    i: str
    sink: str
    enabled: bool = True
    stopped: bool = False
    wait: bool = False
    version: int = 1
    concurrency: int = 3
    waiting: dict[str, int] = field(default_factory=dict)
    """member -> tries"""
    dying: set[str] = field(default_factory=set)
    routed: int = 0
    requeued: int = 0
    delivered: int = 0
    dead: int = 0
    discarded: int = 0
    first_sends: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """order key -> members in the order of their first arrival"""
    arrived: set[str] = field(default_factory=set)
    marks: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    letters: list[tuple[str, str]] = field(default_factory=list)
    """(event id, key) of what was buried"""


@dataclass
class Instance:
    i: str
    revision: int = 1
    lanes: dict[str, Lane] = field(default_factory=dict)
    paid: float = 0
    """Up to when what came is paid for, milliseconds."""
    told: list[str] = field(default_factory=list)
    """Ids of the events that websockets get, in order."""


class Drain:
    """A drain's memory: what it holds, and what is under way."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.takes = 0
        self.works: dict[str, tuple[LaneWork, float]] = {}
        """lane -> (work, the hold's end as this drain reckons it)"""


class World:
    """One schedule."""

    def __init__(self, client: redis.Redis, seed: int) -> None:
        client.flushall()
        self.redis = client
        self.luck = random.Random(seed)
        self.outbox = ModelOutbox(client)
        self.now = 1_700_000_000_000
        client.set(CLOCK, self.now)
        self.limits = Limits(
            inline_bytes=40,
            seen_seconds=50,
            seen_ids=20,
            retain_entries=self.luck.choice([0, 3, 20]),
            retain_seconds=self.luck.choice([5, 60]),
            events_per_second=self.luck.choice([0, 0, 0.3, 7]),
            burst=self.luck.choice([4, 9]),
        )
        self.backlog = Backlog(self.luck.choice([200.0, 1e6]), self.luck.choice([6, 10_000]), 10**9)
        self.instances: dict[str, Instance] = {}
        self.lanes: dict[str, Lane] = {}
        self.deleted_lanes: set[str] = set()
        self.deleted: set[str] = set()
        self.drains = [Drain("a"), Drain("b")]
        self.serial = 0
        self.crashed = 0
        self.trouble = self.luck.random() < 0.4
        """Most attempts fail, and operators probe often."""
        self.restored = 0
        """Failed tries before their dates."""
        self.killers: set[str] = set()
        self.poison = self.luck.random() < 0.2
        """The first entry of the second key kills whoever starts it, each time."""
        self.shot = self.outbox.load(SNAPSHOT)
        self.feed = Feed(self.outbox, client)
        self.feed_end = "0-0"
        for _ in range(2):
            self.create()

    # -- the operator ------------------------------------------------------------------------

    def fresh(self, what: str) -> str:
        self.serial += 1
        return f"{what}{self.serial:04x}"

    def create(self) -> None:
        i = Instance(self.fresh("i"))
        self.instances[i.i] = i
        for _ in range(self.luck.choice([1, 1, 2, 3])):
            self.add_lane(i)
        self.push(i)

    def add_lane(self, i: Instance) -> None:
        lane = Lane(self.fresh("s"), i.i, self.luck.choice(SINKS))
        lane.wait = self.luck.random() < 0.3
        lane.concurrency = self.luck.choice([1, 3, 8])
        i.lanes[lane.s] = lane
        self.lanes[lane.s] = lane

    def push(self, i: Instance, revision: int | None = None) -> verbs.Configured:
        lanes = [
            LaneConfig(n.s, n.sink, n.enabled, n.concurrency, n.wait, n.stopped, n.version)
            for n in i.lanes.values()
        ]
        call = verbs.configure(P, i.i, revision or i.revision, EPOCH, lanes)
        answer: verbs.Configured = self.outbox.run(call)
        return answer

    def operator(self) -> None:
        i = self.luck.choice(list(self.instances.values()))
        i.revision += 1
        what = self.luck.choice(["flag", "flag", "stop", "change", "add", "remove", "again"])
        lane = self.luck.choice(list(i.lanes.values())) if i.lanes else None
        gone: Lane | None = None
        if what == "add" and len(i.lanes) < 4:
            self.add_lane(i)
        elif lane and what == "flag":
            lane.enabled = not lane.enabled
        elif lane and what == "stop":
            lane.stopped = not lane.stopped
        elif lane and what == "change":
            lane.version += 1
            lane.wait = self.luck.random() < 0.3
        elif lane and what == "remove":
            gone = i.lanes.pop(lane.s)
        answer = self.push(i)
        if gone:
            assert answer.discarded == {gone.s: len(gone.waiting) + len(gone.dying)}
            self.forget(gone)
        if self.luck.random() < 0.3:  # its answer was lost: applied again
            assert self.push(i).discarded == {}
        if self.luck.random() < 0.2 and not gone:  # a slow process with an old row
            assert self.push(i, i.revision - 1).newer

    def delete(self) -> None:
        i = self.luck.choice(list(self.instances.values()))
        del self.instances[i.i]
        call = verbs.configure(P, i.i, i.revision + 1, EPOCH, [], deleted=True)
        discarded = self.outbox.run(call).discarded
        assert discarded == {n.s: len(n.waiting) + len(n.dying) for n in i.lanes.values()}
        self.deleted.add(i.i)
        for lane in i.lanes.values():
            self.forget(lane)
        if not self.instances or self.luck.random() < 0.5:
            self.create()
        assert self.push(i).newer  # a slow process must not bring it back

    def forget(self, lane: Lane) -> None:
        del self.lanes[lane.s]
        self.deleted_lanes.add(lane.s)

    # -- emitters ----------------------------------------------------------------------------

    def emit(self) -> None:
        i = self.luck.choice(list(self.instances.values()))
        entries, plan = [], []
        for _ in range(self.luck.choice([1, 1, 1, 4])):
            event_id = self.fresh("id")
            key = key_hash(b"k%d" % self.luck.randrange(3))
            to = {
                s: key for s, lane in i.lanes.items() if lane.enabled and self.luck.random() < 0.8
            }
            data = b'"%s"' % (b"x" * self.luck.choice([1, 60]))
            given = self.luck.random() < 0.5
            ws = self.luck.random() < 0.3
            routed = tuple(to.items())
            mark = event_id.encode() if given else b""
            entries.append(NewEntry(event_id, given, "CALL", b"{}", data, routed, ws, mark))
            plan.append((event_id, to))
        told = sum(entry.ws for entry in entries)
        if self.luck.random() < 0.1:
            stale = verbs.append(P, i.i, i.revision - 1, EPOCH, entries, self.limits)
            assert self.outbox.run(stale).status == "stale"
        answer = self.outbox.run(verbs.append(P, i.i, i.revision, EPOCH, entries, self.limits))
        wait = self.pay(i, len(entries))
        if wait > 0:
            assert (answer.status, answer.wait) == ("limited", math.ceil(wait) / 1000)
            self.check_feed(i, 0)
            return
        assert answer.status == "ok"
        assert not answer.duplicates
        i.told += [entry.id for entry in entries if entry.ws]
        self.appended(i, plan, requeued=False)
        self.check_feed(i, told)
        if self.luck.random() < 0.2:  # the answer was lost: repeated with the same ids
            again = [e for e in entries if e.given and (e.to or e.ws)]
            answer = self.outbox.run(verbs.append(P, i.i, i.revision, EPOCH, again, self.limits))
            assert answer.duplicates == frozenset(range(len(again)))
            self.check_feed(i, 0)
            other = [replace(e, print=b"other") for e in again]
            answer = self.outbox.run(verbs.append(P, i.i, i.revision, EPOCH, other, self.limits))
            assert answer.conflicts == frozenset(range(len(other)))
            self.check_feed(i, 0)

    def pay(self, i: Instance, n: int) -> float:
        """Milliseconds that so many events come too early; 0: they are paid for now."""
        rate, burst = self.limits.events_per_second, self.limits.burst
        if not rate:
            return 0
        ahead = burst * 1000 / rate
        paid = max(self.now, min(i.paid, self.now + ahead)) + n * 1000 / rate
        if (early := paid - self.now - ahead) > 0:
            return early
        i.paid = paid
        return 0

    def check_feed(self, i: Instance, told: int) -> None:
        """One line for a call that websockets get something of, with what they get; none for
        any other, and none for a repeat."""
        rows = self.redis.xrange(PRE + "feed", f"({self.feed_end}", "+")
        lines = [each for each in (line(P, fields) for _, fields in rows) if each.count]
        if told:
            assert [each.outbox for each in lines] == [i.i]
            assert lines[0].count == told
            assert lines[0].number == int(self.redis.get(PRE + "fed") or 0)
            (found,) = self.feed.ranges([(P, i.i, lines[0].first, lines[0].last)])
            # Even a retention of nothing leaves them long enough to be read.
            assert [e.event_id for e in found] == i.told[-told:]
            end = len(i.told) + 1
            assert [e.number for e in found] == list(range(end - told, end))
        else:
            assert lines == []
        self.feed_end = rows[-1][0].decode() if rows else self.feed_end

    def appended(self, i: Instance, plan: list[tuple[str, dict[str, str]]], requeued: bool) -> None:
        """Read back what the call must have put on the lanes."""
        for s in {s for _, to in plan for s in to}:
            lane = i.lanes[s]
            there = [m.decode() for m in self.redis.zrange(f"{PRE}waiting:{s}", 0, -1)]
            new = sorted(set(there) - set(lane.waiting))
            want = [to[s] for _, to in plan if s in to]
            assert [m.rsplit(":", 1)[1] for m in new] == want
            for member in new:
                lane.waiting[member] = 0
                if not self.killers and self.luck.random() < 0.2:
                    self.killers.add(member)
            if requeued:
                lane.requeued += len(new)
            else:
                lane.routed += len(new)

    def requeue(self) -> None:
        """By letter: append for its lane alone, then forget the letter."""
        lanes = [n for n in self.lanes.values() if n.letters and n.s in self.instances[n.i].lanes]
        if not lanes:
            return
        lane = self.luck.choice(lanes)
        event_id, key = lane.letters.pop()
        if self.luck.random() < 0.2:
            return  # discarded: the books know it as dead
        i = self.instances[lane.i]
        onto = lane if self.luck.random() < 0.7 else self.luck.choice(list(i.lanes.values()))
        self.again(i, onto, [(event_id, key)])

    def again(self, i: Instance, lane: Lane, events: list[tuple[str, str]]) -> None:
        """Append events (id, key) for one lane alone, in their order."""
        entries = [
            NewEntry(event_id, False, "CALL", b"{}", b"1", ((lane.s, key),))
            for event_id, key in events
        ]
        limits = replace(self.limits, events_per_second=0)
        call = verbs.append(P, i.i, i.revision, EPOCH, entries, limits, requeue=True)
        assert self.outbox.run(call).status == "ok"
        self.appended(i, [(event_id, {lane.s: key}) for event_id, key in events], requeued=True)

    def replay(self) -> None:
        """Some of what is retained, for one lane alone, under the same ids."""
        i = self.luck.choice(list(self.instances.values()))
        if not i.lanes:
            return
        start = self.luck.choice([0, self.now - 10_000])
        found = self.redis.xrange(f"{PRE}outbox:{i.i}", start, "+", count=3)
        keys_ = [key_hash(b"k%d" % self.luck.randrange(3)) for _ in found]
        ids = [fields[b"id"].decode() for _, fields in found]
        if ids:
            lane = self.luck.choice(list(i.lanes.values()))
            self.again(i, lane, list(zip(ids, keys_, strict=True)))

    # -- an operator at a lane ---------------------------------------------------------------

    def by_hand(self) -> None:
        lane = self.luck.choice(list(self.lanes.values()) or [None])  # type: ignore[list-item]
        if lane is None:
            return
        what = self.luck.choice(["probe", "skip", "purge", "disable"])
        if self.trouble and self.luck.random() < 0.8:
            what = self.luck.choice(["probe", "probe", "change"])
        if what == "change":
            self.change(lane)
        elif what == "probe":
            self.probe(lane)
        elif what == "skip":
            self.skip(lane)
        elif what == "purge":
            self.purge(lane)
        else:
            self.disable()

    def change(self, lane: Lane) -> None:
        """Change the settings of a lane."""
        i = self.instances[lane.i]
        i.revision += 1
        lane.version += 1
        assert self.push(i).discarded == {}

    def dates(self, lane: Lane) -> dict[str, float]:
        rows = self.redis.zrange(f"{PRE}waiting:{lane.s}", 0, -1, withscores=True)
        return {member.decode(): date for member, date in rows}

    def probe(self, lane: Lane) -> None:
        before = self.dates(lane)
        status = self.outbox.run(verbs.probe(P, lane.s))
        if not lane.enabled or lane.stopped:
            assert status == ("stopped" if lane.enabled else "off")
        else:
            assert status == ("ok" if lane.waiting else "empty")
        if status != "ok":
            assert self.dates(lane) == before
            return
        (view,) = self.outbox.run(verbs.look(P, [lane.s]))
        due = "token" in view.facts or view.due * 1000 <= self.now
        # A lane that waits may have had its earliest retry due before: its date says so.
        assert due, "a probe that is not due"

    def skip(self, lane: Lane) -> None:
        dates = self.dates(lane)
        failed = sorted((date, member) for member, date in dates.items() if date)
        new = [member for member, date in dates.items() if not date]
        firsts = [member for _, member in failed[:1]] + sorted(new)[:1]
        head = (failed[0][1] if lane.wait and failed else min(firsts)) if firsts else ""
        (view,) = self.outbox.run(verbs.look(P, [lane.s]))
        assert (view.head, view.head_tries) == (head, lane.waiting.get(head, 0))
        why = '{"reason":"skipped","code":"","detail":""}'
        other = self.outbox.run(verbs.skip(P, lane.s, event_id="another", why=why))
        assert other.status == ("other" if head else "empty")
        skipped = self.outbox.run(verbs.skip(P, lane.s, event_id=other.event_id, why=why))
        if not head:
            assert skipped.status == "empty"
            return
        assert (skipped.status, skipped.member) == ("ok", head)
        assert skipped.tries == lane.waiting.pop(head)
        lane.dying.add(head)
        self.tell_anew(lane)

    def purge(self, lane: Lane) -> None:
        n = len(lane.waiting)
        other = self.outbox.run(verbs.purge(P, lane.s, n + 1))
        assert (other.status, other.count) == ("other", n)
        if self.luck.random() < 0.5:
            return
        purged = self.outbox.run(verbs.purge(P, lane.s, n))
        assert (purged.status, purged.count) == ("ok", n)
        assert purged.bytes == sum(size_of(member) for member in lane.waiting)
        lane.waiting.clear()
        lane.discarded += n
        self.tell_anew(lane)

    def tell_anew(self, lane: Lane) -> None:
        """Whoever has the lane lets go of what did not start; the word may be lost."""
        if self.luck.random() < 0.3:
            return
        for drain in self.drains:
            if lane.s in drain.works:
                drain.works[lane.s][0].put_back()

    def disable(self) -> None:
        """The clock disables a failing subscription, at best while a drain has its lane."""
        held = [s for drain in self.drains for s in drain.works if s in self.lanes]
        if not held:
            return
        lane = self.lanes[self.luck.choice(sorted(held))]
        i = self.instances[lane.i]
        lane.enabled = False
        i.revision += 1
        assert self.push(i).discarded == {}

    # -- the clock ---------------------------------------------------------------------------

    def pass_time(self, ms: int | None = None) -> None:
        self.now += ms or self.luck.choice([1, 50, 900, 4000, 11_000])
        self.redis.set(CLOCK, self.now)

    def bury(self) -> None:
        graves = [s.decode() for s in self.redis.smembers(PRE + "graves")]
        for s in sorted(graves):
            dying = self.redis.hkeys(f"{PRE}dying:{s}")
            members = sorted(m.decode() for m in dying)[: self.luck.choice([1, 100])]
            lane = self.lanes[s]
            for member in members:  # the letter needs the body: it must be there still
                entry = self.redis.xrange(f"{PRE}outbox:{lane.i}", entry_of(member))[0]
                lane.letters.append((entry[1][b"id"].decode(), member.rsplit(":", 1)[1]))
            if self.luck.random() < 0.2:  # killed after the rows, before the verb
                for _ in members:
                    lane.letters.pop()
                continue
            assert self.outbox.run(verbs.bury(P, s, members)) == len(members)
            assert self.outbox.run(verbs.bury(P, s, members)) == 0  # a repeat counts nothing
            lane.dying -= set(members)
            lane.dead += len(members)

    def chores(self) -> None:
        what = self.luck.choice(["trim", "expire", "sweep", "bury", "bury"])
        if what == "trim":
            for i in self.redis.zrangebyscore(PRE + "aging", 0, self.now):
                n = self.luck.choice([1, 50])
                self.outbox.run(
                    verbs.trim(
                        P,
                        i.decode(),
                        entries=self.limits.retain_entries,
                        seconds=self.limits.retain_seconds,
                        n=n,
                    )
                )
        elif what == "sweep":
            self.outbox.run(verbs.sweep(P, n=self.luck.choice([1, 10])))
        elif what == "bury":
            self.bury()
        else:
            lane = self.luck.choice(list(self.lanes.values()) or [None])  # type: ignore[list-item]
            if lane:
                self.expire(lane)

    def expire(self, lane: Lane) -> None:
        before = dict(lane.waiting)
        gone, _ = self.outbox.run(verbs.expire(P, lane.s, self.backlog, n=5))
        there = {m.decode() for m in self.redis.zrange(f"{PRE}waiting:{lane.s}", 0, -1)}
        given_up = set(before) - there
        assert len(given_up) == gone
        kept = sorted(set(before) - given_up)
        if given_up and kept and all(t == 0 for t in before.values()):
            assert max(given_up) < kept[0]  # the oldest go
        for member in given_up:
            del lane.waiting[member]
            lane.dying.add(member)

    # -- drains ------------------------------------------------------------------------------

    def step_drain(self, drain: Drain, *, calm: bool = False) -> None:
        if not drain.works or self.luck.random() < (0.05 if self.trouble else 0.3):
            self.take(drain, calm)
            return
        s = self.luck.choice(sorted(drain.works))
        work, end = drain.works[s]
        roll = self.luck.random()
        if not calm and roll < 0.03:
            drain.works.clear()  # kill -9: what was under way may have arrived
        elif not calm and roll < 0.06:
            del drain.works[s]  # it forgot the lane: its hold is left to end
        elif roll < 0.55 and self.now < end:
            item = work.start(loaded=False)
            if item and self.poison and item.member in self.killers:
                drain.works.clear()
            elif item:
                self.arrive(work.held, item)
        elif work.flying and (roll < 0.8 or not work.ended):
            item = work.flying[self.luck.choice(sorted(work.flying))]
            ended = self.outcome(item, calm)
            work.end(item, ended)
            if ended.kind in ("r", "e") and (work.wait or not ended.tried):
                work.put_back()
        elif roll < 0.85 and not calm:
            self.renew(drain)
        else:
            self.settle(drain, s, work, calm)

    def take(self, drain: Drain, calm: bool) -> None:
        alone = self.luck.random() < 0.25
        for sink in self.luck.sample(SINKS, 2 if calm else 1):
            drain.takes += 1
            call = verbs.take(
                P,
                sink,
                f"{drain.name}{drain.takes}",
                hold=HOLD,
                lanes=self.luck.choice([1, 3]),
                ids=lanes.WINDOW,
                alone=alone,
            )
            taken = self.outbox.run(call)
            if alone:
                self.find_crashed()
            if not calm and self.luck.random() < 0.1:
                continue  # the answer was lost: nothing is started
            for held in taken.lanes:
                assert held.ids, "a hold on nothing"
                lane = self.lanes[held.lane]
                assert lane.enabled
                assert not lane.stopped
                self.check_window(lane, held)
                work = LaneWork(held, lane.concurrency, wait=lane.wait)
                if alone:
                    assert len(held.ids) == 1
                    work.exhausted = True
                    self.mark(lane, work)
                drain.works[held.lane] = (work, self.now + HOLD * 1000)

    def mark(self, lane: Lane, work: LaneWork) -> None:
        """On a lane in quarantine the entry is marked before it starts."""
        member = work.held.ids[0][0]
        mark = verbs.settle(P, lane.s, work.held.token, [], hold=HOLD, want=Want(mark=member))
        assert self.outbox.run(mark).held
        lane.marks[member] += 1

    def check_window(self, lane: Lane, held: Held) -> None:
        for member, tries in held.ids:
            assert lane.waiting[member] == tries
        if lane.wait and any(lane.waiting.values()):
            assert all(tries for _, tries in held.ids)

    def find_crashed(self) -> None:
        """An entry that a take gave up for crashing its drain: it was marked each time."""
        shot = self.snapshot()
        for lane in self.lanes.values():
            for member, why in dict(shot["lanes"][lane.s]["dying"]).items():
                if member not in lane.dying:
                    assert "crashed" in why
                    assert lane.marks[member] >= 7
                    del lane.waiting[member]
                    lane.dying.add(member)
                    self.crashed += 1

    def arrive(self, held: Held, item: Item) -> None:
        """The destination gets it: first arrivals are in the order of the key's entries."""
        lane = self.lanes.get(held.lane)
        if lane is None or item.member in lane.arrived:
            return
        lane.arrived.add(item.member)
        before = lane.first_sends[item.key]
        assert not before or before[-1] < item.member, "order of first arrivals"
        before.append(item.member)

    def outcome(self, item: Item, calm: bool) -> Ended:
        roll = 0.0 if calm else self.luck.random()
        attempt = item.tries + 1
        if self.trouble and not calm:
            roll = 0.55 + roll * 0.4
        if roll < 0.6:
            return Ended("d", item.member, attempt)
        if roll < 0.64:  # by settings that are no more
            return Ended("r", item.member, attempt, tried=False)
        if roll < 0.92 and item.early:
            return Ended("e", item.member, attempt, tried=item.early != "probe")
        if roll < 0.92:
            delay = self.luck.choice([3.0, 90.0, 90.0] if self.trouble else [0.5, 3.0])
            return Ended("r", item.member, attempt, delay=delay)
        return Ended("x", item.member, attempt, why='{"reason":"rejected"}')

    def renew(self, drain: Drain) -> None:
        holds = [(s, work.held.token) for s, (work, _) in drain.works.items()]
        lost = self.outbox.run(verbs.renew(P, holds, hold=HOLD))
        for s, _ in holds:
            if s in lost:
                del drain.works[s]
            else:
                drain.works[s] = (drain.works[s][0], self.now + HOLD * 1000)

    def settle(self, drain: Drain, s: str, work: LaneWork, calm: bool) -> None:
        idle = work.idle or (not work.flying and not calm and self.luck.random() < 0.1)
        ended = work.take_ended()
        want = Want() if idle else work.want()
        facts: dict[str, str | int] = {}
        if not calm and self.luck.random() < 0.1:
            facts = {"until": self.now + 2000, "failures": 5}
            work.stopping = True
        elif calm or any(e.kind == "d" for e in ended):
            facts = {"until": 0, "failures": 0}
            work.proven = True
        if work.stopping and not work.flying:
            idle = True
        call = verbs.settle(
            P, s, work.held.token, ended, hold=0 if idle else HOLD, want=want, facts=facts
        )
        lane = self.lanes.get(s)
        early = self.early(lane) if lane else {}
        answer = self.outbox.run(call)
        if lane and answer.held:
            self.book(lane, ended, answer.applied, early)
        if self.luck.random() < 0.1:  # the answer was lost: repeated as it was
            again = self.outbox.run(call)
            if idle or not answer.held:
                assert not again.held  # given up: the repeat changes nothing
            else:
                assert again.applied == 0
                assert again.held
                answer = again
        if not answer.held or idle:
            del drain.works[s]
            return
        if want.ids:
            if lane:
                assert all(lane.waiting.get(m) == t for m, t in answer.ids)
            work.feed(answer.ids, want.ids, answer.early)
        if not answer.active:
            work.put_back()
            work.stopping = True
        drain.works[s] = (work, self.now + HOLD * 1000)

    def early(self, lane: Lane) -> dict[str, float]:
        """Return the retries that came forward, with the dates that they had."""
        marks = {
            m.decode(): v.split() for m, v in self.redis.hgetall(f"{PRE}early:{lane.s}").items()
        }
        dates = self.dates(lane)
        return {
            member: float(date)
            for member, (tries, date, _) in marks.items()
            if lane.waiting.get(member) == int(tries) and dates[member] < float(date)
        }

    def book(self, lane: Lane, ended: list[Ended], applied: int, early: dict[str, float]) -> None:
        n = 0
        for e in ended:
            if lane.waiting.get(e.member) is None:
                continue
            if e.kind == "d":
                del lane.waiting[e.member]
                lane.delivered += 1
            elif lane.waiting[e.member] != e.attempt - 1 or (e.kind == "r" and not e.tried):
                continue
            elif e.kind == "e":
                if e.member not in early:
                    continue
                self.restored += 1
                at = self.redis.zscore(f"{PRE}waiting:{lane.s}", e.member)
                assert at == early[e.member] or at <= self.now + 50 * 50, "a date that is lost"
            elif e.kind == "r":
                lane.waiting[e.member] = e.attempt
            else:
                del lane.waiting[e.member]
                lane.dying.add(e.member)
            n += 1
        assert n == applied

    # -- what must hold ----------------------------------------------------------------------

    def snapshot(self) -> Any:
        args = [x for lane in self.lanes.values() for x in (lane.s, lane.i)]
        return json.loads(self.outbox.evaluate(self.shot, PRE, *args))

    def check(self) -> None:
        """After each step: where every delivery is, the books, the dates, the weights."""
        shot = self.snapshot()
        expected = {}
        for lane in self.lanes.values():
            seen = shot["lanes"][lane.s]
            facts = seen["facts"]
            assert set(seen["waiting"]) == set(lane.waiting)
            assert set(seen["dying"]) == lane.dying
            tries = {m: int(n) for m, n in dict(seen["tries"]).items()}
            assert tries == {m: n for m, n in lane.waiting.items() if n}
            for member in [*lane.waiting, *lane.dying]:
                assert entry_of(member) in shot["entries"][lane.i], "lost its entry"
            for book in ("routed", "requeued", "delivered", "dead", "discarded"):
                assert int(facts.get(book, 0)) == getattr(lane, book), book
            came = lane.routed + lane.requeued
            ended = lane.delivered + lane.dead + lane.discarded
            assert came == ended + len(lane.waiting) + len(lane.dying)
            self.check_date(lane, seen)
            if lane.waiting:
                expected[lane.s] = sum(size_of(m) for m in lane.waiting)
        assert {s: float(w) for s, w in dict(shot["weights"]).items()} == expected
        assert int(shot["weighing"]) == sum(expected.values())

    def check_date(self, lane: Lane, seen: Any) -> None:
        """No lane that has something to do is forgotten, and none is looked at for nothing."""
        facts, due, alone = seen["facts"], seen.get("due"), seen.get("alone")
        assert due is None or alone is None
        date = due if alone is None else alone
        if not lane.enabled or lane.stopped or not lane.waiting:
            assert date is None
            return
        assert date is not None, "a lane with something on it and no date"
        date, until = float(date), int(facts.get("until", 0))
        if "token" in facts:
            assert date == int(facts["end"])
        elif until > self.now:
            assert date <= until
        else:
            dates = [float(d) for d in seen["waiting"].values()]
            failed = [d for d in dates if d > 0]
            first = min(failed if lane.wait and failed else dates)
            probe = until > 0
            assert date <= self.now if first <= self.now or probe else date == first

    def settle_down(self) -> None:
        """The quiet end: everything works, and comes to an end."""
        for lane in self.lanes.values():
            if lane.stopped or not lane.enabled:
                i = self.instances[lane.i]
                lane.stopped, lane.enabled = False, True
                i.revision += 1
                self.push(i)
        for _ in range(3000):
            if not any(n.waiting for n in self.lanes.values()):
                break
            drain = self.luck.choice(self.drains)
            self.step_drain(drain, calm=True)
            waits = not any(each.works for each in self.drains)
            if self.luck.random() < (0.5 if waits else 0.05):
                self.pass_time(3000)
        for drain in self.drains:
            drain.works.clear()
        self.check()
        assert not any(n.waiting for n in self.lanes.values()), "not everything came to an end"
        self.clear_away()
        self.check()
        self.check_nothing_left()

    def clear_away(self) -> None:
        for _ in range(200):
            self.bury()
            if not self.redis.scard(PRE + "graves"):
                break
        while self.outbox.run(verbs.sweep(P, n=100)):
            pass
        self.pass_time(10_000_000)
        for i in self.instances:
            while any(self.outbox.run(verbs.trim(P, i, entries=0, seconds=0, n=100))):
                pass
            assert self.redis.xlen(f"{PRE}outbox:{i}") == 0, "an entry that nobody has"
        assert not list(self.redis.scan_iter(f"{PRE}body:*")), "a body without an entry"
        assert not list(self.redis.scan_iter(f"{PRE}unwanted:*"))
        assert int(self.redis.get(f"{PRE}storing") or 0) == 0

    def check_nothing_left(self) -> None:
        left = [k.decode() for k in self.redis.scan_iter(f"{PRE}*")]
        for i in self.instances:
            ids = self.redis.zrange(f"{PRE}seen:{i}", 0, -1)
            assert sorted(self.redis.hkeys(f"{PRE}prints:{i}")) == sorted(ids)
            assert len(ids) <= self.limits.seen_ids
        assert [k for k in left if ":early:" in k] == []
        for gone in self.deleted | self.deleted_lanes:
            assert [k for k in left if gone in k and k != f"{PRE}config:{gone}"] == []
        for z in ("due", "alone", "oldest"):
            for sink in SINKS:
                for s in self.redis.zrange(f"{PRE}{z}:{sink}", 0, -1):
                    assert s.decode() in self.lanes


def run_schedule(client: redis.Redis, seed: int, steps: int = 150) -> World:
    """One schedule; raises AssertionError where something does not hold.

    Windows are small, so that a hold asks for more in the middle of its work.
    """
    usual = lanes.WINDOW, lanes.LOW_WATER
    lanes.WINDOW, lanes.LOW_WATER = random.Random(seed).choice([(3, 2), (6, 3), usual])
    world = World(client, seed)
    try:
        return _run(world, seed, steps)
    finally:
        world.outbox.close()
        lanes.WINDOW, lanes.LOW_WATER = usual


def _run(world: World, seed: int, steps: int) -> World:
    for step in range(2 * steps if world.trouble else steps):
        roll = world.luck.random()
        if world.trouble and world.luck.random() < 0.5:
            world.step_drain(world.luck.choice(world.drains))
        elif roll < 0.22:
            world.emit()
        elif roll < 0.30:
            world.chores()
        elif roll < 0.34:
            world.operator()
        elif roll < 0.345:
            world.delete()
        elif roll < 0.37:
            world.requeue()
        elif roll < 0.38:
            world.replay()
        elif roll < (0.46 if world.trouble else 0.41):
            world.by_hand()
        elif roll < 0.50:
            world.pass_time()
        else:
            world.step_drain(world.luck.choice(world.drains))
        try:
            world.check()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, step {step}: {error}") from error
    world.settle_down()
    return world
