"""Single verbs, where a schedule of the model does not come by."""

from __future__ import annotations

import re

import pytest
import redis

from evoflask.dev.process import wait_for
from evoflask.outbox import LaneConfig, Limits, NewEntry, Outbox, keys, verbs
from evoflask.outbox.feed import START, Feed
from evoflask.outbox.verbs import Ended, Held, Want

HOOK = LaneConfig("s1", "webhook", True)


@pytest.fixture
def outbox(redis_client: redis.Redis) -> Outbox:
    """An instance `i1` with one lane, `s1`."""
    box = Outbox(redis_client)
    box.run(verbs.configure(0, "i1", 1, "e1", [HOOK]))
    return box


def entry(n: int, *, given: bool = False, data: bytes = b"{}", mark: bytes = b"a") -> NewEntry:
    return NewEntry(f"id{n}", given, "CALL", b"{}", data, (("s1", "-"),), print=mark)


def append(outbox: Outbox, *entries: NewEntry, **limits: float) -> verbs.Appended:
    return outbox.run(verbs.append(0, "i1", 1, "e1", entries, Limits(**limits)))  # type: ignore[arg-type]


def test_every_key_that_a_script_names_is_in_the_drawing() -> None:
    named = set()
    verbs_ = "append take settle renew bury trim expire configure find probe skip purge ask answer"
    verbs_ += " scan rewind share recount resum bytes sweep"
    for name in verbs_.split():
        named |= set(re.findall(r"P \.\. \(?'([a-z]+)[:']", verbs.script(name).text))

    drawn = set(re.findall(r"evo:\{pN\}:([a-z]+)", keys.__doc__ or ""))
    assert named - {"nothing"} <= drawn


def test_drains_hear_of_each_other_until_they_sleep_or_are_gone(outbox: Outbox) -> None:
    def told(drain: str, lanes: int, seconds: float = 60) -> list[int]:
        return outbox.run(verbs.share(0, "webhook", drain, lanes, seconds))

    assert told("a", 3) == []
    assert told("b", 5) == [3]
    assert told("a", 4) == [5]
    assert outbox.run(verbs.share(0, "nats", "c", 1, 60)) == []

    assert told("b", 0, 0) == [4]
    assert told("a", 4) == []

    told("b", 7, 0.05)
    wait_for(lambda: told("a", 4) == [], 5, "the one that told no more")


def test_a_restored_database_that_does_not_know_a_lane_keeps_it(
    outbox: Outbox, redis_client: redis.Redis
) -> None:
    append(outbox, entry(1))

    answer = outbox.run(verbs.configure(0, "i1", 1, "another-epoch", []))

    assert answer.discarded == {}
    assert outbox.run(verbs.look(0, ["s1"]))[0].waiting == 1
    assert outbox.run(verbs.take(0, "webhook", "t", hold=5, lanes=1, ids=1)).lanes == []
    again = verbs.configure(0, "i1", 2, "another-epoch", [HOOK])
    outbox.run(again)
    assert len(outbox.run(verbs.take(0, "webhook", "t2", hold=5, lanes=1, ids=1)).lanes) == 1


def test_a_subscription_that_was_changed_need_not_wait_for_its_pause_or_its_retries(
    outbox: Outbox,
) -> None:
    append(outbox, entry(1))
    (held,) = outbox.run(verbs.take(0, "webhook", "t", hold=5, lanes=1, ids=1)).lanes
    failed = Ended("r", held.ids[0][0], 1, delay=3600)
    facts: dict[str, str | int] = {"until": 9_999_999_999_999, "failures": 5}
    outbox.run(verbs.settle(0, "s1", held.token, [failed], hold=0, facts=facts))
    assert outbox.run(verbs.take(0, "webhook", "t2", hold=5, lanes=1, ids=1)).lanes == []

    changed = LaneConfig("s1", "webhook", True, version=1)
    outbox.run(verbs.configure(0, "i1", 2, "e1", [changed]))

    (held,) = outbox.run(verbs.take(0, "webhook", "t3", hold=5, lanes=1, ids=1)).lanes
    assert held.ids == [(failed.member, 1)]


