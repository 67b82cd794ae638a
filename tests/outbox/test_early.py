"""Tries outside the schedule: by hand, by a change of settings, by a recovery."""

from __future__ import annotations

from itertools import pairwise

import pytest
import redis

from evoflask.outbox import Ended, Held, LaneConfig, NewEntry, Outbox, Want, verbs
from evoflask.outbox.verbs import Limits

WAITING, TRIES, EARLY, LANE = (
    "evo:{p0}:waiting:s1",
    "evo:{p0}:tries:s1",
    "evo:{p0}:early:s1",
    "evo:{p0}:lane:s1",
)
HOUR = 3600.0


@pytest.fixture
def outbox(redis_client: redis.Redis) -> Outbox:
    """An instance `i1` with one lane, `s1`."""
    box = Outbox(redis_client)
    change(box, 1)
    return box


def change(outbox: Outbox, version: int, **flags: bool) -> None:
    lane = LaneConfig("s1", "webhook", True, version=version, **flags)  # type: ignore[arg-type]
    outbox.run(verbs.configure(0, "i1", version, "e1", [lane]))


def append(outbox: Outbox, n: int, first: int = 0) -> None:
    entries = [
        NewEntry(f"id{k}", False, "CALL", b"{}", b"{}", (("s1", f"k{k}"),))
        for k in range(first, first + n)
    ]
    revision = int(outbox.redis.hget("evo:{p0}:config:i1", "revision"))
    outbox.run(verbs.append(0, "i1", revision, "e1", entries, Limits()))


def take(outbox: Outbox, token: str, ids: int = 256) -> list[Held]:
    call = verbs.take(0, "webhook", token, hold=5, lanes=1, ids=ids)
    return list(outbox.run(call).lanes)


def settle(outbox: Outbox, held: Held, *ended: Ended, **how: object) -> verbs.Settled:
    how = {"hold": 0} | how
    return outbox.run(verbs.settle(0, "s1", held.token, ended, **how))  # type: ignore[arg-type]


def fail_all(outbox: Outbox, n: int, *, delay: float = HOUR) -> list[str]:
    """Append `n` events that each fail once. Return their members."""
    append(outbox, n)
    members = [m.decode() for m in outbox.redis.zrange(WAITING, 0, -1)]
    (held,) = take(outbox, "first")
    settle(outbox, held, *(Ended("r", m, 1, delay=delay + k) for k, m in enumerate(members)))
    return members


def dates(outbox: Outbox) -> dict[str, float]:
    return {m.decode(): d for m, d in outbox.redis.zrange(WAITING, 0, -1, withscores=True)}


def tries(outbox: Outbox) -> set[int]:
    return {int(n) for n in outbox.redis.hvals(TRIES)}


@pytest.mark.parametrize("times", [1, 12])
def test_a_probe_that_fails_costs_neither_a_try_nor_the_date(outbox: Outbox, times: int) -> None:
    [member] = fail_all(outbox, 1)
    before = dates(outbox)

    for n in range(times):
        assert outbox.run(verbs.probe(0, "s1")) == "ok"
        (held,) = take(outbox, f"t{n}")
        assert (held.ids, held.early) == ([(member, 1)], {member: "probe"})
        settle(outbox, held, Ended("e", member, 2, tried=False))

    assert dates(outbox) == before
    assert tries(outbox) == {1}
    assert take(outbox, "later") == []


def test_a_probe_of_a_pause_leaves_the_pause_its_end_and_a_new_event_new(outbox: Outbox) -> None:
    append(outbox, 2)
    (held,) = take(outbox, "t1")
    until = verbs_now(outbox) + 900_000
    settle(outbox, held, facts={"until": until, "pauses": 3, "failures": 5})

    assert outbox.run(verbs.probe(0, "s1")) == "ok"
    assert outbox.run(verbs.probe(0, "s1")) == "ok"  # another operator, before it was taken
    (held,) = take(outbox, "t2")

    ((member, tried),) = held.ids
    assert (tried, held.early, held.probe) == (0, {member: "probe"}, True)
    assert held.broke == until / 1000
    settle(outbox, held, Ended("e", member, 1, tried=False), facts={"until": until})
    assert set(dates(outbox).values()) == {0.0}
    assert outbox.redis.hlen(TRIES) == 0
    assert take(outbox, "t3") == []
    assert outbox.redis.zscore("evo:{p0}:due:webhook", "s1") == until


def test_a_pause_that_ends_by_itself_is_probed_by_the_schedule(outbox: Outbox) -> None:
    append(outbox, 1)
    (held,) = take(outbox, "t1")
    settle(outbox, held, facts={"until": 1, "pauses": 3, "failures": 5})

    (held,) = take(outbox, "t2")

    assert (held.probe, held.broke, held.early) == (True, 0.0, {})


@pytest.mark.parametrize("times", [1, 12])
def test_changes_of_settings_cost_neither_tries_nor_dates(outbox: Outbox, times: int) -> None:
    members = fail_all(outbox, 2)
    before = dates(outbox)

    for n in range(times):
        change(outbox, n + 2)
        while max(dates(outbox).values()) > verbs_now(outbox):
            pass
        (held,) = take(outbox, f"t{n}")
        assert held.early == dict.fromkeys(members, "change")
        settle(outbox, held, *(Ended("e", m, 2) for m in members))

    assert dates(outbox) == before
    assert tries(outbox) == {1}


def test_a_change_of_settings_ends_a_pause_and_the_next_one_is_as_long(outbox: Outbox) -> None:
    append(outbox, 1)
    (held,) = take(outbox, "t1")
    settle(outbox, held, facts={"until": 9_999_999_999_999, "pauses": 4, "failures": 5})

    change(outbox, 2)
    change(outbox, 3)

    (held,) = take(outbox, "t2")
    assert not held.probe
    assert (held.breaker["pauses"], held.breaker["failures"]) == ("3", "0")


def test_a_settle_that_is_repeated_restores_once_and_a_try_by_old_settings_changes_nothing(
    outbox: Outbox,
) -> None:
    [member] = fail_all(outbox, 1)
    outbox.run(verbs.probe(0, "s1"))
    (held,) = take(outbox, "t1")
    before = dates(outbox)

    stale = settle(outbox, held, Ended("r", member, 2, tried=False), hold=5)
    assert (stale.applied, dates(outbox), tries(outbox)) == (0, before, {1})
    ended = Ended("e", member, 2, tried=False)
    first = settle(outbox, held, ended, hold=5)
    again = settle(outbox, held, ended, hold=5)

    assert (first.applied, again.applied) == (1, 0)
    assert tries(outbox) == {1}


def test_a_new_event_that_was_tried_by_old_settings_stays_new(outbox: Outbox) -> None:
    append(outbox, 1)
    (held,) = take(outbox, "t1")
    ((member, _),) = held.ids

    answer = settle(outbox, held, Ended("r", member, 1, tried=False), hold=5, want=Want(4))

    assert answer.ids == [(member, 0)]
    assert outbox.redis.hlen(TRIES) == 0


def test_an_early_try_of_a_drain_that_was_killed_is_early_again(outbox: Outbox) -> None:
    [member] = fail_all(outbox, 1)
    outbox.run(verbs.probe(0, "s1"))
    call = verbs.take(0, "webhook", "killed", hold=0.001, lanes=1, ids=4)
    assert outbox.run(call).lanes
    while not (again := take(outbox, "next")):
        pass

    assert (again[0].ids, again[0].early) == ([(member, 1)], {member: "probe"})


def test_an_early_try_whose_date_came_meanwhile_is_one_of_the_schedule(outbox: Outbox) -> None:
    [member] = fail_all(outbox, 1, delay=0.05)
    outbox.run(verbs.probe(0, "s1"))
    while dates(outbox)[member] > verbs_now(outbox) or mark_of(outbox, member) > verbs_now(outbox):
        pass

    (held,) = take(outbox, "t1")

    assert (held.ids, held.early) == ([(member, 1)], {})


def by_a_clock_ahead(outbox: Outbox, seconds: float) -> None:
    """Date what the lane has as a clock would have that is so far ahead."""
    ahead = int(seconds * 1000)
    for member, at in dates(outbox).items():
        outbox.redis.zadd(WAITING, {member: at + ahead})
    for member, mark in outbox.redis.hgetall(EARLY).items():
        tried, at, cause = mark.split()
        outbox.redis.hset(EARLY, member, b"%s %d %s" % (tried, int(at) + ahead, cause))


@pytest.mark.parametrize("cause", ["probe", "change"])
def test_an_early_try_stays_early_where_redis_clock_goes_back(outbox: Outbox, cause: str) -> None:
    members = fail_all(outbox, 2)
    before = dates(outbox)
    if cause == "probe":
        outbox.run(verbs.probe(0, "s1"))
        members = members[:1]
    else:
        change(outbox, 2)
    by_a_clock_ahead(outbox, 1800)

    at = verbs_now(outbox) / 1000 + 900
    while at:
        at = outbox.run(verbs.rewind(0, "s1", back=1800, since=at, hold=5, n=1))
    while any(dates(outbox)[m] > verbs_now(outbox) for m in members):
        pass
    (held,) = take(outbox, "t1")

    assert held.early == dict.fromkeys(members, cause)
    settle(outbox, held, *(Ended("e", m, 2) for m in members))
    assert dates(outbox) == pytest.approx(before)
    assert tries(outbox) == {1}