def test_a_clock_that_went_back_takes_a_lanes_dates_along_and_leaves_a_hold_that_was_renewed(
    outbox: Outbox, redis_client: redis.Redis
) -> None:
    append(outbox, entry(1), entry(2), entry(3))
    held = outbox.run(verbs.take(0, "webhook", "t", hold=5, lanes=1, ids=3)).lanes[0]
    facts = {"until": 9_999_999_999_999}
    outbox.run(verbs.settle(0, "s1", held.token, [], hold=5, facts=facts))
    key, now = "evo:{p0}:waiting:s1", float(redis_client.time()[0])
    redis_client.zadd(key, dict.fromkeys(redis_client.zrange(key, 0, -1), (now + 3600) * 1000))
    end = redis_client.hget("evo:{p0}:lane:s1", "end")

    at, calls = now + 1800, 0
    while at:
        call = verbs.rewind(0, "s1", back=3600, since=at, hold=5, n=2)
        at, calls = outbox.run(call), calls + 1

    dates = [date for _, date in redis_client.zrange(key, 0, -1, withscores=True)]
    assert calls == 2
    assert len(dates) == 3
    assert [round(date / 1000 - now, -2) for date in dates] == [0.0] * 3
    assert redis_client.hget("evo:{p0}:lane:s1", "end") == end
    assert redis_client.hget("evo:{p0}:lane:s1", "until") == b"9999996399999"


def test_a_lane_that_waits_for_what_failed_is_not_looked_at_before(outbox: Outbox) -> None:
    outbox.run(verbs.configure(0, "i1", 1, "e1", [LaneConfig("s1", "webhook", True, wait=True)]))
    append(outbox, entry(1), entry(2))
    (held,) = outbox.run(verbs.take(0, "webhook", "t", hold=5, lanes=1, ids=1)).lanes

    failed = Ended("r", held.ids[0][0], 1, delay=3600)
    answer = outbox.run(verbs.settle(0, "s1", held.token, [failed], hold=0))

    assert not answer.due
    assert outbox.run(verbs.take(0, "webhook", "t2", hold=5, lanes=1, ids=2)).lanes == []


def test_a_holder_that_ran_out_of_ids_is_told_once(
    outbox: Outbox, redis_client: redis.Redis
) -> None:
    append(outbox, entry(1))
    listening = redis_client.pubsub(ignore_subscribe_messages=True)
    listening.subscribe("evo:{p0}:wake:webhook")
    listening.get_message(timeout=1)
    outbox.run(verbs.take(0, "webhook", "t", hold=5, lanes=1, ids=10))

    append(outbox, entry(2))
    append(outbox, entry(3))

    messages = [listening.get_message(timeout=0.2) for _ in range(3)]
    assert [m["data"] for m in messages if m] == [b"s1"]


def test_what_is_beyond_the_window_of_ids_is_forgotten_oldest_first(outbox: Outbox) -> None:
    append(outbox, *(entry(n, given=True) for n in range(5)), seen_ids=3)

    answer = append(outbox, entry(0, given=True), entry(4, given=True), seen_ids=3)

    assert answer.duplicates == {1}


def test_a_fingerprint_goes_with_its_id(outbox: Outbox, redis_client: redis.Redis) -> None:
    seen, prints = keys.of(0, "seen:i1"), keys.of(0, "prints:i1")
    for start in range(0, 60, 20):
        append(outbox, *(entry(start + n, given=True) for n in range(20)), seen_ids=30)

    assert sorted(redis_client.hkeys(prints)) == sorted(redis_client.zrange(seen, 0, -1))
    assert redis_client.hlen(prints) == 30
    assert min(redis_client.pttl(prints), redis_client.pttl(seen)) > 0

    append(outbox, *(entry(100 + n, given=True) for n in range(5)), seen_ids=4)
    assert sorted(redis_client.hkeys(prints)) == sorted(redis_client.zrange(seen, 0, -1))
    assert redis_client.hlen(prints) == 4

    outbox.run(verbs.configure(0, "i1", 2, "e1", [], deleted=True))
    assert redis_client.exists(seen, prints) == 0