def test_a_probe_of_a_pause_stays_one_where_redis_clock_goes_back(outbox: Outbox) -> None:
    append(outbox, 1)
    (held,) = take(outbox, "t1")
    ahead = verbs_now(outbox) + 1_800_000
    facts = {"until": ahead, "probed": f"{ahead} {ahead + 900_000}", "pauses": 3, "failures": 5}
    settle(outbox, held, facts=facts)

    since = verbs_now(outbox) / 1000 + 900
    outbox.run(verbs.rewind(0, "s1", back=1800, since=since, hold=5, n=10))
    while not (again := take(outbox, "t2")):
        pass

    assert set(again[0].early.values()) == {"probe"}
    assert again[0].broke == pytest.approx((ahead - 900_000) / 1000, abs=0.002)


def test_a_lane_that_recovers_brings_its_retries_forward_a_piece_at_a_time(
    outbox: Outbox,
) -> None:
    members = fail_all(outbox, 120)
    append(outbox, 1, first=500)
    (held,) = take(outbox, "t1", ids=1)
    ((new, _),) = held.ids
    now = verbs_now(outbox)

    settle(outbox, held, Ended("d", new, 1))

    near = sorted((d, m) for m, d in dates(outbox).items() if d < now + 600_000)
    assert [m for _, m in near] == members[:50]
    assert near[0][0] <= verbs_now(outbox)
    assert all(b - a <= 100 for (a, _), (b, _) in pairwise(near))
    assert near[-1][0] >= now + 49 * 50
    # No second piece before the first one is due.
    (held,) = take(outbox, "t2")
    assert set(held.early.values()) == {"recovery"}
    settle(outbox, held)
    assert sum(d < now + 600_000 for d in dates(outbox).values()) == 50
    outbox.redis.hset(LANE, "recalled", now)
    (held,) = take(outbox, "t3")
    settle(outbox, held)
    assert sum(d < now + 600_000 for d in dates(outbox).values()) == 100


def test_a_recovery_brings_each_retry_forward_once(outbox: Outbox) -> None:
    [poison] = fail_all(outbox, 1)
    before = dates(outbox)

    early = 0
    for n in range(5):
        append(outbox, 1, first=10 + n)
        (held,) = take(outbox, f"n{n}", ids=8)
        early += len(held.early)
        fates = [Ended("e" if t else "d", m, t + 1) for m, t in held.ids]
        settle(outbox, held, *sorted(fates, key=lambda e: e.kind, reverse=True))
        for again in take(outbox, f"p{n}"):
            early += len(again.early)
            settle(outbox, again, Ended("e", poison, 2))

    assert early == 1
    assert dates(outbox) == before
    assert tries(outbox) == {1}


def test_a_lane_that_pauses_brings_nothing_more_forward(outbox: Outbox) -> None:
    fail_all(outbox, 120)
    change(outbox, 2)
    (held,) = take(outbox, "t1")
    outbox.redis.hset(LANE, "recalled", 1)

    settle(outbox, held, facts={"until": 9_999_999_999_999, "pauses": 1, "failures": 5})

    assert outbox.redis.hget(LANE, "recall") is None
    assert outbox.redis.hlen(EARLY) == 50


def test_what_a_process_of_the_release_before_did_with_an_early_try_stands(outbox: Outbox) -> None:
    [member] = fail_all(outbox, 1)
    outbox.run(verbs.probe(0, "s1"))
    # An older release knows no marks. It charges the try, and dates the next one by its schedule.
    later = verbs_now(outbox) + 50_000
    outbox.redis.hset(TRIES, member, 2)
    outbox.redis.zadd(WAITING, {member: later}, xx=True)

    assert outbox.run(verbs.probe(0, "s1")) == "ok"
    (held,) = take(outbox, "t1")
    settle(outbox, held, Ended("e", member, 3, tried=False))

    assert held.ids == [(member, 2)]
    assert dates(outbox) == {member: later}
    assert tries(outbox) == {2}


@pytest.mark.parametrize("how", ["delivered", "dead", "purged", "deleted"])
def test_nothing_is_left_of_early_tries_once_their_lane_is_empty(outbox: Outbox, how: str) -> None:
    [member] = fail_all(outbox, 1)
    outbox.run(verbs.probe(0, "s1"))
    assert outbox.redis.hlen(EARLY) == 1

    if how == "purged":
        outbox.run(verbs.purge(0, "s1", 1))
    elif how == "deleted":
        outbox.run(verbs.configure(0, "i1", 2, "e1", []))
    else:
        (held,) = take(outbox, "t1")
        settle(outbox, held, Ended("d" if how == "delivered" else "x", member, 2, why="{}"))

    assert not outbox.redis.exists(EARLY)
    assert not outbox.redis.hexists(LANE, "early")


def verbs_now(outbox: Outbox) -> int:
    seconds, micro = outbox.redis.time()
    return seconds * 1000 + micro // 1000


def mark_of(outbox: Outbox, member: str) -> float:
    """Return the date that an early retry had."""
    return float(outbox.redis.hget(EARLY, member).split()[1])