def test_fingerprints_whose_ids_the_release_before_forgot_are_bounded_and_judge_nothing(
    outbox: Outbox, redis_client: redis.Redis
) -> None:
    """Its append removes ids from `seen`, adds them with whole dates, and knows no `prints`."""
    seen, prints = keys.of(0, "seen:i1"), keys.of(0, "prints:i1")
    append(outbox, *(entry(n, given=True) for n in range(200)))
    date = int(redis_client.zscore(seen, "id0") or 0)
    redis_client.zremrangebyrank(seen, 0, 189)
    redis_client.zadd(seen, {"id0": date})

    again = append(outbox, entry(0, given=True, mark=b"other"))
    for n in range(200, 250):
        append(outbox, entry(n, given=True))

    assert (again.duplicates, again.conflicts) == ({0}, frozenset())
    assert redis_client.hlen(prints) <= redis_client.zcard(seen)
    assert append(outbox, entry(249, given=True, mark=b"other")).conflicts == {0}


def test_the_release_before_takes_what_this_one_stored_for_repeats(
    outbox: Outbox, redis_client: redis.Redis
) -> None:
    """It asks if the date of an id is younger than so many milliseconds."""
    before = redis_client.time()
    append(outbox, entry(0, given=True))

    date = redis_client.zscore(keys.of(0, "seen:i1"), "id0")

    assert date is not None
    assert date % 1 == 0.5
    assert date >= before[0] * 1000 + before[1] // 1000


def test_a_conflict_costs_nothing_of_the_rate_and_moves_no_book(
    outbox: Outbox, redis_client: redis.Redis
) -> None:
    allowed = {"events_per_second": 0.1, "burst": 2}
    append(outbox, entry(0, given=True), **allowed)

    answer = append(
        outbox, entry(0, given=True, mark=b"b"), entry(1), entry(0, given=True), **allowed
    )

    assert (answer.status, answer.duplicates, answer.conflicts) == ("ok", {2}, {0})
    assert outbox.run(verbs.look(0, ["s1"]))[0].count("routed") == 2
    totals = redis_client.hgetall(keys.of(0, "totals"))
    assert (totals[b"accepted"], totals[b"duplicates"], totals[b"conflicts"]) == (b"2", b"1", b"1")


def test_events_beyond_an_instances_rate_are_refused_whole_and_told_when_they_may_come(
    outbox: Outbox, redis_client: redis.Redis
) -> None:
    allowed = {"events_per_second": 0.1, "burst": 3}
    first = append(outbox, entry(0, given=True), entry(1), **allowed)

    refused = append(outbox, entry(2), entry(3), **allowed)
    repeat = append(outbox, entry(0, given=True), entry(2), **allowed)
    late = append(outbox, entry(3), **allowed)

    assert (first.status, refused.status) == ("ok", "limited")
    assert 9 < refused.wait <= 10
    assert (repeat.status, repeat.duplicates) == ("ok", {0})
    assert late.status == "limited"
    assert [f[b"id"] for _, f in redis_client.xrange(keys.outbox(0, "i1"))] == [
        b"id0",
        b"id1",
        b"id2",
    ]
    assert outbox.run(verbs.look(0, ["s1"]))[0].waiting == 3
    assert redis_client.hget(keys.of(0, "totals"), "limited") == b"3"


def test_a_rate_that_was_paid_far_ahead_makes_nobody_wait_longer_than_a_burst(
    outbox: Outbox, redis_client: redis.Redis
) -> None:
    """Redis' clock was set back, or the operator took a smaller rate back."""
    redis_client.hset(keys.of(0, "config:i1"), "paid", 9e15)

    answer = append(outbox, entry(0), events_per_second=10, burst=100)

    assert answer.status == "limited"
    assert answer.wait <= 0.1


def test_a_full_redis_refuses_an_append_whole_and_lets_the_backlog_go(
    outbox: Outbox, redis_client: redis.Redis
) -> None:
    body = b'"%s"' % (b"x" * 20_000)
    for n in range(0, 50, 10):
        append(outbox, *(entry(k, data=body) for k in range(n, n + 10)), retain_entries=0)
    used = redis_client.info("memory")["used_memory"]
    redis_client.config_set("maxmemory", used)
    try:
        refused = append(outbox, entry(99, data=body))
        assert (refused.status, refused.full) == ("full", "memory")
        for token in ("first", "rest"):  # a lane without a success gives out two
            (held,) = outbox.run(verbs.take(0, "webhook", token, hold=5, lanes=1, ids=60)).lanes
            assert outbox.run(verbs.renew(0, [("s1", held.token)], hold=5)) == []
            ended = [Ended("d", member, 1) for member, _ in held.ids]
            answer = outbox.run(verbs.settle(0, "s1", held.token, ended, hold=0))
            assert answer.applied == len(ended)
        while outbox.run(verbs.trim(0, "i1", entries=0, seconds=0, n=100))[0]:
            pass
    finally:
        redis_client.config_set("maxmemory", "1gb")

    assert outbox.run(verbs.look(0, ["s1"]))[0].waiting == 0
    assert redis_client.info("memory")["used_memory"] < used - 40 * 20_000


def test_of_two_lanes_the_heavy_one_is_refused_when_memory_is_short(
    outbox: Outbox, redis_client: redis.Redis
) -> None:
    outbox.run(verbs.configure(0, "i2", 1, "e1", [LaneConfig("s2", "webhook", True)]))
    light = NewEntry("light", False, "CALL", b"{}", b"{}", (("s2", "-"),))
    # Ten megabytes: what other tests left in this Redis counts as keys of others.
    for at in range(0, 500, 50):
        append(outbox, *(entry(n, data=b'"%s"' % (b"x" * 20_000)) for n in range(at, at + 50)))
    used = redis_client.info("memory")["used_memory"]
    redis_client.config_set("maxmemory", int(used / 0.9))
    try:
        refused = append(outbox, entry(99))
        accepted = outbox.run(verbs.append(0, "i2", 1, "e1", [light], Limits()))
    finally:
        redis_client.config_set("maxmemory", "1gb")

    assert (refused.status, refused.full) == ("full", "share")
    assert accepted.status == "ok"


def told(n: int, *, given: bool = False) -> NewEntry:
    """What only websockets want."""
    return NewEntry(f"ws{n}", given, "CALL", b"{}", b"%d" % n, (), ws=True)


@pytest.fixture
def feed(outbox: Outbox, redis_client: redis.Redis) -> Feed:
    """Its reader."""
    return Feed(outbox, redis_client)


def test_what_only_websockets_want_is_kept_numbered_and_told_once(
    outbox: Outbox, feed: Feed
) -> None:
    marks = feed.ends([0])
    append(outbox, entry(1), told(1, given=True), entry(2), told(2))
    append(outbox, told(1, given=True))
    append(outbox, entry(3))

    (line,) = feed.wait(marks, 0.1)

    assert (line.outbox, line.count, line.number) == ("i1", 2, 1)
    (entries,) = feed.ranges([(0, "i1", line.first, line.last)])
    assert [(e.event_id, e.number, e.data) for e in entries] == [("ws1", 1, b"1"), ("ws2", 2, b"2")]
    assert outbox.run(verbs.look(0, ["s1"]))[0].waiting == 3
    assert feed.tail(0, "i1").number == 2


def test_a_requeued_entry_is_not_told(outbox: Outbox, feed: Feed) -> None:
    marks = feed.ends([0])
    outbox.run(verbs.append(0, "i1", 1, "e1", [entry(1)], Limits(), requeue=True))

    assert feed.wait(marks, 0.01) == []
    assert feed.page(0, "i1", START, 10).entries == []


def test_a_retention_of_nothing_leaves_websockets_the_last_ones_for_a_moment(
    outbox: Outbox, feed: Feed
) -> None:
    for n in range(20):
        append(outbox, told(n), retain_entries=0, retain_seconds=0)

    page = feed.page(0, "i1", START, 100)

    assert [each.number for each in page.entries] == list(range(13, 21))
    assert feed.tail(0, "i1").edge < page.entries[0].id


def test_the_feed_is_capped(outbox: Outbox, redis_client: redis.Redis, feed: Feed) -> None:
    marks = feed.ends([0])
    for n in range(600):
        append(outbox, told(n), feed_lines=50)

    lines = feed.wait(marks, 0.1)

    assert redis_client.xlen("evo:{p0}:feed") < 250
    assert lines[-1].number == 600
    assert lines[0].number > 300  # and a reader sees that it missed some


def test_a_change_is_told_and_its_repeat_is_not(outbox: Outbox, feed: Feed) -> None:
    marks = feed.ends([0])
    for revision in (1, 2, 2):
        outbox.run(verbs.configure(0, "i1", revision, "e1", [HOOK]))
    outbox.run(verbs.configure(0, "new", 1, "e1", []))
    outbox.run(verbs.configure(0, "i1", 3, "e1", [], deleted=True))

    lines = feed.wait(marks, 0.1)

    assert [(line.outbox, line.count) for line in lines] == [("i1", 0), ("i1", 0)]


def test_a_full_redis_refuses_what_only_websockets_want(
    outbox: Outbox, redis_client: redis.Redis
) -> None:
    append(outbox, told(1))
    redis_client.config_set("maxmemory", redis_client.info("memory")["used_memory"])
    try:
        refused = append(outbox, told(2))
    finally:
        redis_client.config_set("maxmemory", "1gb")

    assert (refused.status, refused.full) == ("full", "memory")


def take_next(outbox: Outbox, token: str, *, alone: bool) -> Held:
    """The lane, as soon as the hold before is over; this one lasts a moment."""
    found: list[Held] = []

    def taken() -> bool:
        call = verbs.take(0, "webhook", token, hold=0.005, lanes=1, ids=1, alone=alone)
        found.extend(outbox.run(call).lanes)
        return bool(found)

    wait_for(taken, 5)
    return found[0]


def test_an_entry_is_blamed_only_for_lost_holds_in_which_it_was_started(outbox: Outbox) -> None:
    append(outbox, entry(1))
    for n in range(3):
        take_next(outbox, f"q{n}", alone=False)

    def is_quarantined() -> bool:
        outbox.run(verbs.take(0, "webhook", "q", hold=0.005, lanes=1, ids=1))
        return outbox.run(verbs.look(0, ["s1"]))[0].count("lost") == 3

    wait_for(is_quarantined, 5)

    def hold(n: int, *, starts: bool) -> None:
        held = take_next(outbox, f"a{n}", alone=True)
        if starts:
            mark = Want(mark=held.ids[0][0])
            assert outbox.run(verbs.settle(0, "s1", held.token, [], hold=0.005, want=mark)).held

    for n in range(6):
        hold(n, starts=True)
    for n in range(6, 20):
        hold(n, starts=False)  # the answer never arrived
    assert outbox.run(verbs.look(0, ["s1"]))[0].dying == 0
    hold(20, starts=True)

    def is_dying() -> bool:
        outbox.run(verbs.take(0, "webhook", "last", hold=0.005, lanes=1, ids=1, alone=True))
        return outbox.run(verbs.look(0, ["s1"]))[0].dying == 1

    wait_for(is_dying, 5)


def test_ids_whose_time_is_over_are_forgotten_as_fast_as_batches_bring_new_ones(
    outbox: Outbox, redis_client: redis.Redis
) -> None:
    kept = keys.of(0, "seen:i1")

    def batch(n: int) -> None:
        append(outbox, *(entry(n * 10 + m, given=True) for m in range(10)), seen_seconds=0.2)

    def is_over() -> bool:
        """Redis' clock is past the time of the newest."""
        seconds, micros = redis_client.time()
        newest = redis_client.zrange(kept, -1, -1, withscores=True)
        return not newest or (seconds * 1e3 + micros / 1e3) - newest[0][1] > 201

    for n in range(4):
        batch(n)
        redis_client.persist(kept)  # or all would go at once, as where nobody emits
        wait_for(is_over, 5)

    batch(4)
    assert redis_client.zcard(kept) <= 20
